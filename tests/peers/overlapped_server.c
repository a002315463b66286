// A server of several instances in one thread, by overlapped I/O and one event for each instance.
//
//   overlapped_server PIPE MODE INSTANCES CLIENTS
//
// Says "ready" when all instances listen, and ends after that many clients. Sends back what it
// gets. What must not happen ends it with a line that says so, and code 1.
//
//   echo         as messages
//   bytes        as bytes
//   farewell     one message for each client, who is disconnected when it has read the answer
//   half-close   as messages, up to an empty one, which is sent back as well
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_SIZE 4096

enum mode { ECHO, BYTES, FAREWELL, HALF_CLOSE };

struct instance {
    OVERLAPPED overlapped;
    HANDLE pipe;
    enum { CONNECTING, READING, WRITING } state;
    BYTE *message;
    DWORD size, room;
};

static enum mode mode;
static int clients;

static void begin_read(struct instance *instance);

static void fail(const char *what)
{
    DWORD error = GetLastError();
    printf("%s failed, the last error is %lu\n", what, error);
    exit(1);
}

static void wait_for_client(struct instance *instance)
{
    instance->state = CONNECTING;
    if (ConnectNamedPipe(instance->pipe, &instance->overlapped))
        fail("ConnectNamedPipe without waiting");
    switch (GetLastError()) {
    case ERROR_IO_PENDING:
        break;
    case ERROR_PIPE_CONNECTED:
        instance->size = 0;
        begin_read(instance);
        break;
    default:
        fail("ConnectNamedPipe");
    }
}

static void next_client(struct instance *instance)
{
    if (!DisconnectNamedPipe(instance->pipe))
        fail("DisconnectNamedPipe");
    if (--clients == 0)
        exit(0);
    wait_for_client(instance);
}

// Reads more of a message. What completes at once signals the event too.
static void begin_read(struct instance *instance)
{
    if (instance->room - instance->size < BUFFER_SIZE) {
        instance->room = 2 * instance->room + BUFFER_SIZE;
        instance->message = realloc(instance->message, instance->room);
        if (instance->message == NULL)
            fail("realloc");
    }
    instance->state = READING;
    if (!ReadFile(instance->pipe, instance->message + instance->size, BUFFER_SIZE, NULL,
                  &instance->overlapped)) {
        DWORD error = GetLastError();
        if (error != ERROR_IO_PENDING && error != ERROR_MORE_DATA)
            next_client(instance);
    }
}

static void begin_write(struct instance *instance)
{
    instance->state = WRITING;
    if (!WriteFile(instance->pipe, instance->message, instance->size, NULL,
                   &instance->overlapped) &&
        GetLastError() != ERROR_IO_PENDING)
        next_client(instance);
}

static void completed(struct instance *instance)
{
    DWORD bytes = 0;
    BOOL done = GetOverlappedResult(instance->pipe, &instance->overlapped, &bytes, FALSE);
    DWORD error = done ? ERROR_SUCCESS : GetLastError();
    switch (instance->state) {
    case CONNECTING:
        if (!done)
            fail("waiting for a client");
        instance->size = 0;
        begin_read(instance);
        break;
    case READING:
        instance->size += bytes;
        if (done)
            begin_write(instance);
        else if (error == ERROR_MORE_DATA)
            begin_read(instance);
        else if (error != ERROR_BROKEN_PIPE)
            fail("ReadFile");
        else
            next_client(instance);
        break;
    case WRITING:
        if (!done) {
            next_client(instance);
        } else if (bytes != instance->size) {
            fail("writing everything");
        } else if (mode == FAREWELL) {
            if (!FlushFileBuffers(instance->pipe))
                fail("FlushFileBuffers");
            next_client(instance);
        } else {
            instance->size = 0;
            begin_read(instance);
        }
        break;
    }
}

int main(int argc, char **argv)
{
    static struct instance instances[MAXIMUM_WAIT_OBJECTS];
    HANDLE events[MAXIMUM_WAIT_OBJECTS];
    // Whoever started this reads along.
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc != 5) {
        printf("usage: overlapped_server PIPE MODE INSTANCES CLIENTS\n");
        return 1;
    }
    static const char *const modes[] = {"echo", "bytes", "farewell", "half-close"};
    while (strcmp(argv[2], modes[mode]) != 0)
        if (++mode > HALF_CLOSE)
            fail("finding that mode");
    DWORD count = strtoul(argv[3], NULL, 10);
    clients = atoi(argv[4]);
    DWORD type = mode == BYTES ? PIPE_TYPE_BYTE | PIPE_READMODE_BYTE
                               : PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE;
    for (DWORD i = 0; i < count; i++) {
        struct instance *instance = &instances[i];
        events[i] = CreateEventW(NULL, TRUE, FALSE, NULL);
        if (events[i] == NULL)
            fail("CreateEvent");
        instance->overlapped.hEvent = events[i];
        instance->pipe = CreateNamedPipeA(argv[1], PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
                                          type | PIPE_WAIT, count, BUFFER_SIZE, BUFFER_SIZE, 5000,
                                          NULL);
        if (instance->pipe == INVALID_HANDLE_VALUE)
            fail("CreateNamedPipe");
        wait_for_client(instance);
    }
    printf("ready\n");
    for (;;) {
        DWORD first = WaitForMultipleObjects(count, events, FALSE, INFINITE) - WAIT_OBJECT_0;
        if (first >= count)
            fail("WaitForMultipleObjects");
        completed(&instances[first]);
    }
}
