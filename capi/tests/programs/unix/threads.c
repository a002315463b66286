/* When the system starts no thread, that is an error: also in a callback, where nothing may wait. */

#include "../check.h"

#include <sys/resource.h>
#include <unistd.h>

static end other;
static asyncipc_result result = ASYNCIPC_RESULT_OK;
static char text[256];

/* No memory for another thread's stack while this creates one more pipe. */
static void creates(end *it, enum what what, const void *data, size_t size) {
    struct rlimit before, tight;
    size_t pages = 0;
    FILE *statm;
    (void)it;
    (void)data;
    (void)size;
    if (what != RECEIVED) return;
    statm = fopen("/proc/self/statm", "r");
    CHECK(statm != NULL && fscanf(statm, "%zu", &pages) == 1);
    fclose(statm);
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    tight = before;
    tight.rlim_cur = pages * (size_t)sysconf(_SC_PAGESIZE) + (4 << 20);
    CHECK(setrlimit(RLIMIT_AS, &tight) == 0);
    result = asyncipc_create(other.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &other);
    snprintf(text, sizeof text, "%s", asyncipc_last_error());
    CHECK(setrlimit(RLIMIT_AS, &before) == 0);
}

int main(int argc, char **argv) {
    end server = {.then = creates}, client = {0};
    CHECK(argc == 2);
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &server.pipe));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &other.pipe));
    SUCCEEDS(asyncipc_create_instance(ASYNCIPC_KIND_ASYNC, &client.pipe));
    new_name(argv[1]);
    SUCCEEDS(asyncipc_create(server.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &server));
    SUCCEEDS(asyncipc_create(client.pipe, name, ASYNCIPC_ROLE_CLIENT, &callbacks, &client));
    WAIT_FOR(client.told[CONNECTED] == 1);
    new_name(argv[1]);
    SUCCEEDS(asyncipc_send(client.pipe, "go", 2));
    WAIT_FOR(server.told[RECEIVED] == 1 && !server.inside);
    if (result != ASYNCIPC_RESULT_IO) FAIL("%d: %s", result, text);
    if (strstr(text, "cannot start a thread") == NULL) FAIL("%s", text);
    CHECK(other.told[CREATED] == 0);
    /* Nothing is left of it: it can be created, on the same name. */
    SUCCEEDS(asyncipc_create(other.pipe, name, ASYNCIPC_ROLE_SERVER, &callbacks, &other));
    SUCCEEDS(asyncipc_destroy(other.pipe));
    SUCCEEDS(asyncipc_destroy(client.pipe));
    SUCCEEDS(asyncipc_destroy(server.pipe));
    puts("ok");
    return 0;
}
