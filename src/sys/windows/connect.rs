//! Connecting to a pipe, and waiting for a free instance as WaitNamedPipe does, without its blocked
//! thread.
//!
//! WaitNamedPipe sends the control code FSCTL_PIPE_WAIT to the root of the pipe file system and
//! blocks until that completes (ReactOS's kernel32, client/file/npipe.c). So does this, as an
//! overlapped operation.
//!
//! What the pipe file system answers (ReactOS's NPFS, fsctrl.c, waitsup.c and strucsup.c): success
//! when an instance listens, or begins to; STATUS_IO_TIMEOUT, which is ERROR_SEM_TIMEOUT, after the
//! given time; STATUS_OBJECT_NAME_NOT_FOUND when there is no such pipe, or none any more.

use std::fs::OpenOptions;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::spawn_blocking;
use windows_sys::Wdk::Storage::FileSystem::FSCTL_PIPE_WAIT;
use windows_sys::Win32::Foundation::{
    ERROR_FILE_NOT_FOUND, ERROR_PIPE_BUSY, ERROR_SEM_TIMEOUT, ERROR_SUCCESS, GetLastError,
    INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_OVERLAPPED, FILE_READ_ATTRIBUTES, OPEN_EXISTING, SECURITY_ANONYMOUS,
    SECURITY_IDENTIFICATION, SECURITY_SQOS_PRESENT,
};
use windows_sys::Win32::System::Pipes::{NMPWAIT_NOWAIT, WaitNamedPipeW};

use super::listener::CLIENT_RIGHTS;
use super::name;
use super::overlapped::{Cancelling, File, Op};
use super::stream::Stream;
use super::transport::{End, TransportOptions};
use crate::sys::{Address, PlatformError, Waited};

/// How much longer the system waits than the caller, so that the caller's clock ends the wait.
const SLACK: Duration = Duration::from_secs(1);

/// The longest wait, unless the server has set the time. As long as a client keeps its end of a pipe,
/// the system does not tell clients that wait that the server has gone (ReactOS's NPFS, statesup.c,
/// NpSetClosingPipeState), but it does tell clients that connect (create.c, NpFsdCreate). And where a
/// wait cannot be cancelled, as under Wine 8, it goes on to its end although the caller has given up.
const LONGEST: Duration = Duration::from_secs(10);

/// How a client opens its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectOptions {
    pub(crate) transport: TransportOptions,
    pub(crate) impersonation: Impersonation,
    /// Whether the server says how long this client waits for a busy pipe.
    pub(crate) server_default_wait: bool,
}

/// What a client lets its server do with the client's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Impersonation {
    /// Nothing: the server cannot even tell who the client is.
    Anonymous = SECURITY_ANONYMOUS,
    /// Ask who the client is, and no more. The default.
    #[default]
    Identification = SECURITY_IDENTIFICATION,
}

impl ConnectOptions {
    pub(crate) fn check(&self) -> Result<(), PlatformError> {
        self.transport.check()
    }
}

/// Tries once to connect. Waits for nothing but another machine's answer.
pub(crate) async fn connect(
    address: Address<'_>,
    options: &ConnectOptions,
) -> Result<Stream, PlatformError> {
    let (path, level) = (address.path, options.impersonation);
    let handle = if name::is_local(path) {
        open(path, level)
    } else {
        let path = path.to_owned();
        let opening = spawn_blocking(move || open(&path, level));
        opening.await.unwrap_or_else(|e| Err(io::Error::other(e)))
    };
    handle
        .and_then(|it| End::new(it, false, options.transport))
        .map(Stream::client)
        .map_err(failed)
}

fn failed(error: io::Error) -> PlatformError {
    match error.raw_os_error().map(|it| it as u32) {
        Some(ERROR_FILE_NOT_FOUND) => PlatformError::Missing,
        Some(ERROR_PIPE_BUSY) => PlatformError::Busy,
        None if is_mode_mismatch(&error) => PlatformError::ModeMismatch,
        _ => PlatformError::io("cannot connect to", error),
    }
}

/// Whether the error is the one of [`Pipe::set_message_mode`](super::pipe::Pipe::set_message_mode).
fn is_mode_mismatch(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported && error.get_ref().is_some()
}

/// Opens a client's end, for bytes.
fn open(path: &Path, level: Impersonation) -> io::Result<OwnedHandle> {
    let path: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
    // SAFETY: the path ends with NUL; no security attributes, no template.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            CLIENT_RIGHTS,
            0,
            null(),
            OPEN_EXISTING,
            FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | level as u32,
            null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Waits until it is worth connecting again, or, if `options` say so, until the server's default
/// time-out has passed. The caller waits for `left` at most; `None`: as long as it takes.
///
/// Dropping the future ends the wait.
pub(crate) async fn wait_until_free(
    address: Address<'_>,
    options: &ConnectOptions,
    left: Option<Duration>,
) -> Waited {
    let path = address.path;
    // Another machine's pipes have another root.
    if !name::is_local(path) {
        return Waited::Unsupported;
    }
    let time = match options.server_default_wait {
        true => None,
        false => Some(left.map_or(LONGEST, |it| it.saturating_add(SLACK).min(LONGEST))),
    };
    let error = match root() {
        Ok(root) => {
            let (input, len) = request(path, time);
            let wait = Cancelling(Op::control(&root, FSCTL_PIPE_WAIT, input, len));
            wait.await.error
        }
        Err(error) => error.raw_os_error().unwrap_or_default() as u32,
    };
    match error {
        ERROR_SUCCESS => return Waited::Ended,
        ERROR_SEM_TIMEOUT if options.server_default_wait => return Waited::TimedOut,
        ERROR_SEM_TIMEOUT => return Waited::Ended,
        // The server has gone, and the next attempt to connect will say so. Or the system uses another
        // name for the pipe here than when connecting: then the caller should pause first.
        ERROR_FILE_NOT_FOUND => {}
        _ => {
            let pipe = path.display();
            tracing::debug!(%pipe, error, "no wait for a free instance: asked again and again");
        }
    }
    Waited::Unsupported
}

/// Whether the system says that there is a pipe of this name on this machine. Does not connect to it.
pub(super) fn exists(path: &Path) -> bool {
    // Not the path itself: WaitNamedPipe does not accept `\\?\pipe\NAME` (ReactOS's kernel32,
    // client/file/npipe.c). Wine's does.
    let path: Vec<u16> = name::usual(path).chain([0]).collect();
    // SAFETY: the path ends with NUL. With this time-out the call does not wait.
    let free = unsafe { WaitNamedPipeW(path.as_ptr(), NMPWAIT_NOWAIT) } != 0;
    // SAFETY: reads this thread's last error.
    free || unsafe { GetLastError() } == ERROR_SEM_TIMEOUT
}

/// The root of the pipe file system, opened once. Without the last backslash it would be the device,
/// which answers FSCTL_PIPE_WAIT with STATUS_ILLEGAL_FUNCTION: Wine's dlls/ntdll/tests/pipe.c,
/// test_empty_name, which is run on Windows.
fn root() -> io::Result<Arc<File>> {
    static ROOT: OnceLock<Arc<File>> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(root.clone());
    }
    let root = OpenOptions::new()
        .access_mode(FILE_READ_ATTRIBUTES)
        .custom_flags(FILE_FLAG_OVERLAPPED)
        .open(r"\\.\pipe\")?;
    let root = File::new(root.into())?;
    Ok(ROOT.get_or_init(|| root).clone())
}

/// The structure FILE_PIPE_WAIT_FOR_BUFFER, and its length in bytes:
/// <https://learn.microsoft.com/openspecs/windows_protocols/ms-fscc/f030a3b9-539c-4c7b-a893-86b795b9b711>.
/// `None` means the time that the server has set.
fn request(path: &Path, time: Option<Duration>) -> (Vec<u64>, u32) {
    let name: Vec<u16> = name::pipe(path).collect();
    let mut bytes = Vec::with_capacity(14 + 2 * name.len());
    // In units of 100 ns. Negative: relative to now.
    let units = time.unwrap_or_default().as_nanos() / 100;
    let relative = -i64::try_from(units).unwrap_or(i64::MAX);
    bytes.extend_from_slice(&relative.to_ne_bytes());
    bytes.extend_from_slice(&(2 * name.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&[time.is_some() as u8, 0]);
    bytes.extend(name.iter().flat_map(|unit| unit.to_ne_bytes()));
    let len = bytes.len() as u32;
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let words = bytes
        .chunks_exact(8)
        .map(|it| u64::from_ne_bytes(it.try_into().expect("8 bytes")));
    (words.collect(), len)
}
