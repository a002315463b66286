/* A process is not known by its number alone: a child in a namespace of its own can have its parent's. */

#define _GNU_SOURCE

#include <sched.h>

#include "../check.h"

#include <sys/wait.h>
#include <unistd.h>

/* Forks into a new namespace, where the child is process 1. Gives how the child ended. */
static int in_namespace(void (*child)(void), const char *what) {
    int status;
    pid_t pid;
    if (unshare(CLONE_NEWPID) != 0) {
        printf("skipped: no namespace for %s\n", what);
        fflush(stdout);
        return 77;
    }
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        /* Whatever hangs ends here. */
        alarm(PATIENCE);
        CHECK(getpid() == 1);
        child();
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static end server;

static void uses_its_parents_pipe(void) {
    RETURNS(WRONG_STATE, asyncipc_send(server.pipe, "x", 1));
    CHECK(strstr(asyncipc_last_error(), "fork") != NULL);
    RETURNS(WRONG_STATE, asyncipc_exit(server.pipe));
    SUCCEEDS(asyncipc_destroy(server.pipe));
}

static void has_a_pipe(void) {
    int ended;
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &server.pipe));
    SUCCEEDS(asyncipc_create(server.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    /* With nobody in the middle of anything: its locks would stay locked in the child. */
    WAIT_FOR(server.told[CREATED] == 1 && !server.inside);
    ended = in_namespace(uses_its_parents_pipe, "the child's child");
    SUCCEEDS(asyncipc_destroy(server.pipe));
    if (ended != 0) _exit(ended);
}

int main(int argc, char **argv) {
    int ended;
    CHECK(argc == 2);
    new_name(argv[1]);
    ended = in_namespace(has_a_pipe, "the child");
    CHECK(ended == 0 || ended == 77);
    puts("ok");
    return 0;
}
