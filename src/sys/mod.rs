//! Everything that differs between platforms: the only place with `unsafe` and with `cfg` on the
//! target. Each platform's module offers the same few items to the rest of the crate:
//!
//! - names: `full_path`, `resolve`, `check_length`, `elsewhere`
//! - `Listener` with `bind` and `poll_accept`, set up by `ListenOptions`, and always called in the
//!   runtime in which it was bound; `is_transient` tells which of its errors
//!   are worth another try
//! - `Stream` with `connect` (set up by `ConnectOptions`), `poll_read_ready`, `try_read`, `read_now`,
//!   `poll_write`, `poll_write_vectored`, `is_write_vectored`, `poll_flush`, `shutdown`, `drained`,
//!   `was_asked`, `refuse`, `has_refused`, `take_rest`, `runtime`, `peer`, `messages` where the system
//!   keeps messages apart, and `writer` where it keeps the buffer of a write
//! - `Messages` with `poll_recv`, `start_send`, `poll_flush`, `is_idle`, `keep_spent` and `take_spent`
//! - connecting: `unavailable`, `is_mode_mismatch`, `wait_until_free`
//! - `current_user`
//! - worker processes: `channel`, whose ends have `name`, `connected`, `address`, `give_to` and
//!   `was_given`, and
//!   `Inherited` with `find` and `open`

use std::time::Duration;

use bytes::BytesMut;
use tokio_util::task::TaskTracker;

use crate::Access;

#[cfg(unix)]
#[path = "unix/mod.rs"]
mod platform;
#[cfg(windows)]
#[path = "windows/mod.rs"]
mod platform;

#[cfg(windows)]
pub use platform::Impersonation;
pub(crate) use platform::{
    ConnectOptions, ListenOptions, Listener, Messages, Stream, check_length, current_user,
    elsewhere, full_path, is_mode_mismatch, is_transient, resolve, unavailable, wait_until_free,
};
#[cfg(windows)]
pub(crate) use platform::{DEFAULT_WAIT, LONGEST_WAIT};
#[cfg(feature = "worker")]
pub(crate) use platform::{Inherited, channel};

/// Why a server cannot be connected to right now. Anything else is an error for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// Nobody listens.
    Missing,
    /// Somebody listens, but takes no further client at the moment.
    Busy,
}

/// How a wait for a busy server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// A client may be taken now, or so much time has passed that it is worth asking.
    #[cfg_attr(unix, allow(dead_code))]
    Ended,
    /// The time that the server gives its clients has passed.
    #[cfg_attr(unix, allow(dead_code))]
    TimedOut,
    /// The system has no such wait here.
    Unsupported,
}

/// What comes out of a pipe that keeps messages apart.
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

/// What [`Listener`] needs to know on every platform.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// How many clients may wait to be accepted; `None` for the platform's default.
    pub(crate) backlog: Option<u32>,
    /// How many clients may be connected.
    pub(crate) max_connections: usize,
    pub(crate) access: Access,
}

/// What dropped streams of a server still have to do, where there is such a thing.
#[derive(Clone, Debug)]
#[cfg_attr(unix, allow(dead_code))]
pub(crate) struct Lingering {
    pub(crate) tasks: TaskTracker,
    /// How long one of them waits for its peer to take the last bytes.
    pub(crate) limit: Duration,
}
