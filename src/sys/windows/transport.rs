//! Whose I/O moves the bytes of an end: tokio's, or this crate's overlapped I/O, as bytes or as messages.

use std::future::{pending, poll_fn};
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, IntoRawHandle, OwnedHandle};

use bytes::{BufMut, BytesMut};
use tokio::net::windows::named_pipe::{NamedPipeClient, NamedPipeServer};
use windows_sys::Win32::Foundation::ERROR_PIPE_NOT_CONNECTED;
use windows_sys::Win32::System::Pipes::DisconnectNamedPipe;

use super::pipe::Pipe;
use crate::sys::PlatformError;

/// What the builders of both sides choose.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TransportOptions {
    transport: Transport,
    /// Whether an empty message ends the peer's direction.
    pub(crate) end_on_empty_message: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Transport {
    /// tokio's, as bytes.
    #[default]
    Tokio,
    /// Our own, as bytes.
    Overlapped,
    /// Our own, as messages that the system keeps apart.
    Messages,
}

impl TransportOptions {
    /// A pipe of bytes has no empty messages.
    pub(super) fn check(self) -> Result<(), PlatformError> {
        if self.end_on_empty_message && !self.keeps_messages() {
            return Err(PlatformError::invalid_option(
                "end_on_empty_message",
                "only together with message_mode",
            ));
        }
        Ok(())
    }

    /// Whether the system keeps messages apart.
    pub(super) fn keeps_messages(self) -> bool {
        self.transport == Transport::Messages
    }

    pub(crate) fn message_mode(&mut self) {
        self.transport = Transport::Messages;
    }

    /// Message mode uses overlapped I/O already.
    pub(crate) fn overlapped_io(&mut self) {
        if self.transport == Transport::Tokio {
            self.transport = Transport::Overlapped;
        }
    }
}

/// A connected end, by its transport. tokio has a type for each side.
#[derive(Debug)]
pub(super) enum End {
    Server(NamedPipeServer),
    Client(NamedPipeClient),
    Overlapped(Pipe),
    Messages(Pipe),
}

/// Calls the same method on whichever end it is.
macro_rules! either {
    ($end:expr, $it:ident => $call:expr) => {
        match $end {
            End::Server($it) => $call,
            End::Client($it) => $call,
            End::Overlapped($it) | End::Messages($it) => $call,
        }
    };
}
pub(super) use either;

impl End {
    /// Takes over a handle. tokio's pipes must be made in their runtime.
    pub(super) fn new(
        handle: OwnedHandle,
        is_server: bool,
        options: TransportOptions,
    ) -> io::Result<Self> {
        match options.transport {
            Transport::Tokio => {
                let handle = handle.into_raw_handle();
                // SAFETY: the handle is an end of a pipe, opened for overlapped I/O, that nobody else
                // owns. On failure tokio has closed it.
                unsafe {
                    match is_server {
                        true => NamedPipeServer::from_raw_handle(handle).map(End::Server),
                        false => NamedPipeClient::from_raw_handle(handle).map(End::Client),
                    }
                }
            }
            Transport::Overlapped => Pipe::new(handle, false).map(End::Overlapped),
            Transport::Messages => {
                let pipe = Pipe::new(handle, options.end_on_empty_message)?;
                if !is_server {
                    pipe.set_message_mode()?;
                }
                Ok(End::Messages(pipe))
            }
        }
    }

    /// The pipe, where the I/O is this crate's own.
    pub(super) fn pipe(&self) -> Option<&Pipe> {
        match self {
            End::Overlapped(pipe) | End::Messages(pipe) => Some(pipe),
            End::Server(_) | End::Client(_) => None,
        }
    }

    pub(super) fn try_read(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let read = match self {
            End::Server(it) => it.try_read_buf(buf),
            End::Client(it) => it.try_read_buf(buf),
            End::Overlapped(it) | End::Messages(it) => it.try_read(buf),
        };
        match read {
            // The server has disconnected this client, which ends the stream.
            Err(e) if e.raw_os_error() == Some(ERROR_PIPE_NOT_CONNECTED as i32) => Ok(0),
            result => result,
        }
    }

    /// Disconnects the client, so that its flush fails, even a later one. After an ordinary close it would
    /// succeed. Only for a server's end whose client has read everything: unread bytes are lost.
    pub(super) fn disconnect(&self) {
        // SAFETY: the handle is open for as long as `self` is borrowed.
        unsafe { DisconnectNamedPipe(self.as_handle().as_raw_handle()) };
    }

    /// Reads until the peer has left, and throws away what it reads.
    pub(super) async fn discard(&self) -> io::Result<()> {
        let mut scratch = BytesMut::new();
        loop {
            poll_fn(|cx| either!(self, it => it.poll_read_ready(cx))).await?;
            scratch.clear();
            scratch.reserve(4 << 10);
            match self.try_read(&mut scratch) {
                // The peer has only ended its direction. It still reads.
                Ok(0) if self.pipe().is_some_and(|it| !it.has_left()) => pending().await,
                Ok(0) => return Ok(()),
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                _ => {}
            }
        }
    }
}

impl AsHandle for End {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        either!(self, it => it.as_handle())
    }
}
