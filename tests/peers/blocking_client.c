// A client that blocks, made of the calls of the Win32 documentation.
//
//   blocking_client PIPE WAIT MODE [ARGUMENT...]
//
// WAIT is how long a busy pipe is waited for, in milliseconds; 0 is what the server has set. Says
// "busy" whenever it has to wait. Checks every byte that comes back; the first one that is wrong
// ends it with a line that says what failed, and code 1. A wait that timed out is code 2.
//
//   echo SIZE...         writes a message and reads one, in small reads
//   transact SIZE...     the same by TransactNamedPipe
//   call SIZE...         the same by CallNamedPipe, each in a connection of its own
//   text ansi|utf16      one text with its NUL, which comes back with another in front
//   half-close SIZE...   all messages, then an empty one; then reads up to an empty one
//   frames SIZE...       a pipe of bytes, each message behind its length in 4 bytes
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

// Small enough for most messages not to fit.
#define READ_SIZE 4096

static const char *pipe_name;
static wchar_t wide_name[300];
static DWORD wait_time;

static void fail(const char *what)
{
    DWORD error = GetLastError();
    printf("%s failed, the last error is %lu\n", what, error);
    exit(1);
}

static BYTE *allocate(size_t size)
{
    BYTE *memory = malloc(size + 1);
    if (memory == NULL)
        fail("malloc");
    return memory;
}

// Bytes that tell where they belong, the same as in the tests that start this.
static void fill(BYTE *message, DWORD size, int seed)
{
    for (DWORD i = 0; i < size; i++)
        message[i] = (BYTE)((i % 251 + seed) * 31 % 251);
}

static void check(const BYTE *sent, const BYTE *received, DWORD size, DWORD got)
{
    if (got != size || memcmp(sent, received, size) != 0) {
        printf("%lu bytes came back otherwise, as %lu\n", size, got);
        exit(1);
    }
}

static HANDLE open_pipe(void)
{
    for (;;) {
        HANDLE pipe = CreateFileW(wide_name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
                                  0, NULL);
        if (pipe != INVALID_HANDLE_VALUE)
            return pipe;
        if (GetLastError() != ERROR_PIPE_BUSY)
            fail("CreateFile");
        printf("busy\n");
        if (!WaitNamedPipeW(wide_name, wait_time)) {
            if (GetLastError() == ERROR_SEM_TIMEOUT) {
                printf("timed out\n");
                exit(2);
            }
            fail("WaitNamedPipe");
        }
        // Somebody else may have been faster.
    }
}

static HANDLE open_message_pipe(void)
{
    HANDLE pipe = open_pipe();
    DWORD mode = PIPE_READMODE_MESSAGE;
    if (!SetNamedPipeHandleState(pipe, &mode, NULL, NULL))
        fail("SetNamedPipeHandleState");
    return pipe;
}

static void write_all(HANDLE pipe, const void *data, DWORD size)
{
    DWORD written = 0;
    if (!WriteFile(pipe, data, size, &written, NULL))
        fail("WriteFile");
    if (written != size)
        fail("writing everything");
}

// Reads the rest of one message into what has room for `room` bytes.
static DWORD read_message(HANDLE pipe, BYTE *buffer, DWORD room)
{
    DWORD size = 0;
    for (;;) {
        DWORD few = room - size < READ_SIZE ? room - size : READ_SIZE;
        DWORD got = 0;
        BOOL whole = ReadFile(pipe, buffer + size, few, &got, NULL);
        if (!whole && GetLastError() != ERROR_MORE_DATA)
            fail("ReadFile");
        size += got;
        if (whole)
            return size;
        if (size == room)
            fail("a message as short as the one sent");
    }
}

static void echo(int count, char **sizes)
{
    HANDLE pipe = open_message_pipe();
    for (int i = 0; i < count; i++) {
        DWORD size = strtoul(sizes[i], NULL, 10);
        BYTE *sent = allocate(size), *received = allocate(size);
        fill(sent, size, i);
        write_all(pipe, sent, size);
        check(sent, received, size, read_message(pipe, received, size + 1));
        free(sent);
        free(received);
    }
    CloseHandle(pipe);
}

static void transact(int count, char **sizes)
{
    HANDLE pipe = open_message_pipe();
    for (int i = 0; i < count; i++) {
        DWORD size = strtoul(sizes[i], NULL, 10), got = 0;
        DWORD first = size < READ_SIZE ? size : READ_SIZE;
        BYTE *sent = allocate(size), *received = allocate(size);
        fill(sent, size, i);
        if (!TransactNamedPipe(pipe, sent, size, received, first, &got, NULL)) {
            if (GetLastError() != ERROR_MORE_DATA)
                fail("TransactNamedPipe");
            got += read_message(pipe, received + got, size + 1 - got);
        }
        check(sent, received, size, got);
        free(sent);
        free(received);
    }
    CloseHandle(pipe);
}

static void call(int count, char **sizes)
{
    for (int i = 0; i < count; i++) {
        DWORD size = strtoul(sizes[i], NULL, 10), got = 0;
        BYTE *sent = allocate(size), *received = allocate(size);
        BOOL done;
        fill(sent, size, 0);
        if (i % 2 == 0)
            done = CallNamedPipeW(wide_name, sent, size, received, size + 1, &got, wait_time);
        else
            done = CallNamedPipeA(pipe_name, sent, size, received, size + 1, &got, wait_time);
        if (!done)
            fail("CallNamedPipe");
        check(sent, received, size, got);
        free(sent);
        free(received);
    }
}

static void text(const char *encoding)
{
    // The Euro sign is one byte in code page 1252 and two in UTF-16; the last two units are one
    // character beyond the first 65,536.
    static const char ansi[] = "Gr\xFC\xDF" "e f\xFCr 5 \x80";
    static const char ansi_answer[] = "got: Gr\xFC\xDF" "e f\xFCr 5 \x80";
    static const wchar_t utf16[] = L"Gr\x00FC\x00DF" L"e \x4E16\x754C \xD83D\xDE80";
    static const wchar_t utf16_answer[] = L"got: Gr\x00FC\x00DF" L"e \x4E16\x754C \xD83D\xDE80";
    HANDLE pipe = open_message_pipe();
    BYTE received[200];
    if (strcmp(encoding, "ansi") == 0) {
        write_all(pipe, ansi, sizeof ansi);
        DWORD got = read_message(pipe, received, sizeof received);
        check((const BYTE *)ansi_answer, received, sizeof ansi_answer, got);
    } else {
        write_all(pipe, utf16, sizeof utf16);
        DWORD got = read_message(pipe, received, sizeof received);
        check((const BYTE *)utf16_answer, received, sizeof utf16_answer, got);
    }
    CloseHandle(pipe);
}

static void half_close(int count, char **sizes)
{
    HANDLE pipe = open_message_pipe();
    BYTE last[1];
    for (int i = 0; i < count; i++) {
        DWORD size = strtoul(sizes[i], NULL, 10);
        BYTE *sent = allocate(size);
        fill(sent, size, i);
        write_all(pipe, sent, size);
        free(sent);
    }
    write_all(pipe, "", 0);
    for (int i = 0; i < count; i++) {
        DWORD size = strtoul(sizes[i], NULL, 10);
        BYTE *sent = allocate(size), *received = allocate(size);
        fill(sent, size, i);
        check(sent, received, size, read_message(pipe, received, size + 1));
        free(sent);
        free(received);
    }
    if (read_message(pipe, last, sizeof last) != 0)
        fail("an empty message as the last one");
    CloseHandle(pipe);
}

static void read_exactly(HANDLE pipe, BYTE *buffer, DWORD size)
{
    while (size > 0) {
        DWORD got = 0;
        if (!ReadFile(pipe, buffer, size, &got, NULL))
            fail("ReadFile");
        buffer += got;
        size -= got;
    }
}

static void frames(int count, char **sizes)
{
    HANDLE pipe = open_pipe();
    for (int i = 0; i < count; i++) {
        DWORD size = strtoul(sizes[i], NULL, 10);
        BYTE header[4] = {(BYTE)(size >> 24), (BYTE)(size >> 16), (BYTE)(size >> 8), (BYTE)size};
        BYTE answer[4];
        BYTE *sent = allocate(size), *received = allocate(size);
        fill(sent, size, i);
        write_all(pipe, header, sizeof header);
        if (size > 0)
            write_all(pipe, sent, size);
        read_exactly(pipe, answer, sizeof answer);
        check(header, answer, sizeof header, sizeof answer);
        read_exactly(pipe, received, size);
        check(sent, received, size, size);
        free(sent);
        free(received);
    }
    CloseHandle(pipe);
}

int main(int argc, char **argv)
{
    // Whoever started this reads along.
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc < 5) {
        printf("usage: blocking_client PIPE WAIT MODE ARGUMENT...\n");
        return 1;
    }
    pipe_name = argv[1];
    wait_time = strtoul(argv[2], NULL, 10);
    if (MultiByteToWideChar(CP_ACP, 0, pipe_name, -1, wide_name, 300) == 0)
        fail("MultiByteToWideChar");
    const char *mode = argv[3];
    int count = argc - 4;
    char **rest = argv + 4;
    if (strcmp(mode, "echo") == 0)
        echo(count, rest);
    else if (strcmp(mode, "transact") == 0)
        transact(count, rest);
    else if (strcmp(mode, "call") == 0)
        call(count, rest);
    else if (strcmp(mode, "text") == 0)
        text(rest[0]);
    else if (strcmp(mode, "half-close") == 0)
        half_close(count, rest);
    else if (strcmp(mode, "frames") == 0)
        frames(count, rest);
    else
        fail("finding that mode");
    return 0;
}
