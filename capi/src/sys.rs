//! What differs between platforms.

use asyncipc::{ClientBuilder, ServerBuilder};

/// How messages move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Default,
    Overlapped,
    Messages,
}

#[cfg(windows)]
mod platform {
    use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};

    use super::*;

    pub(crate) const HAS_MESSAGE_MODE: bool = true;

    pub(crate) fn server(builder: ServerBuilder, transport: Transport) -> ServerBuilder {
        match transport {
            Transport::Default => builder,
            Transport::Overlapped => builder.overlapped_io(),
            Transport::Messages => builder.message_mode(),
        }
    }

    pub(crate) fn client(builder: ClientBuilder, transport: Transport) -> ClientBuilder {
        match transport {
            Transport::Default => builder,
            Transport::Overlapped => builder.overlapped_io(),
            Transport::Messages => builder.message_mode(),
        }
    }

    /// There is no such signal.
    pub(crate) fn block_sigpipe() {}
}

#[cfg(unix)]
mod platform {
    use std::mem::MaybeUninit;
    use std::ptr;

    use super::*;

    pub(crate) const HAS_MESSAGE_MODE: bool = false;

    /// Sockets are all the same.
    pub(crate) fn server(builder: ServerBuilder, _: Transport) -> ServerBuilder {
        builder
    }

    pub(crate) fn client(builder: ClientBuilder, _: Transport) -> ClientBuilder {
        builder
    }

    /// Blocks SIGPIPE in this thread, and those that it starts: a peer that has left is an error, and
    /// must not end the program. Programs in Rust ignore it altogether, others do not.
    pub(crate) fn block_sigpipe() {
        let mut signals = MaybeUninit::uninit();
        // SAFETY: `signals` is there for all three, and the first one makes it a set. The old mask
        // is not asked for. Nothing of it can fail with a valid set and signal.
        unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
            libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), ptr::null_mut());
        }
    }
}

pub(crate) use platform::*;
