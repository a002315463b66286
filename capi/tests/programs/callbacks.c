/* What is promised about callbacks: their thread, their order, what may be called from them, and that
 * none comes after the end. Both ends are in this process.
 *
 *   callbacks NAME [messages]
 */

#include "check.h"

#ifdef _WIN32
#include <windows.h>
#endif

#define MIB (1 << 20)

static const char *base;
static int messages;
static unsigned char block[MIB];

/* One end, with everything remembered, that waits for its server if it is a client. */
static void begin(end *it, int kind, int role) {
    if (it->pipe == NULL) SUCCEEDS(asyncipc_create_instance(kind, &it->pipe));
    SUCCEEDS(asyncipc_set_option(it->pipe, ASYNCIPC_OPTION_MESSAGE_MODE, messages));
    SUCCEEDS(asyncipc_set_option(it->pipe, ASYNCIPC_OPTION_WAIT_FOR_SERVER, 1));
    SUCCEEDS(asyncipc_set_option(it->pipe, ASYNCIPC_OPTION_CONNECT_TIMEOUT, PATIENCE * 1000));
    SUCCEEDS(asyncipc_set_option(it->pipe, ASYNCIPC_OPTION_DRAIN_TIMEOUT, PATIENCE * 1000));
    SUCCEEDS(asyncipc_create(it->pipe, name, role, &callbacks, it));
}

static void begin_both(end *server, end *client) {
    new_name(base);
    begin(server, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_SERVER);
    begin(client, ASYNCIPC_KIND_OVERLAPPED, ASYNCIPC_ROLE_CLIENT);
    WAIT_FOR(server->told[CONNECTED] == 1 && client->told[CONNECTED] == 1);
    CHECK(client->result == ASYNCIPC_RESULT_OK);
}

static void check_end(end *it) {
    CHECK(!it->strange && !it->inside);
    CHECK(it->told[CREATED] >= 1);
}

/* Sends everything back to whom it came from. */
static void echo(end *it, enum what what, const void *data, size_t size) {
    if (what == RECEIVED) SUCCEEDS(asyncipc_send_to(it->pipe, it->client, data, size));
}

static void all_come_from_one_thread_and_in_order(void) {
    end server = {0}, clients[3] = {{0}};
    size_t i;
    server.then = echo;
    new_name(base);
    begin(&server, ASYNCIPC_KIND_OVERLAPPED, ASYNCIPC_ROLE_SERVER);
    for (i = 0; i < 3; i++) begin(&clients[i], ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_CLIENT);
    for (i = 0; i < 3; i++) {
        WAIT_FOR(clients[i].told[CONNECTED] == 1);
        SUCCEEDS(asyncipc_send(clients[i].pipe, block, MIB));
        SUCCEEDS(asyncipc_send(clients[i].pipe, "", 0));
        WAIT_FOR(clients[i].told[RECEIVED] == 2);
        CHECK(clients[i].bytes_received == MIB && clients[i].told[SENT] == 2);
    }
    /* To all of them. */
    SUCCEEDS(asyncipc_send(server.pipe, "all", 3));
    for (i = 0; i < 3; i++) WAIT_FOR(clients[i].told[RECEIVED] == 3);
    for (i = 0; i < 3; i++) {
        SUCCEEDS(asyncipc_destroy(clients[i].pipe));
        CHECK(clients[i].told[DISCONNECTED] == 1);
        CHECK(clients[i].result == ASYNCIPC_RESULT_SHUT_DOWN);
        check_end(&clients[i]);
    }
    WAIT_FOR(server.told[DISCONNECTED] == 3);
    CHECK(server.result == ASYNCIPC_RESULT_OK);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    CHECK(server.told[CONNECTED] == 3 && server.told[RECEIVED] == 6 && server.told[SENT] == 9);
    check_end(&server);
}

/* More than threads have by default in many places. */
static void use_stack(end *it, enum what what, const void *data, size_t size) {
    volatile unsigned char large[4 * MIB];
    size_t i;
    (void)data, (void)size;
    for (i = sizeof large; i-- > 0;) large[i] = (unsigned char)what;
    CHECK(large[0] == what && it != NULL);
}

static void callbacks_have_the_stack_of_a_main_thread(void) {
    end server = {0};
    server.then = use_stack;
    new_name(base);
    begin(&server, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_SERVER);
    WAIT_FOR(server.told[CREATED] == 1);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    check_end(&server);
}

static int gate;

/* Does not go on before the gate is open. */
static void stand(end *it, enum what what, const void *data, size_t size) {
    (void)it, (void)data, (void)size;
    if (what == RECEIVED) WAIT_FOR(gate);
}

/* Fills the queue of a client that does not read, from a callback. */
static void flood(end *it, enum what what, const void *data, size_t size) {
    asyncipc_result result = ASYNCIPC_RESULT_OK;
    size_t n;
    (void)data, (void)size;
    if (what != CONNECTED) return;
    for (n = 0; n < 1000 && result == ASYNCIPC_RESULT_OK; n++)
        result = asyncipc_send(it->pipe, block, MIB);
    check_result(ASYNCIPC_RESULT_QUEUE_FULL, result, __LINE__, "asyncipc_send");
    CHECK(strstr(asyncipc_last_error(), name) != NULL);
    CHANGE(it->other = it);
}

static void a_full_queue_is_an_error_in_callbacks_and_waited_for_elsewhere(void) {
    end server = {0}, client = {0};
    asyncipc_result result = ASYNCIPC_RESULT_OK;
    size_t sent, i;
    gate = 0;
    server.then = flood;
    client.then = stand;
    new_name(base);
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &server.pipe));
    SUCCEEDS(asyncipc_set_option(server.pipe, ASYNCIPC_OPTION_QUEUE, 2));
    SUCCEEDS(asyncipc_set_option(server.pipe, ASYNCIPC_OPTION_SEND_TIMEOUT, 1));
    begin(&server, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_SERVER);
    begin(&client, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_CLIENT);
    WAIT_FOR(server.other != NULL);
    /* Two of them wait. What the system takes before it has enough is no more than this. */
    for (sent = 0; sent < 100; sent++) {
        result = asyncipc_send(server.pipe, block, MIB);
        if (result != ASYNCIPC_RESULT_OK) break;
    }
    check_result(ASYNCIPC_RESULT_QUEUE_FULL, result, __LINE__, "asyncipc_send");
    CHECK(strstr(asyncipc_last_error(), "1.0ms") != NULL);
    for (; sent < 100; sent++) {
        result = asyncipc_send_to(server.pipe, server.client, block, MIB);
        if (result != ASYNCIPC_RESULT_OK) break;
    }
    check_result(ASYNCIPC_RESULT_QUEUE_FULL, result, __LINE__, "asyncipc_send_to");
    CHANGE(gate = 1);
    WAIT_FOR(client.told[RECEIVED] == 2 + sent);
    SUCCEEDS(asyncipc_destroy(client.pipe));
    SUCCEEDS(asyncipc_exit(server.pipe));

    /* With time to wait, everything goes through a queue for one. */
    server.then = NULL;
    client = (end){0};
    SUCCEEDS(asyncipc_set_option(server.pipe, ASYNCIPC_OPTION_QUEUE, 1));
    SUCCEEDS(asyncipc_set_option(server.pipe, ASYNCIPC_OPTION_SEND_TIMEOUT, PATIENCE * 1000));
    new_name(base);
    begin(&server, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_SERVER);
    begin(&client, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_CLIENT);
    WAIT_FOR(server.told[CONNECTED] == 2);
    for (i = 0; i < 20; i++) SUCCEEDS(asyncipc_send(server.pipe, block, MIB));
    for (i = 0; i < 20; i++) SUCCEEDS(asyncipc_send_to(server.pipe, server.client, block, MIB));
    WAIT_FOR(client.told[RECEIVED] == 40);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    WAIT_FOR(client.told[DISCONNECTED] == 1);
    SUCCEEDS(asyncipc_destroy(client.pipe));
    check_end(&client);
}

static void exit_sends_what_waits(void) {
    end server = {0}, client = {0};
    size_t i;
    gate = 0;
    server.then = stand;
    begin_both(&server, &client);
    for (i = 0; i < 32; i++) SUCCEEDS(asyncipc_send(client.pipe, block, MIB));
    /* The server reads nothing more before this. */
    CHANGE(gate = 1);
    SUCCEEDS(asyncipc_exit(client.pipe));
    CHECK(client.told[DISCONNECTED] == 1 && client.told[SENT] == 32);
    WAIT_FOR(server.told[DISCONNECTED] == 1);
    CHECK(server.bytes_received == 32 * (size_t)MIB);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    SUCCEEDS(asyncipc_destroy(client.pipe));
    check_end(&server);
    check_end(&client);
}

static void exit_at(end *it, enum what what, const void *data, size_t size) {
    (void)data, (void)size;
    if (what != RECEIVED) return;
    SUCCEEDS(asyncipc_send(it->pipe, "last", 4));
    SUCCEEDS(asyncipc_exit(it->pipe));
    SUCCEEDS(asyncipc_exit(it->pipe));
    RETURNS(SHUT_DOWN, asyncipc_send(it->pipe, "later", 5));
}

static void exit_from_a_callback_ends_it_orderly(void) {
    end server = {0}, client = {0};
    client.then = exit_at;
    begin_both(&server, &client);
    SUCCEEDS(asyncipc_send(server.pipe, "go", 2));
    WAIT_FOR(server.told[DISCONNECTED] == 1);
    CHECK(server.told[RECEIVED] == 1 && server.bytes_received == 4);
    /* Waits for the rest. */
    SUCCEEDS(asyncipc_exit(client.pipe));
    CHECK(client.told[DISCONNECTED] == 1 && client.result == ASYNCIPC_RESULT_SHUT_DOWN);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    SUCCEEDS(asyncipc_destroy(client.pipe));
    check_end(&client);
}

static void destroy_at(end *it, enum what what, const void *data, size_t size) {
    (void)data, (void)size;
    if (what != RECEIVED) return;
    SUCCEEDS(asyncipc_send(it->pipe, "last", 4));
    SUCCEEDS(asyncipc_destroy(it->pipe));
    RETURNS(INVALID_HANDLE, asyncipc_destroy(it->pipe));
    RETURNS(INVALID_HANDLE, asyncipc_send(it->pipe, "later", 5));
}

static void greet_twice(end *it, enum what what, const void *data, size_t size) {
    (void)data, (void)size;
    if (what != CONNECTED) return;
    SUCCEEDS(asyncipc_send(it->pipe, "go", 2));
    SUCCEEDS(asyncipc_send(it->pipe, "go", 2));
}

static void after_destroy_from_a_callback_no_other_one_begins(void) {
    end server = {0};
    /* Also if it did, it would not be of the stack that it finds. */
    static end client;
    server.then = greet_twice;
    client.then = destroy_at;
    begin_both(&server, &client);
    WAIT_FOR(server.told[DISCONNECTED] == 1);
    CHECK(server.told[RECEIVED] == 1 && server.bytes_received == 4);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    WAIT_FOR(!client.inside);
    CHECK(client.told[RECEIVED] == 1 && client.told[DISCONNECTED] == 0);
    RETURNS(INVALID_HANDLE, asyncipc_destroy(client.pipe));
}

static void dawdle(end *it, enum what what, const void *data, size_t size) {
    int i;
    (void)data, (void)size;
    if (what != RECEIVED) return;
    CHANGE(gate = 1);
    for (i = 0; i < 1000; i++) sched_yield();
    it->other = it;
}

static void destroy_waits_for_the_callback_that_runs(void) {
    end server = {0}, client = {0};
    gate = 0;
    server.then = dawdle;
    begin_both(&server, &client);
    SUCCEEDS(asyncipc_send(client.pipe, "go", 2));
    WAIT_FOR(gate);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    CHECK(server.other != NULL && server.told[DISCONNECTED] == 1);
    check_end(&server);
    WAIT_FOR(client.told[DISCONNECTED] == 1);
    SUCCEEDS(asyncipc_destroy(client.pipe));
}

/* Each destroys the other one, at the same time: the one when it has sent a message, the other when it
 * has got it. */
static void destroy_other(end *it, enum what what, const void *data, size_t size) {
    end *other = it->other;
    (void)data, (void)size;
    if (what != SENT && what != RECEIVED) return;
    CHANGE(gate++);
    WAIT_FOR(gate >= 2);
    SUCCEEDS(asyncipc_destroy(other->pipe));
    CHANGE(gate++);
    WAIT_FOR(gate >= 4);
}

static void two_pipes_may_destroy_each_other(void) {
    static end server, client;
    gate = 0;
    server.then = client.then = destroy_other;
    server.other = &client;
    client.other = &server;
    begin_both(&server, &client);
    SUCCEEDS(asyncipc_send(client.pipe, "go", 2));
    WAIT_FOR(gate == 4 && !server.inside && !client.inside);
    RETURNS(INVALID_HANDLE, asyncipc_destroy(server.pipe));
    RETURNS(INVALID_HANDLE, asyncipc_destroy(client.pipe));
}

/* Connects again and again. */
static void reconnect(end *it, enum what what, const void *data, size_t size) {
    (void)data, (void)size;
    if (what != DISCONNECTED || it->result == ASYNCIPC_RESULT_SHUT_DOWN) return;
    CHECK(it->result == ASYNCIPC_RESULT_OK);
    RETURNS(NOT_CONNECTED, asyncipc_send(it->pipe, "x", 1));
    SUCCEEDS(asyncipc_create(it->pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, it));
}

static void a_server_restarts_and_its_client_comes_back(void) {
    end server = {0}, client = {0};
    size_t i;
    client.then = reconnect;
    begin_both(&server, &client);
    for (i = 2; i < 5; i++) {
        SUCCEEDS(asyncipc_exit(server.pipe));
        CHECK(server.told[DISCONNECTED] == i - 1);
        CHECK(server.result == ASYNCIPC_RESULT_SHUT_DOWN);
        begin(&server, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_SERVER);
        WAIT_FOR(server.told[CONNECTED] == i && client.told[CONNECTED] == i);
        SUCCEEDS(asyncipc_send(client.pipe, block, MIB));
        WAIT_FOR(server.told[RECEIVED] == i - 1);
    }
    SUCCEEDS(asyncipc_destroy(client.pipe));
    SUCCEEDS(asyncipc_destroy(server.pipe));
    CHECK(client.told[CREATED] == 4 && client.told[DISCONNECTED] == 4);
    check_end(&client);
    check_end(&server);
}

/* Once; an exit before the last callback is meant. */
static void exit_and_come_back(end *it, enum what what, const void *data, size_t size) {
    (void)data, (void)size;
    if (what == RECEIVED) SUCCEEDS(asyncipc_exit(it->pipe));
    if (what != DISCONNECTED) return;
    SUCCEEDS(asyncipc_exit(it->pipe));
    if (it->told[DISCONNECTED] == 1) {
        SUCCEEDS(asyncipc_create(it->pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, it));
        return;
    }
    RETURNS(WRONG_STATE, asyncipc_create(it->pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, it));
    CHECK(strstr(asyncipc_last_error(), "asyncipc_exit was called") != NULL);
}

static void a_client_may_exit_and_come_back_in_its_last_callback(void) {
    end server = {0}, client = {0};
    client.then = exit_and_come_back;
    begin_both(&server, &client);
    SUCCEEDS(asyncipc_disconnect(server.pipe, server.client));
    WAIT_FOR(server.told[CONNECTED] == 2 && client.told[CONNECTED] == 2);
    SUCCEEDS(asyncipc_send(server.pipe, "go", 2));
    WAIT_FOR(client.told[DISCONNECTED] == 2 && !client.inside);
    SUCCEEDS(asyncipc_destroy(client.pipe));
    SUCCEEDS(asyncipc_destroy(server.pipe));
    check_end(&client);
}

/* As long as it may. */
static void come_back(end *it, enum what what, const void *data, size_t size) {
    asyncipc_result result;
    (void)data, (void)size;
    if (what != DISCONNECTED) return;
    result = asyncipc_create(it->pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, it);
    CHECK(result == ASYNCIPC_RESULT_OK || result == ASYNCIPC_RESULT_WRONG_STATE);
}

static void send_away(end *it, enum what what, const void *data, size_t size) {
    asyncipc_result result;
    (void)data, (void)size;
    if (what != CONNECTED) return;
    result = asyncipc_disconnect(it->pipe, it->client);
    /* The client may have left already, or the server may be about to end. */
    CHECK(result == ASYNCIPC_RESULT_OK || result == ASYNCIPC_RESULT_NOT_CONNECTED ||
          result == ASYNCIPC_RESULT_INVALID_HANDLE || result == ASYNCIPC_RESULT_SHUT_DOWN);
}

static void after_exit_no_client_comes_back(void) {
    end server = {0}, client = {0};
    size_t connected;
    server.then = send_away;
    client.then = come_back;
    new_name(base);
    begin(&server, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_SERVER);
    begin(&client, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_CLIENT);
    WAIT_FOR(client.told[CONNECTED] >= 5);
    SUCCEEDS(asyncipc_exit(client.pipe));
    check_end(&client);
    connected = client.told[CONNECTED];
    WAIT_FOR(server.told[CONNECTED] == server.told[DISCONNECTED]);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    CHECK(client.told[CONNECTED] == connected);
    SUCCEEDS(asyncipc_destroy(client.pipe));
}

static void again(end *it, enum what what, const void *data, size_t size) {
    (void)data, (void)size;
    if (what == CONNECTED && it->told[CONNECTED] == 1)
        SUCCEEDS(asyncipc_create(it->pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, it));
}

static void a_client_without_a_server_is_told_so(void) {
    end client = {0};
    client.then = again;
    new_name(base);
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &client.pipe));
    SUCCEEDS(asyncipc_create(client.pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, &client));
    WAIT_FOR(client.told[CONNECTED] == 2);
    CHECK(client.result == ASYNCIPC_RESULT_NOT_FOUND && client.client == 0);
    CHECK(strstr(client.text, name) != NULL);
    RETURNS(NOT_CONNECTED, asyncipc_send(client.pipe, "x", 1));
    SUCCEEDS(asyncipc_destroy(client.pipe));
    CHECK(client.told[CREATED] == 2 && client.told[DISCONNECTED] == 0);
    check_end(&client);
}

static void a_client_that_waits_for_its_server_can_exit(void) {
    end client = {0};
    new_name(base);
    begin(&client, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_CLIENT);
    RETURNS(NOT_CONNECTED, asyncipc_send(client.pipe, "x", 1));
    SUCCEEDS(asyncipc_exit(client.pipe));
    CHECK(client.told[CONNECTED] == 1 && client.result == ASYNCIPC_RESULT_SHUT_DOWN);
    SUCCEEDS(asyncipc_destroy(client.pipe));
    check_end(&client);
}

/* Wine lets two servers have one name. */
static int under_wine(void) {
#ifdef _WIN32
    return GetProcAddress(GetModuleHandleA("ntdll.dll"), "wine_get_version") != NULL;
#else
    return 0;
#endif
}

static void a_second_server_on_the_name_is_told_so(void) {
    end first = {0}, second = {0};
    if (under_wine()) {
        puts("skipped: Wine lets two servers have one name");
        return;
    }
    new_name(base);
    begin(&first, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_SERVER);
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &second.pipe));
    RETURNS(ADDRESS_IN_USE,
            asyncipc_create(second.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &second));
    SUCCEEDS(asyncipc_exit(first.pipe));
    begin(&second, ASYNCIPC_KIND_ASYNC, ASYNCIPC_ROLE_SERVER);
    SUCCEEDS(asyncipc_destroy(second.pipe));
    CHECK(second.told[CREATED] == 2 && second.result == ASYNCIPC_RESULT_OK);
    SUCCEEDS(asyncipc_destroy(first.pipe));
    check_end(&second);
}

static void a_client_can_be_sent_away(void) {
    end server = {0}, client = {0};
    begin_both(&server, &client);
    SUCCEEDS(asyncipc_send(server.pipe, block, MIB));
    SUCCEEDS(asyncipc_disconnect(server.pipe, server.client));
    RETURNS(NOT_CONNECTED, asyncipc_send_to(server.pipe, server.client, "x", 1));
    WAIT_FOR(server.told[DISCONNECTED] == 1 && client.told[DISCONNECTED] == 1);
    CHECK(server.result == ASYNCIPC_RESULT_DISCONNECTED && client.result == ASYNCIPC_RESULT_OK);
    CHECK(client.bytes_received == MIB);
    SUCCEEDS(asyncipc_destroy(client.pipe));
    SUCCEEDS(asyncipc_destroy(server.pipe));
    check_end(&server);
}

static void answer_too_late(end *it, enum what what, const void *data, size_t size) {
    if (what != RECEIVED) return;
    CHANGE(gate = 1);
    WAIT_FOR(gate == 2);
    SUCCEEDS(asyncipc_send_to(it->pipe, it->client, data, size));
}

/* Systems have a signal for it that ends programs. */
static void a_message_for_a_client_that_has_left_does_no_harm(void) {
    end server = {0}, client = {0};
    gate = 0;
    server.then = answer_too_late;
    begin_both(&server, &client);
    SUCCEEDS(asyncipc_send(client.pipe, "hello", 5));
    WAIT_FOR(gate == 1);
    SUCCEEDS(asyncipc_destroy(client.pipe));
    CHANGE(gate = 2);
    WAIT_FOR(server.told[DISCONNECTED] == 1);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    check_end(&server);
}

static void *send_until_it_ends(void *user) {
    end *it = user;
    size_t *taken = malloc(sizeof *taken);
    asyncipc_result result;
    CHECK(taken != NULL);
    for (*taken = 0;; ++*taken) {
        result = asyncipc_send(it->pipe, block, 1000);
        if (*taken == 100) CHANGE(gate++);
        if (result != ASYNCIPC_RESULT_OK) break;
    }
    CHECK(result == ASYNCIPC_RESULT_SHUT_DOWN || result == ASYNCIPC_RESULT_INVALID_HANDLE);
    return taken;
}

static void destroy_while_other_threads_send_loses_nothing_that_was_taken(void) {
    end server = {0}, client = {0};
    pthread_t threads[4];
    size_t i, taken = 0;
    gate = 0;
    begin_both(&server, &client);
    for (i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, send_until_it_ends, &client) == 0);
    WAIT_FOR(gate == 4);
    SUCCEEDS(asyncipc_destroy(client.pipe));
    for (i = 0; i < 4; i++) {
        void *count;
        CHECK(pthread_join(threads[i], &count) == 0);
        taken += *(size_t *)count;
        free(count);
    }
    WAIT_FOR(server.told[DISCONNECTED] == 1);
    CHECK(server.told[RECEIVED] == taken && client.told[SENT] == taken);
    SUCCEEDS(asyncipc_destroy(server.pipe));
    check_end(&client);
}

#define RUN(test) (printf("%s\n", #test), fflush(stdout), test())

int main(int argc, char **argv) {
    size_t i;
    CHECK(argc == 2 || argc == 3);
    base = argv[1];
    messages = argc == 3;
    for (i = 0; i < MIB; i++) block[i] = (unsigned char)(i * 31 % 251);

    RUN(all_come_from_one_thread_and_in_order);
    RUN(callbacks_have_the_stack_of_a_main_thread);
    RUN(a_full_queue_is_an_error_in_callbacks_and_waited_for_elsewhere);
    RUN(exit_sends_what_waits);
    RUN(exit_from_a_callback_ends_it_orderly);
    RUN(after_destroy_from_a_callback_no_other_one_begins);
    RUN(destroy_waits_for_the_callback_that_runs);
    RUN(two_pipes_may_destroy_each_other);
    RUN(a_server_restarts_and_its_client_comes_back);
    RUN(a_client_may_exit_and_come_back_in_its_last_callback);
    RUN(after_exit_no_client_comes_back);
    RUN(a_client_without_a_server_is_told_so);
    RUN(a_client_that_waits_for_its_server_can_exit);
    RUN(a_second_server_on_the_name_is_told_so);
    RUN(a_client_can_be_sent_away);
    RUN(a_message_for_a_client_that_has_left_does_no_harm);
    RUN(destroy_while_other_threads_send_loses_nothing_that_was_taken);
    puts("ok");
    return 0;
}
