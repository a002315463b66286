//! Calls the program's functions.

use std::ffi::c_void;
use std::fmt;

use crate::failure::{self, Code, Failure};
use crate::handle::Handle;

/// The functions that a pipe calls. Each may be null. `user` is what asyncipc_create() was given.
///
/// One thread of the library calls all callbacks of a pipe, one at a time, in the order of the events.
/// While one runs, this pipe receives nothing and sends nothing; other pipes go on. Callbacks can call
/// every function of this library, and none waits there: see asyncipc_send(), asyncipc_exit() and
/// asyncipc_destroy().
///
/// Callbacks must return. They must not throw, call longjmp(), or end their thread or the program, as
/// pthread_exit(), pthread_cancel(), exit() and Python's sys.exit() do. Where there are signals, their
/// thread blocks all signals but those of faults, such as SIGSEGV. A program that is started from a callback
/// inherits that.
///
/// `client` is a number that is not used again in this process. In a client, it is the number of the server
/// at the other end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Callbacks {
    /// The first callback, once for each asyncipc_create() whose arguments were valid. `result` is what
    /// asyncipc_create() returns. It may be called before asyncipc_create() has returned.
    pub on_create: Option<unsafe extern "C" fn(pipe: *mut Handle, user: *mut c_void, result: Code)>,
    /// A client has connected or, in a client, the server is there: from now on it can be sent to. In a
    /// client that cannot connect, `result` says why, asyncipc_last_error() has the text, `client` is 0,
    /// and no other callback follows.
    pub on_connected: Option<
        unsafe extern "C" fn(pipe: *mut Handle, user: *mut c_void, client: u64, result: Code),
    >,
    /// The system has taken `messages` messages with `size` bytes in all: nearly always one message, and
    /// several after slow callbacks. The other end may not have read them yet.
    pub on_send: Option<
        unsafe extern "C" fn(
            pipe: *mut Handle,
            user: *mut c_void,
            client: u64,
            messages: usize,
            size: usize,
        ),
    >,
    /// A message has arrived. `data` is never null, has no NUL at its end, and is valid until this returns.
    pub on_recv: Option<
        unsafe extern "C" fn(
            pipe: *mut Handle,
            user: *mut c_void,
            client: u64,
            data: *const c_void,
            size: usize,
        ),
    >,
    /// The last callback about this client, called once for each client. The client has left, unless
    /// `reason` and asyncipc_last_error() say otherwise. A message that had no on_send() was not sent, or
    /// only in part.
    ///
    /// If a server can accept nobody any more, because of a permanent error of the system, `client` is 0 and
    /// `reason` is ASYNCIPC_RESULT_IO: the server has ended, and no other callback follows. Before that, this
    /// was called for each of its clients, with ASYNCIPC_RESULT_SHUT_DOWN.
    pub on_disconnected: Option<
        unsafe extern "C" fn(pipe: *mut Handle, user: *mut c_void, client: u64, reason: Code),
    >,
}

/// The callbacks, with the arguments that all of them get.
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

/// The code of the failure. The callback finds its text in asyncipc_last_error().
fn code(failure: Option<Failure>) -> Code {
    failure.map_or(Code::Ok, failure::set_last)
}
