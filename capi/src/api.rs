//! The functions of the C interface. They read what C points to, and return a code.
#![allow(
    clippy::missing_safety_doc,
    reason = "the comments are those of the header, which say what C has to see to"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{ptr, slice};

use asyncipc::{Error, PipeName};

use crate::callbacks::{Callbacks, Caller};
use crate::failure::{self, Code, Failure};
use crate::handle::Handle;
use crate::handle_table;
use crate::kind::{Kind, Role};
use crate::logging;
use crate::options::Key;
use crate::pipe::Pipe;

/// Makes an instance, which does nothing before asyncipc_create(). `kind` is one of asyncipc_kind.
/// The caller has to asyncipc_destroy() it.
///
/// Errors: INVALID_ARGUMENT; then `*pipe` is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn asyncipc_create_instance(kind: c_int, pipe: *mut *mut Handle) -> Code {
    answer(|| {
        if pipe.is_null() {
            return Err(null("the place for the pipe"));
        }
        // SAFETY: not null; whoever calls says that it is a place for a pointer.
        unsafe { pipe.write(ptr::null_mut()) };
        let handle = handle_table::add(Pipe::new(Kind::from_number(kind)?))?;
        // SAFETY: as above.
        unsafe { pipe.write(handle) };
        Ok(())
    })
}

/// Begins to log what all pipes of this process do. The lines go to standard error and begin with
/// `process_name`, which is UTF-8. The environment variable ASYNCIPC_LOG says how much is logged: off,
/// error, warn, info (the default), debug or trace. Without this call, nothing is logged. A line that
/// cannot be written is lost, and nothing else happens.
///
/// Errors: INVALID_ARGUMENT, also for the variable; WRONG_STATE when called again, which changes
/// nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn asyncipc_init_logging(process_name: *const c_char) -> Code {
    answer(|| {
        // SAFETY: whoever calls says that it is null or a text.
        let name = unsafe { text(process_name, "the name of the process") }?;
        let bad = |_| Failure::new(Code::InvalidArgument, "the process's name is not UTF-8");
        logging::init(name.to_str().map_err(bad)?)
    })
}

/// Sets an option for the next asyncipc_create(). `option` is one of asyncipc_option.
///
/// Errors: INVALID_ARGUMENT, INVALID_HANDLE, UNSUPPORTED; WRONG_STATE between asyncipc_create() and
/// the end of the pipe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn asyncipc_set_option(pipe: *mut Handle, option: c_int, value: u64) -> Code {
    answer(|| handle_table::find(pipe)?.set_option(Key::from_number(option)?, value))
}

/// Starts the pipe. When this has returned, a server listens, and clients can connect to it. A client
/// connects in the background, and on_connected() says how that went.
///
/// Until it has ended, a pipe has a thread with a stack of 8 MiB, of which only the used part takes memory.
/// On Unix it also has four descriptors in addition to those of its connections.
///
/// `name` is UTF-8: a plain name such as "echo", which both ends find, or a full path, on Windows such
/// as \\.\pipe\echo and elsewhere such as /run/echo.sock. `role` is one of asyncipc_role. `callbacks` is
/// copied; null means none. `user` is passed to the callbacks. It must stay valid until the last callback
/// has returned, and another thread must be allowed to use it.
///
/// It can be called again when asyncipc_exit() has returned outside of callbacks. Without asyncipc_exit(), a
/// client can call it in or after its on_disconnected() or a failed on_connected(), and a server in or after
/// an on_disconnected() for client 0. The callbacks may then come from another thread, but still one at a
/// time.
///
/// Errors: INVALID_ARGUMENT, INVALID_HANDLE, INVALID_NAME, WRONG_STATE; IO when no thread can be
/// started. For servers, and these get on_create() too: ADDRESS_IN_USE, ACCESS_DENIED, IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn asyncipc_create(
    pipe: *mut Handle,
    name: *const c_char,
    role: c_int,
    callbacks: *const Callbacks,
    user: *mut c_void,
) -> Code {
    answer(|| {
        let found = handle_table::find(pipe)?;
        // SAFETY: whoever calls says that it is null or a text.
        let name = unsafe { text(name, "the name of the pipe") }?;
        let bad = |_| Failure::new(Code::InvalidName, format!("{name:?} is not UTF-8"));
        let name = PipeName::new(name.to_str().map_err(bad)?).map_err(Error::from)?;
        let role = Role::from_number(role)?;
        // SAFETY: null or a table, says whoever calls.
        let callbacks = unsafe { callbacks.as_ref() }.copied().unwrap_or_default();
        // SAFETY: as the documentation above asks for.
        let caller = unsafe { Caller::new(pipe, user, callbacks) };
        found.create(name, role, caller)
    })
}

/// Sends a message of `size` bytes, any bytes: a client to the server, and a server to all that are
/// connected. The bytes are copied into a queue for each; on_send() tells when the system has them.
/// `data` may be null if `size` is 0: empty messages are messages.
///
/// When a queue is full, this waits for room, up to ASYNCIPC_OPTION_SEND_TIMEOUT. In a callback it does
/// not wait. So if you answer in on_recv(), expect QUEUE_FULL: the other end may send faster than it reads,
/// and then this message is not sent. Set a longer queue, send from a thread of your own, or disconnect the
/// client. Do not hold a lock that a callback takes while you call this. Messages that one thread sends
/// arrive in their order.
///
/// Errors: INVALID_ARGUMENT, INVALID_HANDLE, WRONG_STATE before asyncipc_create(), NOT_CONNECTED when
/// nobody is there yet or any more, MESSAGE_TOO_LARGE, NO_MEMORY, SHUT_DOWN after asyncipc_exit(): then
/// nobody gets it. QUEUE_FULL: those clients that the text names do not get it, all others do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn asyncipc_send(
    pipe: *mut Handle,
    data: *const c_void,
    size: usize,
) -> Code {
    answer(|| {
        let found = handle_table::find(pipe)?;
        // SAFETY: whoever calls says that the bytes are there, until this returns.
        found.send(unsafe { message(data, size) }?)
    })
}

/// As asyncipc_send(), to one client.
///
/// Errors: the same; NOT_CONNECTED when this client is not there, QUEUE_FULL when it does not get it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn asyncipc_send_to(
    pipe: *mut Handle,
    client: u64,
    data: *const c_void,
    size: usize,
) -> Code {
    answer(|| {
        let found = handle_table::find(pipe)?;
        // SAFETY: whoever calls says that the bytes are there, until this returns.
        found.send_to(client.into(), unsafe { message(data, size) }?)
    })
}

/// Ends the connection of one client. The messages that wait for it are sent first, for up to
/// ASYNCIPC_OPTION_DRAIN_TIMEOUT. Does not wait: on_disconnected() says when it is done.
///
/// Errors: INVALID_HANDLE, WRONG_STATE before asyncipc_create(), NOT_CONNECTED when this client is not
/// there, SHUT_DOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn asyncipc_disconnect(pipe: *mut Handle, client: u64) -> Code {
    answer(|| handle_table::find(pipe)?.disconnect(client.into()))
}

/// Ends the pipe in order: nobody is accepted and nothing is received any more. What waits in the queues is
/// sent, and the pipe waits until the other ends have read it, up to ASYNCIPC_OPTION_DRAIN_TIMEOUT. Then
/// on_disconnected() is called for each client. A client that is not connected yet gets its on_connected(),
/// with ASYNCIPC_RESULT_SHUT_DOWN.
///
/// Returns when the last callback has returned. So do not hold a lock that a callback takes while you call
/// this. In a callback of any pipe, it returns at once. It does nothing to a pipe that has ended. It also
/// does nothing in the last callback of a pipe that has ended by itself; that callback may call
/// asyncipc_create() again.
///
/// Errors: INVALID_ARGUMENT, INVALID_HANDLE, WRONG_STATE before asyncipc_create().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn asyncipc_exit(pipe: *mut Handle) -> Code {
    answer(|| handle_table::find(pipe)?.exit())
}

/// Does what asyncipc_exit() does, and frees the pipe: its handle is invalid from the beginning of this
/// call. No callback is called after this has returned.
///
/// In a callback of any pipe, it returns at once, and what waits in the queues is still sent. In a callback
/// of this pipe, it is the last one: no other callback of this pipe is called. In a callback of another
/// pipe, the thread of this pipe may be in a callback, or just about to call one, and nothing says when that
/// one has returned: so `user` must stay valid until the program ends. If it cannot, destroy the pipe
/// outside of callbacks.
///
/// Errors: INVALID_ARGUMENT for a null pointer; INVALID_HANDLE when it was destroyed before, also when
/// that is still going on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn asyncipc_destroy(pipe: *mut Handle) -> Code {
    answer(|| {
        handle_table::remove(pipe)?.destroy();
        Ok(())
    })
}

/// The text of this thread's last error, in English and UTF-8, with the name, size or time in it; "" if
/// there was none. In a callback that was given something other than ASYNCIPC_RESULT_OK, it is the text of
/// that. The text is valid until the next error of this thread, and must not be freed.
#[unsafe(no_mangle)]
pub extern "C" fn asyncipc_last_error() -> *const c_char {
    failure::last()
}

/// No panic leaves this library.
fn answer(call: impl FnOnce() -> Result<(), Failure>) -> Code {
    let answered = catch_unwind(AssertUnwindSafe(call));
    match answered.unwrap_or_else(|panic| Err(Failure::panic(&*panic))) {
        Ok(()) => Code::Ok,
        Err(failure) => failure::set_last(failure),
    }
}

fn null(what: &str) -> Failure {
    Failure::new(Code::InvalidArgument, format!("{what} is a null pointer"))
}

/// # Safety
///
/// Null, or a text that ends with NUL and stays as it is for as long as the result is used.
unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a CStr, Failure> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: not null, and otherwise as promised.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// # Safety
///
/// `size` bytes can be read at `data`, unless it is null, for as long as the result is used.
unsafe fn message<'a>(data: *const c_void, size: usize) -> Result<&'a [u8], Failure> {
    if size == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(null("the message"));
    }
    if isize::try_from(size).is_err() {
        let text = format!("nothing in memory is {size} bytes long");
        return Err(Failure::new(Code::InvalidArgument, text));
    }
    // SAFETY: not null, not longer than anything can be, and otherwise as promised.
    Ok(unsafe { slice::from_raw_parts(data.cast(), size) })
}
