//! What goes wrong below the layers that know the pipe's name.

use std::io;
#[cfg(feature = "worker")]
use std::process::ExitStatus;

/// Why the system, or a rule of this crate, refuses. [`Error`](crate::Error) says the same with the
/// pipe's name.
#[derive(Debug)]
#[cfg_attr(unix, allow(dead_code, reason = "some happen on Windows only"))]
#[cfg_attr(windows, allow(dead_code, reason = "some happen on Unix only"))]
pub(crate) enum PlatformError {
    /// Nobody listens.
    Missing,
    /// Somebody listens, but takes no further client at the moment.
    Busy,
    /// The client wants messages, and the pipe is one of bytes.
    ModeMismatch,
    /// Something else has the path of a socket.
    NotAPipe { found: &'static str },
    /// No server can have this name.
    InvalidName { rule: &'static str },
    /// An option has a value that cannot be honoured.
    InvalidOption { option: &'static str, rule: String },
    /// Somebody listens there already, or something that is not ours is in the way.
    AddressInUse { reason: &'static str },
    /// A rule of this crate refuses.
    AccessDenied {
        action: &'static str,
        reason: String,
    },
    /// The worker ended before it had connected.
    #[cfg(feature = "worker")]
    WorkerEnded(ExitStatus),
    /// An error of the system.
    Io {
        /// What failed. The pipe's name follows.
        action: &'static str,
        /// What follows the name. Empty unless more than the system's word is needed.
        detail: &'static str,
        source: io::Error,
    },
}

impl PlatformError {
    pub(crate) fn invalid_option(option: &'static str, rule: impl Into<String>) -> Self {
        PlatformError::InvalidOption {
            option,
            rule: rule.into(),
        }
    }

    /// An error of the system while doing `action`.
    pub(crate) fn io(action: &'static str, source: io::Error) -> Self {
        PlatformError::Io {
            action,
            detail: "",
            source,
        }
    }
}
