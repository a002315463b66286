/* What must be an error, and not a crash. */

#include "check.h"

#define SAYS(part) \
    (strstr(asyncipc_last_error(), part) != NULL ? (void)0 : FAIL("the error does not say %s", part))

int main(int argc, char **argv) {
    asyncipc_pipe *pipe = (asyncipc_pipe *)&pipe, *client = NULL, *stranger, *nowhere = NULL;
    end server = {0};
    asyncipc_result result;
    char bad[] = "b\xFF\xFE", longest[70000];

    CHECK(argc == 2);
    new_name(argv[1]);
    CHECK(strcmp(asyncipc_last_error(), "") == 0);

    /* Creating an instance. */
    RETURNS(INVALID_ARGUMENT, asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, NULL));
    RETURNS(INVALID_ARGUMENT, asyncipc_create_instance(2, &pipe));
    SAYS("asyncipc_kind 2");
    CHECK(pipe == NULL);
    RETURNS(INVALID_ARGUMENT, asyncipc_create_instance(-1, &pipe));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_OVERLAPPED, &client));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &pipe));
    CHECK(pipe != NULL && client != NULL && pipe != client);

    /* Handles that are none. */
    stranger = (asyncipc_pipe *)argv;
    RETURNS(INVALID_ARGUMENT, asyncipc_set_option(NULL, ASYNCIPC_OPTION_QUEUE, 1));
    RETURNS(INVALID_ARGUMENT, asyncipc_create(NULL, name, ASYNCIPC_ROLE_SERVER, &callbacks, NULL));
    RETURNS(INVALID_ARGUMENT, asyncipc_send(NULL, "x", 1));
    RETURNS(INVALID_ARGUMENT, asyncipc_send_to(NULL, 1, "x", 1));
    RETURNS(INVALID_ARGUMENT, asyncipc_disconnect(NULL, 1));
    RETURNS(INVALID_ARGUMENT, asyncipc_exit(NULL));
    RETURNS(INVALID_ARGUMENT, asyncipc_destroy(NULL));
    SAYS("null pointer");
    RETURNS(INVALID_HANDLE, asyncipc_send(stranger, "x", 1));
    SAYS("is not a pipe");
    RETURNS(INVALID_HANDLE, asyncipc_destroy(stranger));

    /* Before anything was created. */
    RETURNS(WRONG_STATE, asyncipc_send(pipe, "x", 1));
    SAYS("asyncipc_create");
    RETURNS(WRONG_STATE, asyncipc_send_to(pipe, 1, "x", 1));
    RETURNS(WRONG_STATE, asyncipc_disconnect(pipe, 1));
    RETURNS(WRONG_STATE, asyncipc_exit(pipe));

    /* Options. */
    RETURNS(INVALID_ARGUMENT, asyncipc_set_option(pipe, -1, 1));
    RETURNS(INVALID_ARGUMENT, asyncipc_set_option(pipe, 1000, 1));
    SAYS("1000");
    RETURNS(INVALID_ARGUMENT, asyncipc_set_option(pipe, ASYNCIPC_OPTION_QUEUE, 0));
    SAYS("0 is not from 1");
    RETURNS(INVALID_ARGUMENT, asyncipc_set_option(pipe, ASYNCIPC_OPTION_WAIT_FOR_SERVER, 2));
    RETURNS(INVALID_ARGUMENT,
            asyncipc_set_option(pipe, ASYNCIPC_OPTION_MAX_MESSAGE_SIZE, UINT32_MAX + (uint64_t)1));
#ifndef _WIN32
    RETURNS(UNSUPPORTED, asyncipc_set_option(pipe, ASYNCIPC_OPTION_MESSAGE_MODE, 1));
#endif
    SUCCEEDS(asyncipc_set_option(pipe, ASYNCIPC_OPTION_MAX_MESSAGE_SIZE, 1000));
    SUCCEEDS(asyncipc_set_option(client, ASYNCIPC_OPTION_CONNECT_TIMEOUT, UINT64_MAX));

    /* Names. */
    RETURNS(INVALID_ARGUMENT, asyncipc_create(pipe, NULL, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    SAYS("null pointer");
    RETURNS(INVALID_NAME, asyncipc_create(pipe, "", ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    RETURNS(INVALID_NAME, asyncipc_create(pipe, bad, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    SAYS("not UTF-8");
    RETURNS(INVALID_NAME, asyncipc_create(pipe, "a/b\\c", ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    memset(longest, 'n', sizeof longest);
    longest[sizeof longest - 1] = 0;
    RETURNS(INVALID_NAME, asyncipc_create(pipe, longest, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
#ifndef _WIN32
    /* With what was attempted, and with what the system says. */
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &nowhere));
    RETURNS(IO, asyncipc_create(nowhere, "/asyncipc-no-such-folder/x", ASYNCIPC_ROLE_SERVER, NULL, NULL));
    SAYS("cannot listen on /asyncipc-no-such-folder/x");
    SAYS("(os error 2)");
    SUCCEEDS(asyncipc_destroy(nowhere));
#else
    (void)nowhere;
#endif
    RETURNS(INVALID_ARGUMENT, asyncipc_create(pipe, name, 2, &callbacks, &server));
    SAYS("asyncipc_role 2");
    CHECK(server.told[CREATED] == 0);

    /* A server, twice. Without callbacks, all goes on in silence. */
    SUCCEEDS(asyncipc_create(pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    RETURNS(WRONG_STATE, asyncipc_create(pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    SAYS("created already");
    RETURNS(WRONG_STATE, asyncipc_set_option(pipe, ASYNCIPC_OPTION_QUEUE, 1));
    RETURNS(NOT_CONNECTED, asyncipc_send(pipe, "x", 1));
    SAYS(name);
    SUCCEEDS(asyncipc_create(client, name, ASYNCIPC_ROLE_CLIENT, NULL, NULL));
    WAIT_FOR(server.told[CREATED] == 1 && server.told[CONNECTED] == 1);

    /* Messages. */
    RETURNS(INVALID_ARGUMENT, asyncipc_send(pipe, NULL, 1));
    SAYS("null pointer");
    RETURNS(INVALID_ARGUMENT, asyncipc_send(pipe, "x", SIZE_MAX));
    RETURNS(MESSAGE_TOO_LARGE, asyncipc_send(pipe, longest, 1001));
    SAYS("1001");
    SAYS("1000");
    RETURNS(MESSAGE_TOO_LARGE, asyncipc_send_to(pipe, server.client, longest, 1001));
    RETURNS(NOT_CONNECTED, asyncipc_send_to(pipe, server.client + 1000, "x", 1));
    RETURNS(NOT_CONNECTED, asyncipc_disconnect(pipe, server.client + 1000));
    SUCCEEDS(asyncipc_send(pipe, NULL, 0));
    WAIT_FOR(server.told[SENT] == 1);
    CHECK(server.bytes_sent == 0);

    /* A peer that sends more than is allowed ends its own connection. */
    do result = asyncipc_send(client, longest, 1001);
    while (result == ASYNCIPC_RESULT_NOT_CONNECTED);
    SUCCEEDS(result);
    WAIT_FOR(server.told[DISCONNECTED] == 1);
    CHECK(server.result == ASYNCIPC_RESULT_MESSAGE_TOO_LARGE);
    CHECK(strstr(server.text, "1001") != NULL);

    /* The end, again and again. */
    SUCCEEDS(asyncipc_exit(client));
    SUCCEEDS(asyncipc_exit(client));
    SUCCEEDS(asyncipc_exit(pipe));
    RETURNS(SHUT_DOWN, asyncipc_send(pipe, "x", 1));
    SAYS("asyncipc_exit");
    RETURNS(SHUT_DOWN, asyncipc_disconnect(pipe, server.client));
    SUCCEEDS(asyncipc_exit(pipe));
    SUCCEEDS(asyncipc_destroy(pipe));
    RETURNS(INVALID_HANDLE, asyncipc_destroy(pipe));
    SAYS("was destroyed");
    RETURNS(INVALID_HANDLE, asyncipc_exit(pipe));
    RETURNS(INVALID_HANDLE, asyncipc_send(pipe, "x", 1));
    RETURNS(INVALID_HANDLE, asyncipc_send_to(pipe, 1, "x", 1));
    RETURNS(INVALID_HANDLE, asyncipc_disconnect(pipe, 1));
    RETURNS(INVALID_HANDLE, asyncipc_set_option(pipe, ASYNCIPC_OPTION_QUEUE, 1));
    RETURNS(INVALID_HANDLE, asyncipc_create(pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    SUCCEEDS(asyncipc_destroy(client));
    RETURNS(INVALID_HANDLE, asyncipc_destroy(client));

    /* Logging. */
    RETURNS(INVALID_ARGUMENT, asyncipc_init_logging(NULL));
    RETURNS(INVALID_ARGUMENT, asyncipc_init_logging(bad));
    SUCCEEDS(asyncipc_init_logging("misuse"));
    RETURNS(WRONG_STATE, asyncipc_init_logging("misuse"));
    SAYS("before");

    CHECK(server.told[CREATED] == 1 && server.told[DISCONNECTED] == 1 && !server.strange);
    puts("ok");
    return 0;
}
