//! Everything that differs between platforms: the only place with `unsafe`. Beside it, only the public
//! modules `unix` and `windows` have `cfg` on the target.
//!
//! It is below everything that knows what a pipe is called: it takes its own paths and options, and
//! returns its own streams and [`PlatformError`]. [`contract`] lists what both platforms offer.

mod contract;
mod error;

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio_util::task::TaskTracker;

use crate::access::Access;

#[cfg(unix)]
#[path = "unix/mod.rs"]
mod platform;
#[cfg(windows)]
#[path = "windows/mod.rs"]
mod platform;

#[cfg(windows)]
pub use platform::Impersonation;
pub(crate) use platform::{
    Capabilities, ConnectOptions, ListenOptions, Listener, Stream, check_length, check_user,
    connect, current_user, elsewhere, full_path, is_transient, resolve, wait_until_free,
};
#[cfg(windows)]
pub(crate) use platform::{DEFAULT_WAIT, LONGEST_WAIT};
#[cfg(feature = "worker")]
pub(crate) use platform::{Inherited, channel};

pub(crate) use error::PlatformError;

/// Where a pipe is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address<'a> {
    pub(crate) path: &'a Path,
    /// Whether the path was made from a logical name, so that this crate looks after its folder.
    #[cfg_attr(windows, allow(dead_code, reason = "pipes are in no folder"))]
    pub(crate) is_logical: bool,
}

/// What the system says about the process at the other end.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) process_id: Option<u32>,
    pub(crate) session_id: Option<u32>,
    pub(crate) user: Option<String>,
}

/// How a wait for a busy server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// An instance may be free now, or it is time to ask again.
    #[cfg_attr(unix, allow(dead_code))]
    Ended,
    /// The server's default time-out for its clients has passed.
    #[cfg_attr(unix, allow(dead_code))]
    TimedOut,
    /// The system has no such wait here.
    Unsupported,
}

/// What comes out of a pipe that preserves message boundaries.
#[derive(Debug)]
#[cfg_attr(unix, allow(dead_code))]
pub(crate) enum Received {
    Message(BytesMut),
    /// A message of this size, above the limit.
    TooLarge(usize),
    /// The peer left in the middle of a message, of which this much had come.
    Truncated(usize),
    End,
}

/// The result of the last write, and the buffer that the write owned.
pub(crate) type Flushed = (io::Result<()>, Option<Bytes>);

/// What [`Listener`] needs to know on every platform.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// How many clients may wait to be accepted; `None` for the platform's default.
    pub(crate) backlog: Option<u32>,
    /// How many clients may be connected.
    pub(crate) max_connections: usize,
    pub(crate) access: Access,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            backlog: None,
            max_connections: usize::MAX,
            access: Access::Owner,
        }
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<(), PlatformError> {
        if self.max_connections == 0 {
            return Err(PlatformError::invalid_option(
                "max_connections",
                "at least 1",
            ));
        }
        if self.backlog == Some(0) {
            return Err(PlatformError::invalid_option("backlog", "at least 1"));
        }
        Ok(())
    }
}

/// For dropped streams of a server that still have work to do. Only Windows has these.
#[derive(Clone, Debug)]
#[cfg_attr(unix, allow(dead_code))]
pub(crate) struct Lingering {
    pub(crate) tasks: TaskTracker,
    /// How long each of them waits for its peer to take the last bytes.
    pub(crate) limit: Duration,
}
