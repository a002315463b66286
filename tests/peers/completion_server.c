// A server that serves all its clients in one thread by completion routines, which run whenever
// the thread waits alertably.
//
//   completion_server [PIPE [CLIENTS]]
//
// Answers each request with the same text, as UTF-16 with its NUL. A request beyond its buffer of
// 4096 characters, and an empty one, make it disconnect the client. Says "ready" when it listens,
// what it was asked, and ends after that many clients, or never.
#define UNICODE
#define _UNICODE
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <tchar.h>

#define CHARACTERS 4096
#define BYTES (CHARACTERS * sizeof(TCHAR))

struct client {
    // First, so that a pointer to it is one to the whole.
    OVERLAPPED overlapped;
    HANDLE pipe;
    TCHAR request[CHARACTERS + 1];
    TCHAR answer[CHARACTERS];
    DWORD answer_bytes;
};

static TCHAR name[300] = TEXT("\\\\.\\pipe\\samplenamedpipe");
static int clients_left = -1;

static VOID WINAPI was_written(DWORD error, DWORD bytes, OVERLAPPED *overlapped);

static void fail(const char *what)
{
    DWORD error = GetLastError();
    printf("%s failed, the last error is %lu\n", what, error);
    exit(1);
}

static void hang_up(struct client *client)
{
    if (!DisconnectNamedPipe(client->pipe))
        fail("DisconnectNamedPipe");
    CloseHandle(client->pipe);
    HeapFree(GetProcessHeap(), 0, client);
    if (clients_left > 0 && --clients_left == 0)
        exit(0);
}

static VOID WINAPI was_read(DWORD error, DWORD bytes, OVERLAPPED *overlapped)
{
    struct client *client = (struct client *)overlapped;
    BOOL begun = FALSE;
    if (error == ERROR_SUCCESS && bytes != 0) {
        client->request[bytes / sizeof(TCHAR)] = TEXT('\0');
        _tprintf(TEXT("%ls\n"), client->request);
        lstrcpyn(client->answer, TEXT("Default answer from server"), CHARACTERS);
        client->answer_bytes = (lstrlen(client->answer) + 1) * sizeof(TCHAR);
        begun = WriteFileEx(client->pipe, client->answer, client->answer_bytes, overlapped,
                            was_written);
    }
    if (!begun)
        hang_up(client);
}

static VOID WINAPI was_written(DWORD error, DWORD bytes, OVERLAPPED *overlapped)
{
    struct client *client = (struct client *)overlapped;
    BOOL begun = FALSE;
    if (error == ERROR_SUCCESS && bytes == client->answer_bytes)
        begun = ReadFileEx(client->pipe, client->request, BYTES, overlapped, was_read);
    if (!begun)
        hang_up(client);
}

// Makes an instance. Whether the event will be signalled by a client that comes, or is already.
static HANDLE wait_for_client(OVERLAPPED *connecting, BOOL *pending)
{
    HANDLE pipe = CreateNamedPipe(name, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
                                  PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE | PIPE_WAIT,
                                  PIPE_UNLIMITED_INSTANCES, BYTES, BYTES, 5000, NULL);
    if (pipe == INVALID_HANDLE_VALUE)
        fail("CreateNamedPipe");
    if (ConnectNamedPipe(pipe, connecting))
        fail("ConnectNamedPipe without waiting");
    *pending = GetLastError() == ERROR_IO_PENDING;
    if (!*pending && GetLastError() != ERROR_PIPE_CONNECTED)
        fail("ConnectNamedPipe");
    if (!*pending && !SetEvent(connecting->hEvent))
        fail("SetEvent");
    return pipe;
}

int main(void)
{
    OVERLAPPED connecting = {0};
    BOOL pending;
    int count;
    TCHAR **arguments = CommandLineToArgvW(GetCommandLine(), &count);
    if (count > 1)
        lstrcpyn(name, arguments[1], 300);
    if (count > 2)
        clients_left = _ttoi(arguments[2]);
    setvbuf(stdout, NULL, _IONBF, 0);

    connecting.hEvent = CreateEvent(NULL, TRUE, TRUE, NULL);
    if (connecting.hEvent == NULL)
        fail("CreateEvent");
    HANDLE pipe = wait_for_client(&connecting, &pending);
    printf("ready\n");
    for (;;) {
        switch (WaitForSingleObjectEx(connecting.hEvent, INFINITE, TRUE)) {
        case WAIT_OBJECT_0: {
            DWORD none;
            if (pending && !GetOverlappedResult(pipe, &connecting, &none, FALSE))
                fail("waiting for a client");
            struct client *client =
                HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, sizeof(struct client));
            if (client == NULL)
                fail("HeapAlloc");
            client->pipe = pipe;
            // As if an empty answer had been written: reads the first request.
            was_written(ERROR_SUCCESS, 0, &client->overlapped);
            pipe = wait_for_client(&connecting, &pending);
            break;
        }
        case WAIT_IO_COMPLETION:
            break;
        default:
            fail("WaitForSingleObjectEx");
        }
    }
}
