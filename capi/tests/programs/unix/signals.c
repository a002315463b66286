/* The library's threads take no signal that the program waits for, and leave the caller's mask alone. */

#include "../check.h"

#include <signal.h>
#include <unistd.h>

static int blocks(int signal) {
    sigset_t mask;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0);
    return sigismember(&mask, signal);
}

static void look(end *it, enum what what, const void *data, size_t size) {
    (void)it, (void)what, (void)data, (void)size;
    CHECK(blocks(SIGTERM) && blocks(SIGINT) && blocks(SIGCHLD) && blocks(SIGPIPE));
    CHECK(!blocks(SIGSEGV) && !blocks(SIGBUS) && !blocks(SIGABRT));
}

int main(int argc, char **argv) {
    end server = {0};
    sigset_t mask;
    int taken = 0;
    CHECK(argc == 2);
    new_name(argv[1]);
    server.then = look;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &mask, NULL) == 0);

    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &server.pipe));
    SUCCEEDS(asyncipc_create(server.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    WAIT_FOR(server.told[CREATED] == 1);
    CHECK(blocks(SIGUSR1) && !blocks(SIGTERM) && !blocks(SIGPIPE));

    /* Would end the program in any thread that has it open. */
    sigaddset(&mask, SIGTERM);
    CHECK(pthread_sigmask(SIG_BLOCK, &mask, NULL) == 0);
    CHECK(kill(getpid(), SIGTERM) == 0);
    CHECK(sigwait(&mask, &taken) == 0 && taken == SIGTERM);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    puts("ok");
    return 0;
}
