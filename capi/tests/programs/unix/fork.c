/* A child that was forked has no threads of its parent's: its pipes are errors there, and nothing hangs. */

#include "../check.h"

#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    end server = {0}, own = {0};
    int status;
    pid_t child;
    CHECK(argc == 2);
    new_name(argv[1]);
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &own.pipe));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &server.pipe));
    SUCCEEDS(asyncipc_create(server.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    /* With nobody in the middle of anything: its locks would stay locked in the child. */
    WAIT_FOR(server.told[CREATED] == 1 && !server.inside);

    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* Whatever hangs ends here. */
        alarm(PATIENCE);
        RETURNS(WRONG_STATE, asyncipc_send(server.pipe, "x", 1));
        CHECK(strstr(asyncipc_last_error(), "fork") != NULL);
        RETURNS(WRONG_STATE, asyncipc_disconnect(server.pipe, 1));
        RETURNS(WRONG_STATE, asyncipc_exit(server.pipe));
        RETURNS(WRONG_STATE,
                asyncipc_create(server.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
        SUCCEEDS(asyncipc_destroy(server.pipe));
        /* What was not created yet can be. */
        new_name(argv[1]);
        SUCCEEDS(asyncipc_create(own.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &own));
        WAIT_FOR(own.told[CREATED] == 1);
        SUCCEEDS(asyncipc_destroy(own.pipe));
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);

    SUCCEEDS(asyncipc_create(own.pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, &own));
    WAIT_FOR(server.told[CONNECTED] == 1);
    SUCCEEDS(asyncipc_destroy(own.pipe));
    SUCCEEDS(asyncipc_destroy(server.pipe));
    puts("ok");
    return 0;
}
