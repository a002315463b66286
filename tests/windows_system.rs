//! What the crate relies on of Windows itself, by raw calls where the crate's own interface does not
//! show it: see docs/windows.md.
#![cfg(windows)]

mod common;

use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::pin::Pin;
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{Error, PipeClient, PipeServer};
use common::{PATIENCE, pair_of, sample, skipped, transports, under_wine, unique_name, within};
use futures::{FutureExt, SinkExt, StreamExt};
use windows_sys::Wdk::Storage::FileSystem::{
    FILE_PIPE_CLOSING_STATE, FILE_PIPE_CONNECTED_STATE, FILE_PIPE_PEEK_BUFFER, FSCTL_PIPE_PEEK,
    NtFsControlFile,
};
use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_CANNOT_IMPERSONATE,
    ERROR_FILE_NOT_FOUND, ERROR_INVALID_NAME, ERROR_IO_INCOMPLETE, ERROR_IO_PENDING,
    ERROR_MORE_DATA, ERROR_NO_DATA, ERROR_NOT_FOUND, ERROR_OPERATION_ABORTED, ERROR_PIPE_BUSY,
    ERROR_PIPE_CONNECTED, ERROR_PIPE_NOT_CONNECTED, ERROR_SEM_TIMEOUT, GENERIC_READ, GENERIC_WRITE,
    GetLastError, HANDLE, INVALID_HANDLE_VALUE, STATUS_PENDING,
};
use windows_sys::Win32::Security::{RevertToSelf, TOKEN_QUERY};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, FlushFileBuffers,
    OPEN_EXISTING, PIPE_ACCESS_DUPLEX, PIPE_ACCESS_INBOUND, PIPE_ACCESS_OUTBOUND, ReadFile,
    WriteFile,
};
use windows_sys::Win32::System::IO::{
    CancelIoEx, CancelSynchronousIo, GetOverlappedResult, IO_STATUS_BLOCK, OVERLAPPED,
};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, DisconnectNamedPipe, ImpersonateNamedPipeClient,
    NMPWAIT_NOWAIT, PIPE_READMODE_BYTE, PIPE_READMODE_MESSAGE, PIPE_TYPE_BYTE, PIPE_TYPE_MESSAGE,
    PIPE_UNLIMITED_INSTANCES, WaitNamedPipeW,
};
use windows_sys::Win32::System::Threading::{
    CreateEventW, GetCurrentThread, INFINITE, OpenThreadToken, WaitForSingleObject,
};

const BYTES: u32 = PIPE_TYPE_BYTE | PIPE_READMODE_BYTE;
const MESSAGES: u32 = PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE;
const QUOTA: u32 = 4 << 10;

fn path(what: &str) -> String {
    format!(r"\\.\pipe\{}", unique_name(what))
}

fn wide(path: &str) -> Vec<u16> {
    path.encode_utf16().chain([0]).collect()
}

fn last_error() -> u32 {
    // SAFETY: reads this thread's last error.
    unsafe { GetLastError() }
}

/// Makes an instance of a pipe, or says the error's number.
fn instance(path: &str, open: u32, mode: u32, limit: u32) -> Result<OwnedHandle, u32> {
    // SAFETY: the path ends with NUL; no security attributes.
    let handle = unsafe {
        CreateNamedPipeW(
            wide(path).as_ptr(),
            open | FILE_FLAG_OVERLAPPED,
            mode,
            limit,
            QUOTA,
            QUOTA,
            0,
            null(),
        )
    };
    // SAFETY: the call has just given us this handle, and nobody else has it.
    unsafe { owned(handle) }
}

/// What a call has given, or the error's number.
///
/// # Safety
///
/// The handle is the call's, which was the last one of this thread, and nobody else has it.
unsafe fn owned(handle: HANDLE) -> Result<OwnedHandle, u32> {
    if handle == INVALID_HANDLE_VALUE {
        return Err(last_error());
    }
    // SAFETY: the caller answers for it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

fn duplex(path: &str, mode: u32) -> Result<OwnedHandle, u32> {
    instance(path, PIPE_ACCESS_DUPLEX, mode, PIPE_UNLIMITED_INSTANCES)
}

/// Opens a client's end, or says the error's number.
fn open(path: &str, access: u32) -> Result<OwnedHandle, u32> {
    let path = wide(path);
    let flags = FILE_FLAG_OVERLAPPED;
    // SAFETY: the path ends with NUL; no security attributes, no template.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            access,
            0,
            null(),
            OPEN_EXISTING,
            flags,
            null_mut(),
        )
    };
    // SAFETY: the call has just given us this handle, and nobody else has it.
    unsafe { owned(handle) }
}

/// The server's end of a pipe, and the client's.
fn ends(mode: u32) -> (OwnedHandle, OwnedHandle) {
    let path = path("raw");
    let server = duplex(&path, mode).unwrap();
    let client = open(&path, GENERIC_READ | GENERIC_WRITE).unwrap();
    let mut listening = Operation::new();
    // SAFETY: the handle is open, and the structure outlives the call, which a client has ended.
    let done = unsafe { ConnectNamedPipe(server.as_raw_handle(), listening.overlapped()) };
    assert_eq!((done, last_error()), (0, ERROR_PIPE_CONNECTED));
    (server, client)
}

/// Read or write, with all that the system touches.
struct Operation {
    overlapped: Box<OVERLAPPED>,
    _event: OwnedHandle,
    buffer: Vec<u8>,
    /// What the call itself has said, unless the system goes on with it.
    refused: Option<u32>,
}

fn event() -> OwnedHandle {
    // SAFETY: no attributes, no name; nobody else has the handle.
    let event = unsafe { owned(CreateEventW(null(), 1, 0, null())) }.unwrap();
    assert!(!event.as_raw_handle().is_null(), "{}", last_error());
    event
}

impl Operation {
    fn new() -> Self {
        let event = event();
        Operation {
            overlapped: Box::new(OVERLAPPED {
                hEvent: event.as_raw_handle(),
                ..OVERLAPPED::default()
            }),
            _event: event,
            buffer: vec![],
            refused: None,
        }
    }

    fn overlapped(&mut self) -> *mut OVERLAPPED {
        &raw mut *self.overlapped
    }

    fn begun(mut self, done: i32) -> Self {
        if done == 0 {
            self.refused =
                Some(last_error()).filter(|it| ![ERROR_IO_PENDING, ERROR_MORE_DATA].contains(it));
        }
        self
    }

    fn read(pipe: &OwnedHandle, size: usize) -> Self {
        let mut this = Self::new();
        this.buffer = vec![0; size];
        let (buffer, overlapped) = (this.buffer.as_mut_ptr(), this.overlapped());
        // SAFETY: the caller keeps what is returned until the system is done with it.
        let done = unsafe {
            let pipe = pipe.as_raw_handle();
            ReadFile(pipe, buffer, size as u32, null_mut(), overlapped)
        };
        this.begun(done)
    }

    fn write(pipe: &OwnedHandle, bytes: &[u8]) -> Self {
        let mut this = Self::new();
        this.buffer = bytes.to_vec();
        let (buffer, overlapped) = (this.buffer.as_ptr(), this.overlapped());
        // SAFETY: as for reading.
        let done = unsafe {
            let (pipe, size) = (pipe.as_raw_handle(), bytes.len() as u32);
            WriteFile(pipe, buffer, size, null_mut(), overlapped)
        };
        this.begun(done)
    }

    /// How many bytes were moved, or the error's number.
    fn result(&mut self, pipe: &OwnedHandle, wait: bool) -> Result<usize, u32> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let (overlapped, mut bytes) = (self.overlapped(), 0);
        // SAFETY: the handle is open, and the operation was begun with this structure.
        let done = unsafe {
            GetOverlappedResult(pipe.as_raw_handle(), overlapped, &mut bytes, wait.into())
        };
        match done {
            0 => Err(last_error()),
            _ => Ok(bytes as usize),
        }
    }

    /// Waits for the end. The caller has made sure that it comes.
    fn ended(mut self, pipe: &OwnedHandle) -> Result<Vec<u8>, u32> {
        let size = self.result(pipe, true)?;
        self.buffer.truncate(size);
        Ok(self.buffer)
    }

    fn is_pending(&mut self, pipe: &OwnedHandle) -> bool {
        self.result(pipe, false) == Err(ERROR_IO_INCOMPLETE)
    }
}

/// What a wait says that is as short as can be.
fn waited(path: &str) -> Result<(), u32> {
    // SAFETY: the path ends with NUL.
    match unsafe { WaitNamedPipeW(wide(path).as_ptr(), NMPWAIT_NOWAIT) } {
        0 => Err(last_error()),
        _ => Ok(()),
    }
}

fn disconnect(pipe: &OwnedHandle) {
    // SAFETY: the handle is open.
    let done = unsafe { DisconnectNamedPipe(pipe.as_raw_handle()) };
    assert_ne!(done, 0, "{}", last_error());
}

#[test]
fn each_way_of_not_getting_a_pipe_has_its_code() {
    let both = GENERIC_READ | GENERIC_WRITE;
    let missing = path("missing");
    assert_eq!(open(&missing, both).unwrap_err(), ERROR_FILE_NOT_FOUND);

    let one = path("one");
    let _server = instance(&one, PIPE_ACCESS_DUPLEX, BYTES, 1).unwrap();
    let again = instance(&one, PIPE_ACCESS_DUPLEX, BYTES, 1);
    assert_eq!(again.unwrap_err(), ERROR_PIPE_BUSY);
    let client = open(&one, both).unwrap();
    assert_eq!(open(&one, both).unwrap_err(), ERROR_PIPE_BUSY);
    drop(client);
    // It was not disconnected, and so does not listen.
    assert_eq!(open(&one, both).unwrap_err(), ERROR_PIPE_BUSY);

    let out = path("out");
    let _server = instance(&out, PIPE_ACCESS_OUTBOUND, BYTES, 2).unwrap();
    assert_eq!(open(&out, both).unwrap_err(), ERROR_ACCESS_DENIED);
    let other = instance(&out, PIPE_ACCESS_INBOUND, BYTES, 2);
    assert_eq!(other.unwrap_err(), ERROR_ACCESS_DENIED);
    open(&out, GENERIC_READ).unwrap();

    if under_wine() {
        return skipped("Wine enforces neither FILE_FLAG_FIRST_PIPE_INSTANCE nor flat names");
    }
    let path = path("first");
    let _server = duplex(&path, BYTES).unwrap();
    let first = PIPE_ACCESS_DUPLEX | FILE_FLAG_FIRST_PIPE_INSTANCE;
    let again = instance(&path, first, BYTES, PIPE_UNLIMITED_INSTANCES);
    assert_eq!(again.unwrap_err(), ERROR_ACCESS_DENIED);
    let below = format!(r"{path}\below");
    assert_eq!(duplex(&below, BYTES).unwrap_err(), ERROR_INVALID_NAME);
    assert_eq!(open(&below, both).unwrap_err(), ERROR_INVALID_NAME);
}

#[test]
fn each_way_of_losing_the_peer_has_its_code() {
    for mode in [BYTES, MESSAGES] {
        let pairs = || {
            let (server, client) = ends(mode);
            let (other_client, other_server) = ends(mode);
            [(server, client), (other_server, other_client)]
        };
        // Closed: what was written before is read first.
        for (ours, theirs) in pairs() {
            Operation::write(&theirs, b"last").ended(&theirs).unwrap();
            drop(theirs);
            assert_eq!(Operation::read(&ours, 10).ended(&ours).unwrap(), b"last");
            let read = Operation::read(&ours, 10).ended(&ours);
            assert_eq!(read, Err(ERROR_BROKEN_PIPE));
            let write = Operation::write(&ours, b"late").ended(&ours);
            assert_eq!(write, Err(ERROR_NO_DATA));
        }
        for (ours, theirs) in pairs() {
            let read = Operation::read(&ours, 10);
            let mut write = Operation::write(&ours, &[0; 3 * QUOTA as usize]);
            assert!(write.is_pending(&ours));
            drop(theirs);
            assert_eq!(read.ended(&ours), Err(ERROR_BROKEN_PIPE));
            assert_eq!(write.ended(&ours), Err(ERROR_BROKEN_PIPE));
        }
        // Put out: what was written before is lost.
        let (server, client) = ends(mode);
        Operation::write(&server, b"lost").ended(&server).unwrap();
        disconnect(&server);
        for end in [&client, &server] {
            let read = Operation::read(end, 10).ended(end);
            assert_eq!(read, Err(ERROR_PIPE_NOT_CONNECTED));
            let write = Operation::write(end, b"late").ended(end);
            assert_eq!(write, Err(ERROR_PIPE_NOT_CONNECTED));
        }
        let (server, client) = ends(mode);
        let read = Operation::read(&client, 10);
        let mut write = Operation::write(&client, &[0; 3 * QUOTA as usize]);
        assert!(write.is_pending(&client));
        disconnect(&server);
        assert_eq!(read.ended(&client), Err(ERROR_PIPE_NOT_CONNECTED));
        assert_eq!(write.ended(&client), Err(ERROR_PIPE_NOT_CONNECTED));
        // Called off.
        let (server, _client) = ends(mode);
        let mut read = Operation::read(&server, 10);
        // SAFETY: the handle is open, and the operation was begun with this structure.
        unsafe { CancelIoEx(server.as_raw_handle(), read.overlapped()) };
        assert_eq!(read.ended(&server), Err(ERROR_OPERATION_ABORTED));
    }
}

#[test]
fn a_flush_of_an_overlapped_end_is_called_off_by_another_thread() {
    let (server, client) = ends(BYTES);
    let server = Arc::new(server);
    Operation::write(&server, b"unread").ended(&server).unwrap();
    let pipe = server.clone();
    let flushing = std::thread::spawn(move || {
        // SAFETY: the handle is open.
        match unsafe { FlushFileBuffers(pipe.as_raw_handle()) } {
            0 => Err(last_error()),
            _ => Ok(()),
        }
    });
    let start = Instant::now();
    // SAFETY: the handle is a thread's, and is open.
    while unsafe { CancelSynchronousIo(flushing.as_raw_handle()) } == 0 {
        // It is not there yet.
        assert_eq!(last_error(), ERROR_NOT_FOUND);
        assert!(start.elapsed() < PATIENCE, "nothing to call off");
        std::thread::yield_now();
    }
    assert_eq!(flushing.join().unwrap(), Err(ERROR_OPERATION_ABORTED));
    let read = Operation::read(&client, 10).ended(&client);
    assert_eq!(read.unwrap(), b"unread");
}

#[test]
fn the_shortest_wait_tells_whether_there_is_a_pipe() {
    let path = path("short");
    assert_eq!(waited(&path), Err(ERROR_FILE_NOT_FOUND));
    let server = duplex(&path, BYTES).unwrap();
    assert_eq!(waited(&path), Ok(()));
    let client = open(&path, GENERIC_READ | GENERIC_WRITE).unwrap();
    assert_eq!(waited(&path), Err(ERROR_SEM_TIMEOUT));
    disconnect(&server);
    assert_eq!(waited(&path), Err(ERROR_SEM_TIMEOUT));
    drop((server, client));
    assert_eq!(waited(&path), Err(ERROR_FILE_NOT_FOUND));
}

#[test]
fn a_client_cannot_be_impersonated_before_something_was_read() {
    let (server, client) = ends(BYTES);
    let impersonated = || {
        // SAFETY: the handle is open; what this thread was before is restored at once.
        if unsafe { ImpersonateNamedPipeClient(server.as_raw_handle()) } == 0 {
            return Err(last_error());
        }
        // The call may say so whatever came of it: then the thread has no token.
        let mut token = null_mut();
        // SAFETY: the pseudo-handle is valid; `token` is written on success, and closed then.
        let impersonates = unsafe {
            let found = OpenThreadToken(GetCurrentThread(), TOKEN_QUERY, 1, &mut token) != 0;
            if found {
                CloseHandle(token);
            }
            found
        };
        // SAFETY: no preconditions.
        assert_ne!(unsafe { RevertToSelf() }, 0);
        match impersonates {
            true => Ok(()),
            false => Err(ERROR_CANNOT_IMPERSONATE),
        }
    };
    let early = if under_wine() {
        skipped("Wine tells who the client is before that");
        Ok(())
    } else {
        Err(ERROR_CANNOT_IMPERSONATE)
    };
    assert_eq!(impersonated(), early);
    Operation::write(&client, b"me").ended(&client).unwrap();
    assert_eq!(impersonated(), early);
    assert_eq!(Operation::read(&server, 10).ended(&server).unwrap(), b"me");
    assert_eq!(impersonated(), Ok(()));
    drop(client);
    assert_eq!(impersonated(), Ok(()));
}

#[test]
fn the_state_of_a_pipe_tells_that_the_peer_has_left_something_unread() {
    let state = |pipe: &OwnedHandle| {
        let event = event();
        let mut answer = FILE_PIPE_PEEK_BUFFER::default();
        let mut result = IO_STATUS_BLOCK::default();
        // SAFETY: the handles are open. `answer` and `result` are kept until the system is done.
        unsafe {
            let status = NtFsControlFile(
                pipe.as_raw_handle(),
                event.as_raw_handle(),
                None,
                null(),
                &mut result,
                FSCTL_PIPE_PEEK,
                null(),
                0,
                (&raw mut answer).cast(),
                size_of_val(&answer) as u32,
            );
            if status == STATUS_PENDING {
                WaitForSingleObject(event.as_raw_handle(), INFINITE);
            }
        }
        answer.NamedPipeState
    };
    for mode in [BYTES, MESSAGES] {
        for server_leaves in [true, false] {
            let (server, client) = ends(mode);
            let (stays, leaves) = match server_leaves {
                true => (client, server),
                false => (server, client),
            };
            Operation::write(&leaves, b"bye").ended(&leaves).unwrap();
            assert_eq!(state(&stays), FILE_PIPE_CONNECTED_STATE);
            drop(leaves);
            assert_eq!(state(&stays), FILE_PIPE_CLOSING_STATE);
        }
    }
}

#[tokio::test]
async fn clients_that_keep_their_ends_do_not_keep_the_name_of_a_server_that_has_gone() {
    for (what, server, client) in transports("keeps") {
        let (_kept, accepted) = pair_of(&server, &client).await;
        drop(accepted);
        let client = client.timeout(Duration::ZERO);
        // The end that was dropped may take a moment to be closed.
        let gone = async {
            while !matches!(client.connect().await, Err(Error::NotFound { .. })) {
                tokio::task::yield_now().await;
            }
        };
        within(gone).await;
        let mut server = server.bind().unwrap();
        let (client, accepted) =
            within(async { tokio::join!(client.connect(), server.accept()) }).await;
        client.unwrap().send("again".into()).await.unwrap();
        let mut accepted = accepted.unwrap();
        let message = within(accepted.next()).await.unwrap().unwrap();
        assert_eq!(message, "again", "{what}");
    }
}

/// Polls once, on a thread that ends then.
fn begin_elsewhere<F: Future + Send>(future: Pin<&mut F>) {
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _entered = runtime.enter();
            assert!(future.now_or_never().is_none());
        });
    });
}

#[tokio::test]
async fn what_a_thread_has_begun_goes_on_when_it_ends() {
    for (what, server, client) in transports("thread") {
        let (mut ours, mut theirs) = pair_of(&server, &client).await;
        let large = sample(1 << 20, 0);
        {
            let mut receiving = Box::pin(ours.next());
            let mut sending = Box::pin(theirs.send(large.clone()));
            // In this order: the read has nothing to read yet.
            begin_elsewhere(receiving.as_mut());
            begin_elsewhere(sending.as_mut());
            let (sent, received) = within(async { tokio::join!(sending, receiving) }).await;
            sent.unwrap();
            assert!(received.unwrap().unwrap() == large, "{what}");
        }
        within(async { tokio::try_join!(ours.close(), theirs.close()) })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn who_may_talk_may_ask_for_the_usual_generic_rights() {
    // Others' clients ask for GENERIC_READ and GENERIC_WRITE, which contains the right to make
    // instances. The server's own user has no more than that here, and makes one instance.
    let name = unique_name("generic");
    let builder = PipeServer::builder(&name)
        .security_descriptor("D:P(A;;0x12019b;;;WD)")
        .max_connections(1);
    let mut server = builder.bind().unwrap();
    let client = open(&format!(r"\\.\pipe\{name}"), GENERIC_READ | GENERIC_WRITE).unwrap();
    within(server.accept()).await.unwrap();
    drop(client);
}

#[tokio::test]
async fn a_pipe_without_quotas_carries_everything() {
    for (what, server, client) in transports("no-quota") {
        let (ours, theirs) = pair_of(&server.buffer_sizes(0, 0), &client).await;
        let mut ends = [ours, theirs];
        for size in [0, 1, 5000, 1 << 20] {
            let [ours, theirs] = &mut ends;
            let (sent, received) =
                within(async { tokio::join!(ours.send(sample(size, 0)), theirs.next()) }).await;
            sent.unwrap();
            assert!(received.unwrap().unwrap() == sample(size, 0), "{what}");
            ends.reverse();
        }
    }
}

#[tokio::test]
async fn a_servers_default_timeout_may_be_of_any_length() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    for timeout in [24 * DAY, 25 * DAY, 50 * DAY, Duration::MAX] {
        let name = unique_name("long-default");
        let server = PipeServer::builder(&name).default_timeout(timeout);
        let mut server = server.max_connections(1).bind().unwrap();
        let client = PipeClient::builder(&name);
        let first = within(client.connect()).await.unwrap();
        let accepted = within(server.accept()).await.unwrap();
        // Waited for, and not given up at once.
        let client = client.server_default_timeout().timeout(Duration::MAX);
        let mut waiting = Box::pin(client.connect());
        assert!(common::stays_pending(&mut waiting).await);
        drop((first, accepted));
        let (second, _) = within(async { tokio::join!(waiting, server.accept()) }).await;
        second.unwrap();
    }
}

#[tokio::test]
async fn a_name_that_is_in_use_is_so_by_its_verbatim_path_too() {
    if under_wine() {
        return skipped("Wine does not enforce FILE_FLAG_FIRST_PIPE_INSTANCE");
    }
    for name in [unique_name("verbatim"), unique_name("verbatim") + "/slash"] {
        let path = format!(r"\\?\pipe\{name}");
        let _server = PipeServer::bind(&path).unwrap();
        let error = PipeServer::bind(&path).unwrap_err();
        assert!(matches!(error, Error::AddressInUse { .. }), "{error:?}");
    }
}

#[test]
fn messages_are_read_to_their_end_while_other_threads_write() {
    const COUNT: usize = 50;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let name = unique_name("cross");
        let server = PipeServer::builder(&name).message_mode();
        let client = PipeClient::builder(&name).message_mode();
        let (client, server) = pair_of(&server, &client).await;
        let tasks = [client, server].map(|conn| {
            let (mut sender, mut receiver) = conn.split();
            // More than a first read takes, so that the rest is asked for, and more than the quota.
            let sending = tokio::spawn(async move {
                for n in 0..COUNT {
                    sender.send(sample((100 << 10) + n, n)).await.unwrap();
                }
                sender
            });
            let receiving = tokio::spawn(async move {
                for n in 0..COUNT {
                    let message = receiver.next().await.unwrap().unwrap();
                    assert!(message == sample((100 << 10) + n, n), "message {n}");
                }
                receiver
            });
            async move { (sending.await.unwrap(), receiving.await.unwrap()) }
        });
        within(futures::future::join_all(tasks)).await;
    });
}
