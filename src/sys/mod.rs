//! Everything that differs between platforms: the only place with `unsafe` and with `cfg` on the
//! target. Each platform's module offers the same few items to the rest of the crate:
//!
//! - names: `full_path`, `resolve`, `check_length`
//! - `Listener` with `bind` and `poll_accept`, set up by `ListenOptions`
//! - `Stream` with `connect`, `poll_read_ready`, `try_read`, `poll_write`, `poll_write_vectored`,
//!   `is_write_vectored`, `shutdown`, `drained`, `peer`
//! - `unavailable`, which tells why nobody could be connected to

#[cfg(unix)]
#[path = "unix/mod.rs"]
mod platform;
#[cfg(windows)]
#[path = "windows/mod.rs"]
mod platform;

pub(crate) use platform::{
    ListenOptions, Listener, Stream, check_length, full_path, resolve, unavailable,
};

/// Why a server cannot be connected to right now. Anything else is an error for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// Nobody listens.
    Missing,
    /// Somebody listens, but takes no further client at the moment.
    Busy,
}

/// What [`Listener`] needs to know on every platform.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// How many clients may wait to be accepted; `None` for the platform's default.
    pub(crate) backlog: Option<u32>,
    /// How many clients may be connected.
    pub(crate) max_connections: usize,
}

/// The knobs that only this platform has.
#[allow(unreachable_pub)] // lib.rs re-exports what is in here, whatever it is.
pub mod ext {
    #[cfg(unix)]
    pub mod unix {
        //! What only Unix sockets have.
        pub use crate::sys::platform::ext::*;
    }
    #[cfg(windows)]
    pub mod windows {
        //! What only Windows named pipes have.
        pub use crate::sys::platform::ext::*;
    }
}
