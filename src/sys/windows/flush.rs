//! Waiting until the peer has read everything.
//!
//! The system has one call for it, FlushFileBuffers, which blocks its thread for as long as the
//! peer takes. So it runs where blocking is allowed, and is called off when nobody waits for it
//! any more.

use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use windows_sys::Win32::Foundation::{DUPLICATE_SAME_ACCESS, DuplicateHandle};
use windows_sys::Win32::Storage::FileSystem::FlushFileBuffers;
use windows_sys::Win32::System::IO::CancelSynchronousIo;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetCurrentThread};

use super::lock;
use crate::sync::runtime_ended;

/// Waits until the peer has read everything that was written to `pipe`, a write still in flight
/// included. Dropping the future calls the wait off; what was written stays.
///
/// The blocked thread is one of `runtime`, whoever polls.
///
/// Takes a handle of its own: the pipe itself may be an end that only its runtime can close, and
/// the blocked thread can outlive the runtime.
///
/// # Errors
///
/// When the peer leaves first, if it was still there at the beginning. What a peer that has left
/// before had read, the system does not tell. When `runtime` has ended.
pub(super) async fn flush(pipe: BorrowedHandle<'_>, runtime: &Handle) -> io::Result<()> {
    let pipe = pipe.try_clone_to_owned()?;
    let call = CallOff(Arc::new(Mutex::new(Stage::Queued)));
    let stage = call.0.clone();
    let flushed = runtime.spawn_blocking(move || {
        let thread = current_thread()?;
        {
            let mut stage = lock(&stage);
            if matches!(*stage, Stage::Over) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            *stage = Stage::Running(thread);
        }
        // SAFETY: `pipe` keeps the handle open until this closure ends.
        let done = unsafe { FlushFileBuffers(pipe.as_raw_handle()) };
        let result = if done == 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        };
        *lock(&stage) = Stage::Over;
        result
    });
    match flushed.await {
        Ok(result) => result,
        Err(e) if e.is_cancelled() => Err(runtime_ended()),
        Err(e) => Err(io::Error::other(e)),
    }
}

enum Stage {
    Queued,
    /// On this thread, which does nothing else before it has set another stage.
    Running(OwnedHandle),
    Over,
}

/// Calls the flush off when dropped, unless it is over.
struct CallOff(Arc<Mutex<Stage>>);

impl Drop for CallOff {
    fn drop(&mut self) {
        // The thread may be about to enter the call, where it cannot be reached yet: then the
        // next try finds it there, microseconds later. The bound is for the unforeseen.
        for _ in 0..10_000 {
            let mut stage = lock(&self.0);
            match &*stage {
                Stage::Queued => *stage = Stage::Over,
                // SAFETY: the handle is a thread's, and is open while the stage holds it. The
                // lock keeps the thread from going on to anything else that could be cancelled.
                Stage::Running(it) if unsafe { CancelSynchronousIo(it.as_raw_handle()) } == 0 => {
                    drop(stage);
                    std::thread::yield_now();
                    continue;
                }
                Stage::Running(_) | Stage::Over => {}
            }
            return;
        }
    }
}

/// A handle to the current thread that other threads can use.
fn current_thread() -> io::Result<OwnedHandle> {
    let mut handle = null_mut();
    // SAFETY: pseudo-handles are always valid; `handle` is written on success.
    let done = unsafe {
        let process = GetCurrentProcess();
        let (thread, same) = (GetCurrentThread(), DUPLICATE_SAME_ACCESS);
        DuplicateHandle(process, thread, process, &mut handle, 0, 0, same)
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}
