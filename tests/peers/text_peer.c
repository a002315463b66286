// Either end of a pipe that carries texts both ways at the same time, whenever each end likes, as
// programs do whose library has `Send(const char *)` and a callback for what comes.
//
//   text_peer PIPE server|client events|routines COUNT LONGEST
//
// A text is a message without NUL, of at most LONGEST characters. The server reads messages; the
// client leaves its end as it was opened, reading bytes, so it sees no boundaries: it compares the
// texts end to end. Sends COUNT texts, expects COUNT, and then one more: "exit". By overlapped I/O
// with one event for reading and one for writing, or by completion routines, with many writes
// under way at once. A server says "ready" when it listens; what must not happen is a line that
// says so, and code 1.
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_SIZE 4096
#define ROOM 10000

struct write {
    OVERLAPPED overlapped;
    DWORD size;
    char text[ROOM];
};

static HANDLE pipe;
static BOOL is_server, by_routines, over;
static int count, received_texts;
static DWORD longest;
static OVERLAPPED reading, writing;
static char buffer[BUFFER_SIZE];
// What has come and was not compared yet.
static char pending[2 * ROOM + BUFFER_SIZE];
static DWORD pending_size;

static VOID WINAPI was_read(DWORD error, DWORD bytes, OVERLAPPED *overlapped);
static VOID WINAPI was_written(DWORD error, DWORD bytes, OVERLAPPED *overlapped);

static void fail(const char *what)
{
    DWORD error = GetLastError();
    printf("%s failed, the last error is %lu\n", what, error);
    exit(1);
}

// The text number `n`, the same in both directions and in the tests that start this.
static DWORD make_text(char *text, int n)
{
    static const DWORD sizes[] = {1, 20, 300, 4095, 4096, 4097, 9000};
    if (n == count) {
        memcpy(text, "exit", 4);
        return 4;
    }
    DWORD size = sizes[n % 7] < longest ? sizes[n % 7] : longest;
    for (DWORD i = 0; i < size; i++)
        text[i] = (char)('a' + (i + n) % 26);
    return size;
}

// Compares what has come with what was to come. `whole`: a message ends here.
static void received(DWORD bytes, BOOL whole)
{
    char expected[ROOM];
    memcpy(pending + pending_size, buffer, bytes);
    pending_size += bytes;
    while (received_texts <= count) {
        DWORD size = make_text(expected, received_texts);
        if (pending_size < size)
            break;
        if (memcmp(pending, expected, size) != 0)
            fail("comparing a text");
        pending_size -= size;
        memmove(pending, pending + size, pending_size);
        received_texts++;
    }
    if (is_server && whole && pending_size != 0)
        fail("a text as one message");
    if (pending_size > ROOM)
        fail("expecting that much");
    over = received_texts > count;
}

static void begin_read(void)
{
    if (by_routines) {
        if (!ReadFileEx(pipe, buffer, BUFFER_SIZE, &reading, was_read))
            fail("ReadFileEx");
    } else if (!ReadFile(pipe, buffer, BUFFER_SIZE, NULL, &reading)) {
        // What completes at once signals the event too.
        DWORD error = GetLastError();
        if (error != ERROR_IO_PENDING && error != ERROR_MORE_DATA)
            fail("ReadFile");
    }
}

static VOID WINAPI was_read(DWORD error, DWORD bytes, OVERLAPPED *overlapped)
{
    if (error != ERROR_SUCCESS && error != ERROR_MORE_DATA) {
        SetLastError(error);
        fail("reading");
    }
    (void)overlapped;
    received(bytes, error == ERROR_SUCCESS);
    if (!over)
        begin_read();
}

static VOID WINAPI was_written(DWORD error, DWORD bytes, OVERLAPPED *overlapped)
{
    struct write *write = (struct write *)overlapped;
    if (error != ERROR_SUCCESS || bytes != write->size) {
        SetLastError(error);
        fail("writing");
    }
    if (by_routines)
        free(write);
}

static void with_routines(void)
{
    begin_read();
    for (int n = 0; n < count; n++) {
        struct write *write = calloc(1, sizeof *write);
        if (write == NULL)
            fail("calloc");
        write->size = make_text(write->text, n);
        if (!WriteFileEx(pipe, write->text, write->size, &write->overlapped, was_written))
            fail("WriteFileEx");
    }
    while (!over)
        SleepEx(INFINITE, TRUE);
}

static void with_events(void)
{
    char text[ROOM];
    DWORD bytes, size = 0;
    HANDLE events[2];
    for (int i = 0; i < 2; i++) {
        events[i] = CreateEventW(NULL, TRUE, FALSE, NULL);
        if (events[i] == NULL)
            fail("CreateEvent");
    }
    reading.hEvent = events[0];
    writing.hEvent = events[1];
    begin_read();
    for (int sent = -1;;) {
        // The first time nothing has been sent yet.
        DWORD which = WAIT_OBJECT_0 + 1;
        if (sent >= 0)
            which = WaitForMultipleObjects(2, events, FALSE, INFINITE);
        if (which == WAIT_OBJECT_0) {
            BOOL whole = GetOverlappedResult(pipe, &reading, &bytes, FALSE);
            if (!whole && GetLastError() != ERROR_MORE_DATA)
                fail("reading");
            received(bytes, whole);
            if (over)
                return;
            begin_read();
        } else if (which == WAIT_OBJECT_0 + 1) {
            if (sent >= 0 && (!GetOverlappedResult(pipe, &writing, &bytes, FALSE) || bytes != size))
                fail("writing");
            ResetEvent(events[1]);
            if (++sent < count) {
                size = make_text(text, sent);
                if (!WriteFile(pipe, text, size, NULL, &writing) &&
                    GetLastError() != ERROR_IO_PENDING)
                    fail("WriteFile");
            }
        } else {
            fail("WaitForMultipleObjects");
        }
    }
}

static void serve(const char *name)
{
    OVERLAPPED connecting = {0};
    DWORD none;
    pipe = CreateNamedPipeA(name, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
                            PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE | PIPE_WAIT,
                            PIPE_UNLIMITED_INSTANCES, BUFFER_SIZE, BUFFER_SIZE, 5000, NULL);
    if (pipe == INVALID_HANDLE_VALUE)
        fail("CreateNamedPipe");
    connecting.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (connecting.hEvent == NULL)
        fail("CreateEvent");
    BOOL at_once = ConnectNamedPipe(pipe, &connecting);
    DWORD error = GetLastError();
    printf("ready\n");
    if (!at_once && error == ERROR_IO_PENDING) {
        if (!GetOverlappedResult(pipe, &connecting, &none, TRUE))
            fail("waiting for a client");
    } else if (!at_once && error != ERROR_PIPE_CONNECTED) {
        fail("ConnectNamedPipe");
    }
}

static void connect_to(const char *name)
{
    for (;;) {
        pipe = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
                           FILE_FLAG_OVERLAPPED, NULL);
        if (pipe != INVALID_HANDLE_VALUE)
            return;
        if (GetLastError() != ERROR_PIPE_BUSY)
            fail("CreateFile");
        if (!WaitNamedPipeA(name, NMPWAIT_USE_DEFAULT_WAIT))
            fail("WaitNamedPipe");
    }
}

int main(int argc, char **argv)
{
    // Whoever started this reads along.
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc != 6) {
        printf("usage: text_peer PIPE server|client events|routines COUNT LONGEST\n");
        return 1;
    }
    is_server = strcmp(argv[2], "server") == 0;
    by_routines = strcmp(argv[3], "routines") == 0;
    count = atoi(argv[4]);
    longest = strtoul(argv[5], NULL, 10);
    if (is_server)
        serve(argv[1]);
    else
        connect_to(argv[1]);
    if (by_routines)
        with_routines();
    else
        with_events();
    if (is_server)
        DisconnectNamedPipe(pipe);
    CloseHandle(pipe);
    return 0;
}
