/* A server that can accept nobody any more has ended, and says so. */

#include "../check.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Puts something else in place of the socket that listens. Clients still find that. */
static void ruin(void) {
    int listens = 0, fd;
    socklen_t size = sizeof listens;
    for (fd = 3; fd < 1000; fd++)
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens) {
            int other = open("/", O_RDONLY);
            CHECK(other >= 0 && dup(fd) >= 0 && dup2(other, fd) == fd);
            close(other);
            return;
        }
    FAIL("nobody listens");
}

int main(int argc, char **argv) {
    end server = {0}, first = {0}, second = {0};
    CHECK(argc == 2);
    new_name(argv[1]);
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &server.pipe));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &first.pipe));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &second.pipe));
    SUCCEEDS(asyncipc_create(server.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    SUCCEEDS(asyncipc_create(first.pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, &first));
    WAIT_FOR(server.told[CONNECTED] == 1 && first.told[CONNECTED] == 1);

    ruin();
    SUCCEEDS(asyncipc_create(second.pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, &second));
    WAIT_FOR(server.told[DISCONNECTED] == 2);
    CHECK(server.client == 0 && server.result == ASYNCIPC_RESULT_IO);
    CHECK(strstr(server.text, argv[1]) != NULL);
    RETURNS(NOT_CONNECTED, asyncipc_send(server.pipe, "hello", 5));

    /* It can begin again. */
    new_name(argv[1]);
    SUCCEEDS(asyncipc_create(server.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    SUCCEEDS(asyncipc_exit(server.pipe));
    CHECK(server.told[CREATED] == 2 && server.told[DISCONNECTED] == 2);

    SUCCEEDS(asyncipc_destroy(second.pipe));
    SUCCEEDS(asyncipc_destroy(first.pipe));
    SUCCEEDS(asyncipc_destroy(server.pipe));
    CHECK(server.told[DISCONNECTED] == 2);
    puts("ok");
    return 0;
}
