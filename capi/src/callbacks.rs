//! Calling the user's functions.

use std::ffi::c_void;
use std::fmt;

use crate::failure::{self, Code, Failure};
use crate::handle::Handle;

/// What a pipe calls. Each may be null. `user` is what asyncipc_create() was given.
///
/// All of one pipe are called from one thread of the library, one at a time, in the order in which
/// things happen. While one runs, nothing is received and nothing is sent by this pipe; others go on.
/// Every function can be called from them, and none waits there: see asyncipc_send(),
/// asyncipc_exit() and asyncipc_destroy().
///
/// They must return: not by throwing or longjmp(), nor end their thread, as pthread_exit() and
/// pthread_cancel() do, or the program, as exit() and Python's sys.exit() do. Where there are signals,
/// their thread blocks all but those of faults, such as SIGSEGV; a program that is started there begins
/// with the same.
///
/// `client` is a number that is not used again in this process. A client has one as well, for
/// the server at the other end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Callbacks {
    /// The first one, once for each asyncipc_create() whose arguments were good: `result` is what
    /// that returns. It may come before it has returned.
    pub on_create: Option<unsafe extern "C" fn(pipe: *mut Handle, user: *mut c_void, result: Code)>,
    /// A client is there, or for a client the server: from now on it can be sent to. For a client
    /// that cannot connect, `result` says why, asyncipc_last_error() has the text, `client` is 0,
    /// and nothing else comes.
    pub on_connected: Option<
        unsafe extern "C" fn(pipe: *mut Handle, user: *mut c_void, client: u64, result: Code),
    >,
    /// The system has taken `messages` messages with `size` bytes in all. One message, nearly always;
    /// several after callbacks that took long. The other end may not have read them yet.
    pub on_send: Option<
        unsafe extern "C" fn(
            pipe: *mut Handle,
            user: *mut c_void,
            client: u64,
            messages: usize,
            size: usize,
        ),
    >,
    /// A message came. `data` is never null, has no NUL at its end, and is there until this returns.
    pub on_recv: Option<
        unsafe extern "C" fn(
            pipe: *mut Handle,
            user: *mut c_void,
            client: u64,
            data: *const c_void,
            size: usize,
        ),
    >,
    /// The last one about this client, each of which gets it once: it left, or `reason` and
    /// asyncipc_last_error() say otherwise. What had no on_send() was not sent, or not entirely.
    ///
    /// For a server that can accept nobody any more, by an error of the system that does not pass,
    /// `client` is 0 and `reason` is ASYNCIPC_RESULT_IO: it has ended, and nothing else comes. Its clients
    /// have had theirs before, with ASYNCIPC_RESULT_SHUT_DOWN.
    pub on_disconnected: Option<
        unsafe extern "C" fn(pipe: *mut Handle, user: *mut c_void, client: u64, reason: Code),
    >,
}

/// The functions, with what they are called with.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pipe: *mut Handle,
    user: *mut c_void,
    callbacks: Callbacks,
}

// SAFETY: `pipe` is a number. `user` is not looked at here: that its owner can be called from
// another thread is what `asyncipc_create` asks for.
unsafe impl Send for Caller {}

impl Caller {
    /// # Safety
    ///
    /// Each function can be called with `user` from any one thread, until the pipe has ended.
    pub(crate) unsafe fn new(pipe: *mut Handle, user: *mut c_void, callbacks: Callbacks) -> Self {
        Caller {
            pipe,
            user,
            callbacks,
        }
    }

    pub(crate) fn on_create(&self, failure: Option<Failure>) {
        if let Some(call) = self.callbacks.on_create {
            let result = code(failure);
            // SAFETY: as promised to `new`; so below.
            unsafe { call(self.pipe, self.user, result) }
        }
    }

    pub(crate) fn on_connected(&self, client: u64, failure: Option<Failure>) {
        if let Some(call) = self.callbacks.on_connected {
            let result = code(failure);
            // SAFETY: see above.
            unsafe { call(self.pipe, self.user, client, result) }
        }
    }

    pub(crate) fn on_send(&self, client: u64, messages: usize, size: usize) {
        if let Some(call) = self.callbacks.on_send {
            // SAFETY: see above.
            unsafe { call(self.pipe, self.user, client, messages, size) }
        }
    }

    pub(crate) fn on_recv(&self, client: u64, message: &[u8]) {
        if let Some(call) = self.callbacks.on_recv {
            let data = message.as_ptr().cast();
            // SAFETY: see above; the message outlives the call.
            unsafe { call(self.pipe, self.user, client, data, message.len()) }
        }
    }

    pub(crate) fn on_disconnected(&self, client: u64, reason: Option<Failure>) {
        if let Some(call) = self.callbacks.on_disconnected {
            let reason = code(reason);
            // SAFETY: see above.
            unsafe { call(self.pipe, self.user, client, reason) }
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(&self.pipe).finish()
    }
}

/// The code. The text is where the callback finds it, in asyncipc_last_error().
fn code(failure: Option<Failure>) -> Code {
    failure.map_or(Code::Ok, failure::set_last)
}
