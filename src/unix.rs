//! What only Unix sockets have.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::{PipeStream, ServerBuilder};

use self::sealed::Sealed;

/// Prevents other implementations of the trait, because it will grow.
mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::ServerBuilder {}
}

/// Options of a server that only Unix sockets have.
pub trait ServerBuilderExt: Sized + Sealed {
    /// The socket file's mode, set before anyone can connect. Replaces what [`ServerBuilder::access`]
    /// says.
    ///
    /// Connecting requires write permission on the file, and permission to enter its folder. Only the
    /// owner can enter the folder of logical names, so a mode for others with a logical name is
    /// [`Error::InvalidOption`](crate::Error::InvalidOption).
    fn mode(self, mode: u32) -> Self;
}

impl ServerBuilderExt for ServerBuilder {
    fn mode(mut self, mode: u32) -> Self {
        self.platform.mode = Some(mode);
        self
    }
}

impl AsFd for PipeStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io().as_fd()
    }
}

impl AsRawFd for PipeStream {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
