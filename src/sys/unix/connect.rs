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
use crate::sys::{Address, PlatformError, Waited};

/// How to connect to a socket: there is only one way.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectOptions {}

impl ConnectOptions {
    pub(crate) fn check(&self) -> Result<(), PlatformError> {
        Ok(())
    }
}

/// Tries once to connect, and does not wait.
pub(crate) async fn connect(
    address: Address<'_>,
    _: &ConnectOptions,
) -> Result<Stream, PlatformError> {
    if address.is_logical
        && let Some(parent) = address.path.parent()
    {
        folder::check(parent).map_err(failed)?;
    }
    let socket = open(address.path).map_err(|e| match not_a_socket(address.path, &e) {
        Some(found) => PlatformError::NotAPipe { found },
        None => failed(e),
    })?;
    Stream::new(socket, None).map_err(failed)
}

/// No event says that a backlog has room again.
pub(crate) async fn wait_until_free(
    _: Address<'_>,
    _: &ConnectOptions,
    _: Option<Duration>,
) -> Waited {
    Waited::Unsupported
}

/// Connects a non-blocking socket.
pub(super) fn open(path: &Path) -> io::Result<Socket> {
    let socket = socket::new()?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

fn failed(error: io::Error) -> PlatformError {
    if is_missing(&error) {
        PlatformError::Missing
    } else if is_busy(&error) {
        PlatformError::Busy
    } else {
        PlatformError::io("cannot connect to", error)
    }
}

/// Whether nobody listens. ENOENT: no file; ECONNREFUSED: a file that nobody listens on (connect, POSIX).
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Whether the backlog is full: EAGAIN (connect(2), for non-blocking Unix sockets).
pub(super) fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// What is there instead of a socket, when that is why connecting failed: Linux says ECONNREFUSED, as if
/// nobody listened, or EACCES; others say ENOTSOCK.
fn not_a_socket(path: &Path, error: &io::Error) -> Option<&'static str> {
    if error.kind() == io::ErrorKind::NotFound || is_busy(error) {
        return None;
    }
    match fs::metadata(path).ok()?.file_type() {
        it if it.is_socket() => None,
        it if it.is_dir() => Some("a folder"),
        it if it.is_file() => Some("a file"),
        _ => Some("something else"),
    }
}
