/* A message that there is no memory for is an error, and one that is not sent takes none. */

#include "../check.h"

#include <sys/resource.h>

#define GIB ((size_t)1 << 30)

int main(int argc, char **argv) {
    const struct rlimit limit = {5 * GIB, 5 * GIB};
    end server = {0}, client = {0};
    void *message;
    CHECK(argc == 2);
    new_name(argv[1]);
    /* Once, and not twice. */
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    message = calloc(3, GIB);
    CHECK(message != NULL);

    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &server.pipe));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &client.pipe));
    SUCCEEDS(asyncipc_set_option(client.pipe, ASYNCIPC_OPTION_MAX_MESSAGE_SIZE, UINT32_MAX));
    RETURNS(WRONG_STATE, asyncipc_send(client.pipe, message, 3 * GIB));
    SUCCEEDS(asyncipc_create(server.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    RETURNS(NOT_CONNECTED, asyncipc_send(server.pipe, message, 3 * GIB));
    SUCCEEDS(asyncipc_create(client.pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, &client));
    WAIT_FOR(server.told[CONNECTED] == 1 && client.told[CONNECTED] == 1);

    RETURNS(MESSAGE_TOO_LARGE, asyncipc_send(server.pipe, message, 3 * GIB));
    RETURNS(MESSAGE_TOO_LARGE, asyncipc_send_to(server.pipe, server.client, message, 3 * GIB));
    RETURNS(NO_MEMORY, asyncipc_send(client.pipe, message, 3 * GIB));
    CHECK(strstr(asyncipc_last_error(), "3221225472 bytes") != NULL);
    RETURNS(NO_MEMORY, asyncipc_send_to(client.pipe, client.client, message, 3 * GIB));

    SUCCEEDS(asyncipc_send(client.pipe, message, 1000));
    WAIT_FOR(server.told[RECEIVED] == 1 && server.bytes_received == 1000);
    SUCCEEDS(asyncipc_destroy(client.pipe));
    SUCCEEDS(asyncipc_destroy(server.pipe));
    free(message);
    puts("ok");
    return 0;
}
