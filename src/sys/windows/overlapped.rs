//! Overlapped I/O on the system's thread pool, for what tokio's pipes cannot do: reads of any
//! length that keep the boundaries of messages, and writes straight from the caller's memory.
//!
//! One rule keeps this sound: while the system works on an operation, the operation owns
//! everything that the system touches (the `OVERLAPPED`, the buffer, the handle), and the
//! completion owns a reference to the operation. Nothing is freed before the callback has run,
//! whatever anybody drops in the meantime.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle, RawHandle};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use windows_sys::Wdk::Storage::FileSystem::NtFsControlFile;
use windows_sys::Win32::Foundation::{
    ERROR_IO_PENDING, ERROR_MORE_DATA, ERROR_SUCCESS, GetLastError, HANDLE, RtlNtStatusToDosError,
    STATUS_PENDING,
};
use windows_sys::Win32::Storage::FileSystem::{ReadFile, WriteFile};
use windows_sys::Win32::System::IO::{CancelIoEx, IO_STATUS_BLOCK, OVERLAPPED};
use windows_sys::Win32::System::Threading::{
    CancelThreadpoolIo, CloseThreadpoolIo, CreateThreadpoolIo, PTP_CALLBACK_INSTANCE, PTP_IO,
    StartThreadpoolIo,
};

use crate::sync::lock;

/// A handle whose operations complete on the system's thread pool.
#[derive(Debug)]
pub(super) struct File {
    handle: ManuallyDrop<OwnedHandle>,
    io: PTP_IO,
}

// SAFETY: a `PTP_IO` may be used from any thread, and the system synchronises it.
unsafe impl Send for File {}
// SAFETY: as above.
unsafe impl Sync for File {}

impl File {
    /// The handle must have been opened for overlapped I/O, and belong to no completion port.
    pub(super) fn new(handle: OwnedHandle) -> io::Result<Arc<Self>> {
        // SAFETY: the handle is open, and `File` keeps it so for as long as the object exists.
        let io = unsafe {
            CreateThreadpoolIo(
                handle.as_raw_handle(),
                Some(completed),
                std::ptr::null_mut(),
                std::ptr::null(),
            )
        };
        if io == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Arc::new(File {
            handle: ManuallyDrop::new(handle),
            io,
        }))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: every operation in flight holds a reference to `self`, so none is in flight. This
        // may run at the very end of a callback, which the system allows. The handle must be closed
        // first, and neither is used again.
        unsafe {
            ManuallyDrop::drop(&mut self.handle);
            CloseThreadpoolIo(self.io);
        }
    }
}

impl AsRawHandle for File {
    fn as_raw_handle(&self) -> RawHandle {
        self.handle.as_raw_handle()
    }
}

impl AsHandle for File {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.handle.as_handle()
    }
}

/// What an operation reads from or writes to.
#[derive(Debug, Default)]
pub(super) enum Buffer {
    /// Taken already.
    #[default]
    None,
    /// Read into the spare capacity.
    Read(BytesMut),
    Write(Bytes),
    /// The input of a control call.
    Control(Vec<u64>),
}

/// How an operation ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// ERROR_SUCCESS, ERROR_MORE_DATA (the buffer is full, and there is more), or what failed.
    pub(super) error: u32,
    pub(super) bytes: usize,
}

impl Outcome {
    pub(super) fn result(self) -> io::Result<usize> {
        match self.error {
            ERROR_SUCCESS => Ok(self.bytes),
            error => Err(io::Error::from_raw_os_error(error as i32)),
        }
    }
}

/// The result of the call that starts an operation.
enum Begun {
    /// The callback will come.
    Pending,
    /// Done already, with this error, or ERROR_SUCCESS. The callback will come all the same: the file
    /// does not skip it.
    Over(u32),
    /// No callback.
    Not(u32),
}

impl Begun {
    /// The result of a Win32 call that has just returned `done`.
    fn by(done: i32) -> Self {
        if done != 0 {
            return Begun::Over(ERROR_SUCCESS);
        }
        // SAFETY: reads this thread's last error.
        match unsafe { GetLastError() } {
            ERROR_IO_PENDING => Begun::Pending,
            // A warning, not a failure.
            ERROR_MORE_DATA => Begun::Over(ERROR_MORE_DATA),
            error => Begun::Not(error),
        }
    }
}

/// One operation, from its start to its completion.
#[repr(C)] // The callback gets a pointer to the first field, and makes one to the whole of it.
pub(super) struct Op {
    overlapped: UnsafeCell<OVERLAPPED>,
    state: Mutex<OpState>,
    file: Arc<File>,
}

// SAFETY: `overlapped` is the system's alone between start and completion, and is read only under
// the lock on `state` after that; the other fields are Send and Sync.
unsafe impl Send for Op {}
// SAFETY: as above.
unsafe impl Sync for Op {}

struct OpState {
    buffer: Buffer,
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Op {
    /// Reads into the spare capacity of `buffer`.
    pub(super) fn read(file: &Arc<File>, buffer: BytesMut) -> Arc<Op> {
        Self::start(file, Buffer::Read(buffer), |handle, buffer, overlapped| {
            let Buffer::Read(buffer) = buffer else {
                unreachable!("made above")
            };
            let room = buffer.spare_capacity_mut();
            let len = room.len().min(u32::MAX as usize) as u32;
            // SAFETY: the memory is the buffer's, which the operation owns until completion; the
            // same holds for the overlapped structure.
            Begun::by(unsafe {
                ReadFile(
                    handle,
                    room.as_mut_ptr().cast(),
                    len,
                    std::ptr::null_mut(),
                    overlapped,
                )
            })
        })
    }

    /// Writes `buffer`, at most 4 GiB of it.
    pub(super) fn write(file: &Arc<File>, buffer: Bytes) -> Arc<Op> {
        Self::start(file, Buffer::Write(buffer), |handle, buffer, overlapped| {
            let Buffer::Write(bytes) = buffer else {
                unreachable!("made above")
            };
            let len = bytes.len().min(u32::MAX as usize) as u32;
            // SAFETY: as for reading; a `Bytes` never moves its memory.
            Begun::by(unsafe {
                WriteFile(
                    handle,
                    bytes.as_ptr(),
                    len,
                    std::ptr::null_mut(),
                    overlapped,
                )
            })
        })
    }

    /// A control call to the file's own file system that gives nothing back.
    ///
    /// Not by DeviceIoControl: Windows sends a code by IRP_MJ_FILE_SYSTEM_CONTROL only if its device
    /// type is FILE_DEVICE_FILE_SYSTEM. It sends any other code, such as those of pipes, to the device,
    /// where the pipe file system supports none: ERROR_INVALID_FUNCTION (ReactOS's kernel32,
    /// client/file/deviceio.c, and its NPFS, main.c). Wine treats all codes alike. This uses the
    /// overlapped structure as kernel32 does for ConnectNamedPipe (client/file/npipe.c).
    pub(super) fn control(file: &Arc<File>, code: u32, input: Vec<u64>, len: u32) -> Arc<Op> {
        debug_assert!(len as usize <= input.len() * 8);
        Self::start(
            file,
            Buffer::Control(input),
            |handle, buffer, overlapped| {
                let Buffer::Control(input) = buffer else {
                    unreachable!("made above")
                };
                let (event, routine, none) = (std::ptr::null_mut(), None, std::ptr::null_mut());
                // SAFETY: as for writing. An overlapped structure begins with a status block, and the
                // system writes no other part of it. Its address is passed as the context too, and comes
                // back with the completion at the pool's port, to which the file belongs:
                // <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-ntfscontrolfile>.
                let status = unsafe {
                    (*overlapped).Internal = STATUS_PENDING as usize;
                    NtFsControlFile(
                        handle,
                        event,
                        routine,
                        overlapped.cast(),
                        overlapped.cast::<IO_STATUS_BLOCK>(),
                        code,
                        input.as_ptr().cast(),
                        len,
                        none,
                        0,
                    )
                };
                // SAFETY: takes a number.
                let error = || unsafe { RtlNtStatusToDosError(status) };
                match status {
                    STATUS_PENDING => Begun::Pending,
                    0.. => Begun::Over(ERROR_SUCCESS),
                    // A warning. Its operation ends with a completion, as a successful one does. The
                    // system leaves out the completion only for immediate errors (ReactOS's
                    // ntoskrnl/io/iomgr/irp.c, IopCompleteRequest).
                    _ if (status as u32) < 0xC000_0000 => Begun::Over(error()),
                    _ => Begun::Not(error()),
                }
            },
        )
    }

    fn start(
        file: &Arc<File>,
        buffer: Buffer,
        call: impl FnOnce(HANDLE, &mut Buffer, *mut OVERLAPPED) -> Begun,
    ) -> Arc<Op> {
        let op = Arc::new(Op {
            overlapped: UnsafeCell::new(OVERLAPPED::default()),
            state: Mutex::new(OpState {
                buffer,
                outcome: None,
                waker: None,
            }),
            file: file.clone(),
        });
        // Held until the call has returned, so that the callback comes second.
        let mut state = op.lock();
        // SAFETY: the object exists as long as `file`; each start is matched by one callback, or
        // by the cancellation below.
        unsafe { StartThreadpoolIo(file.io) };
        // The completion's reference.
        let completion = Arc::into_raw(op.clone());
        // `overlapped` is the first field; this pointer may be cast back to one to the whole `Op`.
        let overlapped = completion.cast::<OVERLAPPED>().cast_mut();
        match call(file.as_raw_handle(), &mut state.buffer, overlapped) {
            Begun::Pending => {}
            // The caller need not wait for the callback.
            Begun::Over(error) => {
                // SAFETY: the operation is over, so the system does not write there any more.
                let bytes = unsafe { (*op.overlapped.get()).InternalHigh };
                state.outcome = Some(Outcome { error, bytes });
            }
            Begun::Not(error) => {
                // SAFETY: matches the start above, and takes back the reference, which nobody
                // else will.
                unsafe {
                    CancelThreadpoolIo(file.io);
                    drop(Arc::from_raw(completion));
                }
                state.outcome = Some(Outcome { error, bytes: 0 });
            }
        }
        drop(state);
        op
    }

    /// The outcome and the buffer, once.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<(Outcome, Buffer)> {
        let mut state = self.lock();
        let Some(outcome) = state.outcome else {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        let mut buffer = std::mem::take(&mut state.buffer);
        if let Buffer::Read(read) = &mut buffer
            && matches!(outcome.error, ERROR_SUCCESS | ERROR_MORE_DATA)
        {
            // SAFETY: the system has filled this many bytes of the spare capacity.
            unsafe { read.set_len(read.len() + outcome.bytes) };
        }
        Poll::Ready((outcome, buffer))
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().outcome.is_some()
    }

    /// Asks the system to end the operation early. Its completion still comes, but wakes nobody. On
    /// some systems some operations go on regardless, so the waker, which keeps its whole task alive,
    /// is dropped at once.
    pub(super) fn cancel(&self) {
        let mut state = self.lock();
        let (waker, is_over) = (state.waker.take(), state.outcome.is_some());
        drop(state);
        drop(waker);
        if !is_over {
            // SAFETY: the handle is open. If the operation has just completed, the system finds
            // nothing to cancel: nothing else has this address while `self` lives.
            unsafe { CancelIoEx(self.file.as_raw_handle(), self.overlapped.get()) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpState> {
        lock(&self.state)
    }
}

/// An operation that nobody else needs: dropping this cancels it.
pub(super) struct Cancelling(pub(super) Arc<Op>);

impl Drop for Cancelling {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Future for Cancelling {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.0.poll(cx).map(|(outcome, _)| outcome)
    }
}

/// Called by the system on one of its threads, once for each operation that has begun.
unsafe extern "system" fn completed(
    _: PTP_CALLBACK_INSTANCE,
    _: *mut c_void,
    overlapped: *mut c_void,
    error: u32,
    _: usize,
    _: PTP_IO,
) {
    // SAFETY: the pointer is that of the first field of the `Op` whose reference `start` has left
    // for us.
    let op = unsafe { Arc::from_raw(overlapped.cast::<Op>().cast_const()) };
    let waker = {
        let mut state = op.lock();
        if state.outcome.is_none() {
            // Not the callback's argument, which is 0 with ERROR_MORE_DATA on some systems.
            // SAFETY: the operation is over, so the system does not write there any more.
            let bytes = unsafe { (*op.overlapped.get()).InternalHigh };
            state.outcome = Some(Outcome { error, bytes });
        }
        state.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}
