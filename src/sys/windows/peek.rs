//! What has arrived in a pipe and was not read yet.
//!
//! Not by PeekNamedPipe. Since version 8, Windows answers the request behind it with STATUS_PENDING
//! (Wine's dlls/ntdll/tests/pipe.c, `test_completion`), and then PeekNamedPipe waits for the pipe's
//! handle (ReactOS, dll/win32/kernel32/client/file/npipe.c). A read or write that begins between the
//! answer and that wait resets the handle's signal until some operation ends. That may be a write
//! which waits for this very reader. So this uses an event of its own.

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "it is const, which is not seen where the target has no thread-local storage of its own"
)]

use std::cell::OnceCell;
use std::io;
use std::mem::offset_of;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, OwnedHandle};
use std::ptr::null;

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_PIPE_CLOSING_STATE, FILE_PIPE_PEEK_BUFFER, FSCTL_PIPE_PEEK, NtFsControlFile,
};
use windows_sys::Win32::Foundation::{
    RtlNtStatusToDosError, STATUS_BUFFER_OVERFLOW, STATUS_PENDING, WAIT_OBJECT_0,
};
use windows_sys::Win32::System::IO::IO_STATUS_BLOCK;
use windows_sys::Win32::System::Threading::{INFINITE, WaitForSingleObject};

use super::listener::new_event;

thread_local! {
    /// A thread asks one question at a time.
    static EVENT: OnceCell<OwnedHandle> = const { OnceCell::new() };
}

/// How much has arrived and was not read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread {
    pub(super) bytes: u32,
    /// Of the first message alone; 0 in a pipe of bytes.
    pub(super) message: u32,
    /// Whether the peer has left. Then the unread bytes are its last.
    peer_has_left: bool,
}

/// Asks the system, and waits for nothing but its answer.
pub(super) fn unread(pipe: BorrowedHandle<'_>) -> io::Result<Unread> {
    let asked = EVENT.try_with(|event| {
        let event = match event.get() {
            Some(event) => event,
            None => {
                let made = new_event()?;
                event.get_or_init(|| made)
            }
        };
        ask(pipe, event)
    });
    asked.map_err(io::Error::other)?
}

/// Whether the peer is there.
pub(super) fn has_peer(pipe: BorrowedHandle<'_>) -> bool {
    unread(pipe).is_ok_and(|it| !it.peer_has_left)
}

fn ask(pipe: BorrowedHandle<'_>, event: &OwnedHandle) -> io::Result<Unread> {
    let mut answer = FILE_PIPE_PEEK_BUFFER::default();
    let mut result = IO_STATUS_BLOCK::default();
    // SAFETY: both handles are open. `answer` has room for what precedes the data; the data itself
    // is not asked for. It and `result` are kept until the system is done with them, below. Without
    // a context, no completion port is notified.
    let mut status = unsafe {
        NtFsControlFile(
            pipe.as_raw_handle(),
            event.as_raw_handle(),
            None,
            null(),
            &mut result,
            FSCTL_PIPE_PEEK,
            null(),
            0,
            (&raw mut answer).cast(),
            offset_of!(FILE_PIPE_PEEK_BUFFER, Data) as u32,
        )
    };
    if status == STATUS_PENDING {
        // The pipe file system never keeps such a request, so this is over in a moment.
        // SAFETY: the handle is open.
        if unsafe { WaitForSingleObject(event.as_raw_handle(), INFINITE) } != WAIT_OBJECT_0 {
            // The system would write to variables that are gone.
            std::process::abort();
        }
        // SAFETY: the request is over, and the status is what the system has written.
        status = unsafe { result.Anonymous.Status };
    }
    // A warning: there is more than was asked for.
    if status < 0 && status != STATUS_BUFFER_OVERFLOW {
        // SAFETY: takes a number.
        let error = unsafe { RtlNtStatusToDosError(status) };
        return Err(io::Error::from_raw_os_error(error as i32));
    }
    Ok(Unread {
        bytes: answer.ReadDataAvailable,
        message: answer.MessageLength,
        peer_has_left: answer.NamedPipeState == FILE_PIPE_CLOSING_STATE,
    })
}
