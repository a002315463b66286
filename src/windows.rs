//! What only Windows named pipes have.

use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, RawHandle};
use std::time::Duration;

use crate::sys::{DEFAULT_WAIT, LONGEST_WAIT};
use crate::{ClientBuilder, PipeStream, ServerBuilder};

pub use crate::sys::Impersonation;

use self::sealed::Sealed;

/// Prevents other implementations of the traits, because they will grow.
mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::ServerBuilder {}
    impl Sealed for crate::ClientBuilder {}
}

/// Options of a server that only Windows named pipes have.
pub trait ServerBuilderExt: Sized + Sealed {
    /// Lets the system preserve message boundaries (`PIPE_TYPE_MESSAGE`), without the length in front of
    /// each message: for peers that use raw message pipes, as most programs in C and Go do.
    ///
    /// Messages of any size up to `max_message_size`, and empty ones, arrive as they were sent.
    /// As a [`PipeStream`], such a pipe reads as bytes without boundaries, each write is a
    /// message, and `shutdown` sends none.
    fn message_mode(self) -> Self;

    /// Treats an empty message as the end of the peer's direction, as go-winio, Docker and others do:
    /// see [`PipeConnection::close_write`](crate::PipeConnection::close_write). Without this, it is a
    /// message like any other. Requires [`message_mode`](Self::message_mode): otherwise binding fails
    /// with [`Error::InvalidOption`](crate::Error::InvalidOption).
    fn end_on_empty_message(self) -> Self;

    /// Transfers bytes by this crate's overlapped I/O instead of tokio's, which reads 4 KiB at a time.
    /// This is faster for large messages, and `flush` then waits until the system has taken everything.
    /// The bytes are the same. Message mode always uses it.
    fn overlapped_io(self) -> Self;

    /// The quotas of the pipe in bytes, for incoming and for outgoing data. Default 64 KiB each. A write
    /// waits while the bytes that the peer has not read exceed the quota.
    fn buffer_sizes(self, incoming: u32, outgoing: u32) -> Self;

    /// How long clients that ask for the server's default wait, as
    /// [`ClientBuilderExt::server_default_timeout`] and `NMPWAIT_USE_DEFAULT_WAIT` do. In whole
    /// milliseconds, at most 24 days. Default and zero: 50 ms, the system's default.
    fn default_timeout(self, timeout: Duration) -> Self;

    /// Lets clients on other machines connect. Default: they are rejected.
    fn allow_remote_clients(self) -> Self;

    /// Who may do what, in the [security descriptor definition language][sddl]. Replaces what
    /// [`ServerBuilder::access`] says.
    ///
    /// FILE_GENERIC_WRITE contains the right to create instances of the pipe, so whoever has it can pose
    /// as the server: give others individual rights, such as `0x12019b`. The server's own user needs it:
    /// otherwise binding fails with [`Error::AccessDenied`](crate::Error::AccessDenied). If the text
    /// names no owner, the user owns the pipe. If the system refuses the text, binding fails with
    /// [`Error::InvalidOption`](crate::Error::InvalidOption).
    ///
    /// [sddl]: https://learn.microsoft.com/windows/win32/secauthz/security-descriptor-string-format
    fn security_descriptor(self, sddl: impl Into<String>) -> Self;
}

impl ServerBuilderExt for ServerBuilder {
    fn message_mode(mut self) -> Self {
        self.platform.transport.message_mode();
        self
    }

    fn end_on_empty_message(mut self) -> Self {
        self.platform.transport.end_on_empty_message = true;
        self
    }

    fn overlapped_io(mut self) -> Self {
        self.platform.transport.overlapped_io();
        self
    }

    fn buffer_sizes(mut self, incoming: u32, outgoing: u32) -> Self {
        self.platform.in_buffer = incoming;
        self.platform.out_buffer = outgoing;
        self
    }

    fn default_timeout(mut self, timeout: Duration) -> Self {
        self.platform.default_wait = match timeout.as_millis() {
            0 => DEFAULT_WAIT,
            millis => millis.min(LONGEST_WAIT.into()) as u32,
        };
        self
    }

    fn allow_remote_clients(mut self) -> Self {
        self.platform.accept_remote = true;
        self
    }

    fn security_descriptor(mut self, sddl: impl Into<String>) -> Self {
        self.platform.security_descriptor = Some(sddl.into());
        self
    }
}

/// Options of a client that only Windows named pipes have.
pub trait ClientBuilderExt: Sized + Sealed {
    /// Uses the message boundaries that the system preserves, without the length in front of each
    /// message: for servers that use raw message pipes. See [`ServerBuilderExt::message_mode`].
    ///
    /// With a byte pipe, this is [`Error::ModeMismatch`](crate::Error::ModeMismatch).
    fn message_mode(self) -> Self;

    /// Treats an empty message as the end of the peer's direction, as go-winio, Docker and others do:
    /// see [`ServerBuilderExt::end_on_empty_message`].
    fn end_on_empty_message(self) -> Self;

    /// See [`ServerBuilderExt::overlapped_io`]. One end can have it without the other.
    fn overlapped_io(self) -> Self;

    /// Waits for a busy server as long as the server has set for its clients
    /// ([`ServerBuilderExt::default_timeout`]), and at most the builder's `timeout`. Does nothing for a
    /// server on another machine, which is asked again after pauses.
    fn server_default_timeout(self) -> Self;

    /// What the server may do with the client's identity. Default: identify the client, and no more.
    fn impersonation(self, level: Impersonation) -> Self;
}

impl ClientBuilderExt for ClientBuilder {
    fn message_mode(mut self) -> Self {
        self.platform.transport.message_mode();
        self
    }

    fn end_on_empty_message(mut self) -> Self {
        self.platform.transport.end_on_empty_message = true;
        self
    }

    fn overlapped_io(mut self) -> Self {
        self.platform.transport.overlapped_io();
        self
    }

    fn server_default_timeout(mut self) -> Self {
        self.platform.server_default_wait = true;
        self
    }

    fn impersonation(mut self, level: Impersonation) -> Self {
        self.platform.impersonation = level;
        self
    }
}

impl AsHandle for PipeStream {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.io().as_handle()
    }
}

impl AsRawHandle for PipeStream {
    fn as_raw_handle(&self) -> RawHandle {
        self.as_handle().as_raw_handle()
    }
}
