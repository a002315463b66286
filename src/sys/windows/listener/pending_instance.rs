//! An instance that waits for its client.
//!
//! Neither tokio nor the system's thread pool can do this: both close a waiting instance some time
//! after it was dropped. Until then clients can connect to it, as if the server were still there.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::future::Future;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::pin::Pin;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::task::{Context, Poll, Waker};

use windows_sys::Win32::Foundation::{
    ERROR_IO_PENDING, ERROR_NO_DATA, ERROR_PIPE_CONNECTED, GetLastError, HANDLE,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::ConnectNamedPipe;
use windows_sys::Win32::System::Threading::{
    CreateEventW, INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEONLYONCE,
};

use crate::sync::lock;

/// Completes when the instance has its client. Dropping it earlier closes the instance.
pub(in crate::sys) struct PendingInstance {
    /// `None` once handed out.
    instance: Option<OwnedHandle>,
    /// While the system waits for the client.
    pending: Option<Arc<Pending>>,
    result: io::Result<()>,
}

/// What the system writes to and passes to the callback. The callback comes once and owns a
/// reference.
struct Pending {
    overlapped: UnsafeCell<OVERLAPPED>,
    event: OwnedHandle,
    signal: Mutex<Signal>,
}

struct Signal {
    raised: bool,
    waker: Option<Waker>,
    /// The registered wait for the event.
    wait: HANDLE,
}

// SAFETY: the handles may be used from any thread, and nothing here is tied to one.
unsafe impl Send for Pending {}
// SAFETY: the system uses `overlapped`, and once the operation is over, the one `PendingInstance` that
// owns this; `signal` has a lock.
unsafe impl Sync for Pending {}

impl PendingInstance {
    pub(in crate::sys) fn new(instance: OwnedHandle) -> io::Result<Self> {
        let pending = Arc::new(Pending::new()?);
        let error = pending.connect(&instance)?;
        let mut this = PendingInstance {
            instance: Some(instance),
            pending: None,
            result: Ok(()),
        };
        match error {
            ERROR_IO_PENDING => {
                this.pending = Some(pending.clone());
                // On failure, dropping `this` ends the operation.
                pending.register()?;
            }
            // A client was faster. With ERROR_NO_DATA it has even left again, but what it wrote can
            // still be read.
            ERROR_PIPE_CONNECTED | ERROR_NO_DATA => {}
            error => this.result = Err(io::Error::from_raw_os_error(error as i32)),
        }
        Ok(this)
    }

    /// Stops waiting. Returns the instance, and whether a client came before that.
    #[cfg(any(feature = "endpoint", feature = "worker"))]
    pub(in crate::sys) fn stop(mut self) -> (OwnedHandle, io::Result<()>) {
        let result = self.cancel();
        (self.instance.take().expect("it was not ready"), result)
    }

    /// Ends the system's wait for the client, if there is one, and says how it ended.
    fn cancel(&mut self) -> io::Result<()> {
        let (Some(instance), Some(pending)) = (&self.instance, self.pending.take()) else {
            return std::mem::replace(&mut self.result, Ok(()));
        };
        pending.signal().waker = None;
        // SAFETY: the handle is open, and the operation was started with this structure.
        unsafe { CancelIoEx(instance.as_raw_handle(), pending.overlapped.get()) };
        // Cancelled or complete, the operation is over in a moment. Only then may the structure be
        // freed. The instance still listens until it is closed.
        pending.result(instance, true)
    }
}

impl Future for PendingInstance {
    /// The instance, and whether it has a client.
    type Output = (OwnedHandle, io::Result<()>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let instance = this.instance.as_ref().expect("polled after it was ready");
        if let Some(pending) = &this.pending {
            let mut signal = pending.signal();
            if !signal.raised {
                signal.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            drop(signal);
            this.result = pending.result(instance, false);
            this.pending = None;
        }
        let result = std::mem::replace(&mut this.result, Ok(()));
        Poll::Ready((this.instance.take().expect("it is there"), result))
    }
}

impl Drop for PendingInstance {
    fn drop(&mut self) {
        let _ = self.cancel();
    }
}

impl Pending {
    fn new() -> io::Result<Self> {
        let event = new_event()?;
        let overlapped = OVERLAPPED {
            hEvent: event.as_raw_handle(),
            ..OVERLAPPED::default()
        };
        Ok(Pending {
            overlapped: UnsafeCell::new(overlapped),
            event,
            signal: Mutex::new(Signal {
                raised: false,
                waker: None,
                wait: null_mut(),
            }),
        })
    }

    /// Begins to wait for a client, and returns the system's answer.
    ///
    /// The system cancels what a thread has begun when that thread ends, unless the file belongs to
    /// a completion port (Wine's dlls/ws2_32/tests/afd.c, `test_async_thread_termination`). So this
    /// runs on a thread that never ends.
    fn connect(self: &Arc<Self>, instance: &OwnedHandle) -> io::Result<u32> {
        let (pending, instance) = (self.clone(), instance.as_raw_handle() as usize);
        on_lasting_thread(move || {
            // SAFETY: the caller waits for this, with the handle open; the structure is kept until
            // the operation is over.
            let done = unsafe { ConnectNamedPipe(instance as HANDLE, pending.overlapped.get()) };
            match done {
                // SAFETY: reads this thread's last error.
                0 => unsafe { GetLastError() },
                _ => ERROR_PIPE_CONNECTED,
            }
        })
    }

    /// Makes the system call `signalled` when the operation is over, at the latest by cancelling.
    fn register(self: &Arc<Self>) -> io::Result<()> {
        // Held until the handle is stored where the callback reads it.
        let mut signal = self.signal();
        let event = self.event.as_raw_handle();
        // The callback's reference.
        let context = Arc::into_raw(self.clone());
        // SAFETY: the context is a reference of its own, and keeps the event open.
        let done = unsafe {
            RegisterWaitForSingleObject(
                &mut signal.wait,
                event,
                Some(signalled),
                context.cast(),
                INFINITE,
                WT_EXECUTEONLYONCE,
            )
        };
        if done == 0 {
            let error = io::Error::last_os_error();
            // SAFETY: takes back the reference, which nobody else will.
            drop(unsafe { Arc::from_raw(context) });
            return Err(error);
        }
        Ok(())
    }

    /// How the operation ended. With `wait`, waits until it has.
    fn result(&self, instance: &OwnedHandle, wait: bool) -> io::Result<()> {
        let mut bytes = 0;
        let instance = instance.as_raw_handle();
        // SAFETY: the handle is open, and the operation was started with this structure.
        let done = unsafe {
            GetOverlappedResult(instance, self.overlapped.get(), &mut bytes, i32::from(wait))
        };
        if done == 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn signal(&self) -> MutexGuard<'_, Signal> {
        lock(&self.signal)
    }
}

/// An event that is reset by hand, and not signalled.
pub(in crate::sys) fn new_event() -> io::Result<OwnedHandle> {
    // SAFETY: no attributes, no name.
    let event = unsafe { CreateEventW(null(), 1, 0, null()) };
    if event.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(event) })
}

/// Runs `call` on a thread that lives as long as the process.
fn on_lasting_thread<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    type Call = Box<dyn FnOnce() + Send>;
    static THREAD: OnceLock<mpsc::Sender<Call>> = OnceLock::new();
    let thread = match THREAD.get() {
        Some(thread) => thread,
        None => {
            let (calls, inbox) = mpsc::channel::<Call>();
            let thread = std::thread::Builder::new().name("asyncipc-listen".into());
            thread.spawn(move || inbox.into_iter().for_each(|call| call()))?;
            // If another thread was faster, the one made here ends.
            THREAD.get_or_init(|| calls)
        }
    };
    let (answer, answered) = mpsc::sync_channel(1);
    let call = Box::new(move || drop(answer.send(call())));
    thread.send(call).expect("the thread never ends");
    Ok(answered.recv().expect("the thread never ends"))
}

/// Called by the system on one of its threads when the event is signalled.
unsafe extern "system" fn signalled(context: *mut c_void, _: bool) {
    // SAFETY: the context is the reference that `register` has left for us.
    let pending = unsafe { Arc::from_raw(context.cast_const().cast::<Pending>()) };
    let mut signal = pending.signal();
    signal.raised = true;
    let (waker, wait) = (signal.waker.take(), signal.wait);
    drop(signal);
    // SAFETY: registered before, and unregistered only here. Without an event to signal, this does
    // not wait, so the system allows it within the callback itself.
    unsafe { UnregisterWaitEx(wait, null_mut()) };
    if let Some(waker) = waker {
        waker.wake();
    }
}
