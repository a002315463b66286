/* What the programs here share: failing loudly, waiting with a deadline, and an end of a pipe that
 * remembers what it was told. */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "asyncipc.h"

#define FAIL(...) \
    (fprintf(stderr, "%s:%d: ", __FILE__, __LINE__), fprintf(stderr, __VA_ARGS__), \
     fprintf(stderr, "; last error: %s\n", asyncipc_last_error()), exit(1))
#define CHECK(condition) ((condition) ? (void)0 : FAIL("not so: %s", #condition))
#define RETURNS(result, call) check_result(ASYNCIPC_RESULT_##result, call, __LINE__, #call)
#define SUCCEEDS(call) RETURNS(OK, call)

static void check_result(asyncipc_result wanted, asyncipc_result got, int line, const char *call) {
    if (got == wanted) return;
    fprintf(stderr, "line %d: %d and not %d from %s; last error: %s\n", line, got, wanted, call,
            asyncipc_last_error());
    exit(1);
}

/* Whatever threads have in common is looked at and changed under this lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

#define CHANGE(statement) \
    do { \
        pthread_mutex_lock(&lock); \
        statement; \
        pthread_cond_broadcast(&changed); \
        pthread_mutex_unlock(&lock); \
    } while (0)

/* Longer than anything takes, however busy the machine is. */
#define PATIENCE 60

#define WAIT_FOR(condition) \
    do { \
        struct timespec deadline; \
        clock_gettime(CLOCK_REALTIME, &deadline); \
        deadline.tv_sec += PATIENCE; \
        pthread_mutex_lock(&lock); \
        while (!(condition)) \
            if (pthread_cond_timedwait(&changed, &lock, &deadline) != 0) \
                FAIL("hung until %s", #condition); \
        pthread_mutex_unlock(&lock); \
    } while (0)

enum what { CREATED, CONNECTED, SENT, RECEIVED, DISCONNECTED, KINDS };

typedef struct end {
    asyncipc_pipe *pipe;
    /* How many there were of each. */
    size_t told[KINDS];
    size_t bytes_sent, bytes_received;
    /* Of the last one. */
    uint64_t client;
    asyncipc_result result;
    char text[256];
    /* Whether one came from another thread than the first one, or while another was running. */
    pthread_t thread;
    int strange, inside;
    /* What to do in each, after it was remembered. */
    void (*then)(struct end *, enum what, const void *data, size_t size);
    void *other;
} end;

static void tell(end *it, enum what what, uint64_t client, asyncipc_result result, size_t times,
                 const void *data, size_t size) {
    pthread_mutex_lock(&lock);
    if (what == CREATED) it->thread = pthread_self();
    it->strange |= it->inside || !pthread_equal(it->thread, pthread_self());
    it->inside = 1;
    it->told[what] += times;
    it->bytes_sent += what == SENT ? size : 0;
    it->bytes_received += what == RECEIVED ? size : 0;
    it->client = client;
    if (what != SENT && what != RECEIVED) {
        it->result = result;
        snprintf(it->text, sizeof it->text, "%s",
                 result == ASYNCIPC_RESULT_OK ? "" : asyncipc_last_error());
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (it->then != NULL) it->then(it, what, data, size);
    CHANGE(it->inside = 0);
}

static void on_create(asyncipc_pipe *pipe, void *user, asyncipc_result result) {
    (void)pipe;
    tell(user, CREATED, 0, result, 1, NULL, 0);
}

static void on_connected(asyncipc_pipe *pipe, void *user, uint64_t client, asyncipc_result result) {
    (void)pipe;
    tell(user, CONNECTED, client, result, 1, NULL, 0);
}

static void on_send(asyncipc_pipe *pipe, void *user, uint64_t client, size_t messages, size_t size) {
    (void)pipe;
    tell(user, SENT, client, ASYNCIPC_RESULT_OK, messages, NULL, size);
}

static void on_recv(asyncipc_pipe *pipe, void *user, uint64_t client, const void *data, size_t size) {
    (void)pipe;
    CHECK(data != NULL);
    tell(user, RECEIVED, client, ASYNCIPC_RESULT_OK, 1, data, size);
}

static void on_disconnected(asyncipc_pipe *pipe, void *user, uint64_t client, asyncipc_result reason) {
    (void)pipe;
    tell(user, DISCONNECTED, client, reason, 1, NULL, 0);
}

static const asyncipc_callbacks callbacks = {on_create, on_connected, on_send, on_recv,
                                             on_disconnected};

/* Names that nobody else uses: the first argument of the program, and a number. */
static char name[200];

static void new_name(const char *base) {
    static int n;
    snprintf(name, sizeof name, "%s-%d", base, n++);
}
