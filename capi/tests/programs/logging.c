/* Pipes that log everything they do, wherever standard error leads. */

#include "check.h"

int main(int argc, char **argv) {
    end server = {0}, client = {0};
    CHECK(argc == 2);
    new_name(argv[1]);
    SUCCEEDS(asyncipc_init_logging("logging"));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &server.pipe));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &client.pipe));
    SUCCEEDS(asyncipc_create(server.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    SUCCEEDS(asyncipc_create(client.pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, &client));
    WAIT_FOR(server.told[CONNECTED] == 1 && client.told[CONNECTED] == 1);
    SUCCEEDS(asyncipc_send(client.pipe, "hello", 5));
    WAIT_FOR(server.told[RECEIVED] == 1);
    SUCCEEDS(asyncipc_destroy(client.pipe));
    WAIT_FOR(server.told[DISCONNECTED] == 1);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    puts("ok");
    return 0;
}
