//! Connecting to a socket.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use socket2::{SockAddr, Socket};

use super::folder;
use super::socket;
use super::stream::Stream;
use crate::sys::{Unavailable, Waited};
use crate::{Error, PipeName};

/// There is nothing to tell a socket besides.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectOptions {}

impl ConnectOptions {
    pub(crate) fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// No event tells that a backlog has room again.
pub(crate) async fn wait_until_free(
    _: &PipeName,
    _: &ConnectOptions,
    _: Option<Duration>,
) -> Waited {
    Waited::Unsupported
}

/// Sockets have no modes.
pub(crate) fn is_mode_mismatch(_: &io::Error) -> bool {
    false
}

/// Asks once for a connection; the socket does not block.
pub(super) fn open(path: &Path) -> io::Result<Socket> {
    let socket = socket::new()?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// What is in the place of a socket, when that is why connecting failed: Linux says ECONNREFUSED, as
/// if nobody listened, or EACCES; others say ENOTSOCK.
fn not_a_pipe(name: &PipeName, error: &io::Error) -> Option<Error> {
    if matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::WouldBlock
    ) {
        return None;
    }
    let found = fs::metadata(name.as_path()).ok()?.file_type();
    let found = match found {
        it if it.is_socket() => return None,
        it if it.is_dir() => "a folder",
        it if it.is_file() => "a file",
        _ => "something else",
    };
    Some(Error::NotAPipe {
        pipe: name.clone(),
        found,
    })
}

/// What an error of [`Stream::connect`] says about the server.
pub(crate) fn unavailable(error: &io::Error) -> Option<Unavailable> {
    match error.kind() {
        // ENOENT: no file; ECONNREFUSED: a file that nobody listens on (connect, POSIX).
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Some(Unavailable::Missing),
        // EAGAIN: the backlog is full (connect(2), for non-blocking Unix sockets).
        io::ErrorKind::WouldBlock => Some(Unavailable::Busy),
        _ => None,
    }
}

impl Stream {
    /// One attempt, which does not wait.
    pub(crate) async fn connect(name: &PipeName, _: &ConnectOptions) -> io::Result<Self> {
        let path = name.as_path();
        if name.logical
            && let Some(parent) = path.parent()
        {
            folder::check(parent)?;
        }
        match open(path) {
            Ok(socket) => Stream::new(socket, None),
            Err(e) => Err(not_a_pipe(name, &e).map_or(e, io::Error::from)),
        }
    }
}
