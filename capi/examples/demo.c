/* A server and its clients, which send each other what is typed. In three terminals:
 *
 *   demo server echo
 *   demo client echo
 *   demo client echo
 *
 * Each line is a message; /binary SIZE COUNT sends that many messages of bytes, /to CLIENT TEXT sends to
 * one client, /disconnect CLIENT sends one away, /exit or the end of the input ends it. On Windows,
 * --messages before the role keeps messages apart natively, and --overlapped moves bytes otherwise.
 *
 * The README says how to build it. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "asyncipc.h"

/* Only the callbacks touch them, until asyncipc_exit() has returned. */
typedef struct {
    const char *role;
    size_t messages_sent, bytes_sent, messages_received, bytes_received;
} totals;

/* Lines come from two threads: each in one call, and at once. */
#define SAY(...) (printf(__VA_ARGS__), fflush(stdout))

static void on_create(asyncipc_pipe *pipe, void *user, asyncipc_result result) {
    totals *all = user;
    (void)pipe;
    if (result == ASYNCIPC_RESULT_OK)
        SAY("%s\n", strcmp(all->role, "server") == 0 ? "listening" : "connecting");
    else
        SAY("cannot listen: %s\n", asyncipc_last_error());
}

static void on_connected(asyncipc_pipe *pipe, void *user, uint64_t client, asyncipc_result result) {
    (void)pipe, (void)user;
    if (result == ASYNCIPC_RESULT_OK)
        SAY("[%" PRIu64 "] connected\n", client);
    else
        SAY("cannot connect: %s\n", asyncipc_last_error());
}

static void on_send(asyncipc_pipe *pipe, void *user, uint64_t client, size_t messages, size_t size) {
    totals *all = user;
    (void)pipe, (void)client;
    all->messages_sent += messages;
    all->bytes_sent += size;
}

static unsigned long adler32(const unsigned char *data, size_t size) {
    unsigned long a = 1, b = 0;
    size_t i;
    for (i = 0; i < size; i++) {
        a = (a + data[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static void on_recv(asyncipc_pipe *pipe, void *user, uint64_t client, const void *data, size_t size) {
    totals *all = user;
    (void)pipe;
    all->messages_received += 1;
    all->bytes_received += size;
    if (size < 4096 && memchr(data, 0, size) == NULL)
        SAY("[%" PRIu64 "] %.*s\n", client, (int)size, (const char *)data);
    else
        SAY("[%" PRIu64 "] %zu bytes, checksum %08lx\n", client, size, adler32(data, size));
}

static void on_disconnected(asyncipc_pipe *pipe, void *user, uint64_t client, asyncipc_result reason) {
    (void)pipe, (void)user;
    if (reason == ASYNCIPC_RESULT_OK)
        SAY("[%" PRIu64 "] disconnected: it left\n", client);
    else
        SAY("[%" PRIu64 "] disconnected: %s\n", client, asyncipc_last_error());
}

static asyncipc_result send_binary(asyncipc_pipe *pipe, size_t size, unsigned count) {
    asyncipc_result result = ASYNCIPC_RESULT_OK;
    unsigned char *data = malloc(size + 1);
    unsigned n;
    size_t i;
    if (data == NULL) {
        fprintf(stderr, "no memory for %zu bytes\n", size);
        exit(1);
    }
    for (n = 0; n < count && result == ASYNCIPC_RESULT_OK; n++) {
        for (i = 0; i < size; i++) data[i] = (unsigned char)((i % 251 * 31 + n) % 251);
        result = asyncipc_send(pipe, data, size);
    }
    free(data);
    return result;
}

/* Does what a line says. */
static asyncipc_result command(asyncipc_pipe *pipe, const char *line) {
    size_t size;
    unsigned count;
    uint64_t client;
    int text = 0;
    if (sscanf(line, "/binary %zu %u", &size, &count) == 2) return send_binary(pipe, size, count);
    if (sscanf(line, "/to %" SCNu64 " %n", &client, &text) == 1 && text != 0)
        return asyncipc_send_to(pipe, client, line + text, strlen(line + text));
    if (sscanf(line, "/disconnect %" SCNu64, &client) == 1) return asyncipc_disconnect(pipe, client);
    return asyncipc_send(pipe, line, strlen(line));
}

static int fail(const char *what) {
    fprintf(stderr, "error: cannot %s: %s\n", what, asyncipc_last_error());
    return 1;
}

int main(int argc, char **argv) {
    const asyncipc_callbacks callbacks = {on_create, on_connected, on_send, on_recv, on_disconnected};
    totals all = {0};
    asyncipc_pipe *pipe;
    /* A longer line goes out as several messages. */
    static char line[4096];
    int messages = 0, kind = ASYNCIPC_KIND_ASYNC, role, i = 1;

    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        messages |= strcmp(argv[i], "--messages") == 0;
        if (strcmp(argv[i], "--overlapped") == 0) kind = ASYNCIPC_KIND_OVERLAPPED;
    }
    if (argc - i != 2 || (strcmp(argv[i], "server") != 0 && strcmp(argv[i], "client") != 0)) {
        fprintf(stderr, "usage: demo [--messages] [--overlapped] server|client NAME\n");
        return 2;
    }
    all.role = argv[i];
    role = strcmp(all.role, "server") == 0 ? ASYNCIPC_ROLE_SERVER : ASYNCIPC_ROLE_CLIENT;

    asyncipc_init_logging(all.role);
    if (asyncipc_create_instance(kind, &pipe) != ASYNCIPC_RESULT_OK) return fail("make a pipe");
    if (messages && asyncipc_set_option(pipe, ASYNCIPC_OPTION_MESSAGE_MODE, 1) != ASYNCIPC_RESULT_OK)
        return fail("keep messages apart");
    asyncipc_set_option(pipe, ASYNCIPC_OPTION_WAIT_FOR_SERVER, 1);
    asyncipc_set_option(pipe, ASYNCIPC_OPTION_DRAIN_TIMEOUT, 60000);
    asyncipc_set_option(pipe, ASYNCIPC_OPTION_SEND_TIMEOUT, 60000);
    if (asyncipc_create(pipe, argv[i + 1], role, &callbacks, &all) != ASYNCIPC_RESULT_OK)
        return fail("begin");

    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\r\n")] = 0;
        if (strcmp(line, "/exit") == 0) break;
        if (command(pipe, line) != ASYNCIPC_RESULT_OK) SAY("not done: %s\n", asyncipc_last_error());
    }

    asyncipc_exit(pipe);
    SAY("sent %zu messages, %zu bytes; received %zu messages, %zu bytes\n", all.messages_sent,
        all.bytes_sent, all.messages_received, all.bytes_received);
    asyncipc_destroy(pipe);
    return 0;
}
