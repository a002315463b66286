//! Waiting for a free instance as WaitNamedPipe does, without its blocked thread.
//!
//! WaitNamedPipe sends the control code FSCTL_PIPE_WAIT to the root of the pipe file system and
//! blocks until that completes. So does this, as an overlapped operation.

use std::fs::OpenOptions;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use windows_sys::Wdk::Storage::FileSystem::FSCTL_PIPE_WAIT;
use windows_sys::Win32::Foundation::{ERROR_SEM_TIMEOUT, ERROR_SUCCESS, GetLastError};
use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_OVERLAPPED, FILE_READ_ATTRIBUTES};
use windows_sys::Win32::System::Pipes::{NMPWAIT_NOWAIT, WaitNamedPipeW};

use super::name;
use super::overlapped::{Cancelling, File, Op};
use super::stream::ConnectOptions;
use crate::PipeName;
use crate::sys::Waited;

/// Waits until an instance of the pipe is free, or until the server's default time-out has passed
/// if `options` say so. Somebody else may be faster to take it.
///
/// Dropping the future ends the wait.
pub(crate) async fn wait_until_free(pipe: &PipeName, options: &ConnectOptions) -> Waited {
    let path = pipe.as_path();
    // Another machine's pipes have another root.
    let (true, Ok(root)) = (name::is_local(path), root()) else {
        return Waited::Unsupported;
    };
    let (input, len) = request(path, options.server_default_wait);
    let outcome = Cancelling(Op::control(&root, FSCTL_PIPE_WAIT, input, len)).await;
    match outcome.error {
        ERROR_SUCCESS => Waited::Free,
        ERROR_SEM_TIMEOUT => Waited::TimedOut,
        // Also ERROR_FILE_NOT_FOUND. The server may have gone, and connecting will say so. Or the
        // pipe goes by another name here than for those who connect: they had better pause.
        _ => Waited::Unsupported,
    }
}

/// Whether the system says that there is a pipe of this name. Does not connect to it.
pub(super) fn exists(path: &Path) -> bool {
    let path: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
    // SAFETY: the path ends with NUL. With this time-out the call does not wait.
    let free = unsafe { WaitNamedPipeW(path.as_ptr(), NMPWAIT_NOWAIT) } != 0;
    // SAFETY: reads this thread's last error.
    free || unsafe { GetLastError() } == ERROR_SEM_TIMEOUT
}

/// The root of the pipe file system, opened once.
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
fn request(path: &Path, server_default: bool) -> (Vec<u64>, u32) {
    let name: Vec<u16> = name::pipe(path).collect();
    let mut bytes = Vec::with_capacity(14 + 2 * name.len());
    // Negative: relative to now. So far away that it never comes; our own clock is the deadline.
    bytes.extend_from_slice(&i64::MIN.to_ne_bytes());
    bytes.extend_from_slice(&(2 * name.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&[!server_default as u8, 0]);
    bytes.extend(name.iter().flat_map(|unit| unit.to_ne_bytes()));
    let len = bytes.len() as u32;
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let words = bytes
        .chunks_exact(8)
        .map(|it| u64::from_ne_bytes(it.try_into().expect("8 bytes")));
    (words.collect(), len)
}
