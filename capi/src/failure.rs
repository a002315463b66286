//! What went wrong: a code for the program, and a text for its user.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use asyncipc::Error;
use asyncipc::hub::DisconnectReason;

/// How a call ended, and why a connection has ended. asyncipc_last_error() has the same as a text, with
/// the name, size or time in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// Success. As the reason of a disconnection: the other end left, between two messages.
    Ok = 0,
    /// A null pointer, or a number that is not allowed there.
    InvalidArgument,
    /// The handle belongs to no pipe: the pipe was destroyed, or never created.
    InvalidHandle,
    /// Not now: the pipe was created already, or not yet, or has ended.
    WrongState,
    /// The name breaks a rule of the system, or is not UTF-8.
    InvalidName,
    /// This system does not support it.
    Unsupported,
    /// Nobody listens on the name.
    NotFound,
    /// The server takes no further client at the moment.
    Busy,
    /// The server was not there, or not free, before the time had passed.
    TimedOut,
    /// Somebody else listens on the name.
    AddressInUse,
    /// The system, or the rules of this library, refuse access.
    AccessDenied,
    /// The client is in message mode, and the server is not.
    ModeMismatch,
    /// The message is above the limit.
    MessageTooLarge,
    /// There is no memory for a copy of the message.
    NoMemory,
    /// The other end left inside a message.
    Truncated,
    /// The other end has left.
    Closed,
    /// asyncipc_exit() was called.
    ShutDown,
    /// There is nobody to send to: no such client is connected, or not yet, or not any more.
    NotConnected,
    /// The queue has no room for another message.
    QueueFull,
    /// As the reason of a disconnection: asyncipc_disconnect() was called.
    Disconnected,
    /// The system reported an error.
    Io,
    /// An error in this library.
    Internal,
}

/// A code with its text.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        Failure {
            code,
            text: text.into(),
        }
    }

    /// The failure for a panic, with its text.
    pub(crate) fn panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref().copied());
        let text = format!("a bug in asyncipc: {}", text.unwrap_or("a panic"));
        Failure::new(Code::Internal, text)
    }

    /// `None` for a client that left as it should.
    pub(crate) fn reason(reason: DisconnectReason) -> Option<Self> {
        Some(match reason {
            DisconnectReason::Left => return None,
            DisconnectReason::Failed(error) => error.into(),
            DisconnectReason::Disconnected => Failure::new(Code::Disconnected, "it was sent away"),
            DisconnectReason::ShutDown => Failure::new(Code::ShutDown, "the pipe was shut down"),
            reason => Failure::new(Code::Internal, reason.to_string()),
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::InvalidName(_) => Code::InvalidName,
            Error::InvalidOption { .. } => Code::InvalidArgument,
            Error::NotFound { .. } => Code::NotFound,
            Error::Busy { .. } => Code::Busy,
            Error::TimedOut { .. } => Code::TimedOut,
            Error::AddressInUse { .. } => Code::AddressInUse,
            Error::AccessDenied { .. } => Code::AccessDenied,
            Error::ModeMismatch { .. } => Code::ModeMismatch,
            Error::MessageTooLarge { .. } => Code::MessageTooLarge,
            Error::Truncated { .. } => Code::Truncated,
            Error::Closed { .. } => Code::Closed,
            Error::ShutDown { .. } => Code::ShutDown,
            Error::UnknownClient { .. } => Code::NotConnected,
            Error::QueueFull { .. } => Code::QueueFull,
            _ => Code::Io,
        };
        Failure::new(code, error.to_string())
    }
}

thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "it is const")]
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Keeps the failure's text for [`last`], and returns its code.
pub(crate) fn set_last(failure: Failure) -> Code {
    let text = failure.text.replace('\0', "\\0");
    // A thread that is ending has no place for it any more.
    let _ = LAST.try_with(|last| last.replace(CString::new(text).ok()));
    failure.code
}

/// The text of this thread's last failure, which stays until the next one.
pub(crate) fn last() -> *const c_char {
    let last = LAST.try_with(|last| last.borrow().as_deref().map(CStr::as_ptr));
    last.ok().flatten().unwrap_or(c"".as_ptr())
}
