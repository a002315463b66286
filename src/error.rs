use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::sys::PlatformError;
use crate::{ConnectionId, InvalidName, PipeName};

/// What can go wrong, with the name, size or time that a person needs to act on it.
///
/// Converting into [`std::io::Error`] keeps the [kind](Error::kind).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name breaks a rule of this platform. Nothing was asked of the system yet.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// A builder's option has a value that is not possible.
    #[error("invalid option {option}: {rule}")]
    #[non_exhaustive]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// The rule that its value breaks.
        rule: String,
    },
    /// Nobody listens on the name.
    #[error("no server listens on {pipe}{}", there(.elsewhere.as_deref()))]
    #[non_exhaustive]
    NotFound {
        /// The pipe that was asked for.
        pipe: PipeName,
        /// The socket of a server with the same logical name that was started with another environment:
        /// cron and ssh, for example, often do not set `XDG_RUNTIME_DIR`. Looked for
        /// only on Unix, in `/run/user/<uid>` and the temporary folders. That server sees a client that
        /// leaves at once.
        elsewhere: Option<PathBuf>,
    },
    /// The path is that of something other than a socket, such as a plain file or a folder. Only on
    /// Unix.
    #[error("cannot connect to {pipe}: it is {found}, not a socket")]
    #[non_exhaustive]
    NotAPipe {
        /// The path that was asked for.
        pipe: PipeName,
        /// What is there: `a file`, `a folder`, or `something else`.
        found: &'static str,
    },
    /// The server is there, but takes no further client at the moment, and the client was told
    /// not to wait.
    #[error("the server on {pipe} is busy")]
    #[non_exhaustive]
    Busy {
        /// The pipe that was asked for.
        pipe: PipeName,
    },
    /// A deadline passed.
    #[error("{action} {pipe} timed out after {waited:.1?}: {reason}")]
    #[non_exhaustive]
    TimedOut {
        /// The pipe that was waited for.
        pipe: PipeName,
        /// What was being done.
        action: &'static str,
        /// How long the wait was.
        waited: Duration,
        /// What had not happened yet.
        reason: &'static str,
    },
    /// Another server listens on the name already, or something other than a server's socket has the path.
    #[error("cannot listen on {pipe}: {reason}")]
    #[non_exhaustive]
    AddressInUse {
        /// The pipe that was to be bound.
        pipe: PipeName,
        /// Who or what is in the way.
        reason: &'static str,
    },
    /// The system, or the safety rules of this crate, refuse access.
    #[error("{action} {pipe}: access denied: {reason}")]
    #[non_exhaustive]
    AccessDenied {
        /// The pipe that was asked for.
        pipe: PipeName,
        /// What failed: `cannot listen on`, `cannot connect to` and the like.
        action: &'static str,
        /// Who refuses, and why. If the folder of the sockets is the cause, this names its path.
        reason: String,
    },
    /// The client wants messages that the system keeps apart, but the server's pipe is one of
    /// bytes. Only on Windows.
    #[error("{pipe} is a pipe of bytes, not of messages")]
    #[non_exhaustive]
    ModeMismatch {
        /// The pipe that was asked for.
        pipe: PipeName,
    },
    /// A message is longer than the limit. When sending, nothing of it was sent and the
    /// connection goes on; when receiving, the connection is of no more use.
    #[error("a message of {size} bytes is above the limit of {max} bytes")]
    #[non_exhaustive]
    MessageTooLarge {
        /// The message's size in bytes, as announced.
        size: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The peer's stream ended in the middle of a message.
    #[error("the stream ended inside a message: {received} {} had come", of_bytes(*.expected))]
    #[non_exhaustive]
    Truncated {
        /// How many bytes had come: of the frame, with its 4-byte header, or of a message that the system
        /// keeps apart.
        received: usize,
        /// How many bytes the frame has: 4 if not even the header was whole. `None` for a message that the
        /// system keeps apart: nobody knows its size any more.
        expected: Option<usize>,
    },
    /// The connection is closed, so nothing can reach the peer: the peer has left, or this end was closed.
    #[error("{}", closed(pipe, *by_this_end))]
    #[non_exhaustive]
    Closed {
        /// The connection's pipe.
        pipe: PipeName,
        /// `true` if this end was closed: the peer may still be there. `false` if the peer has left.
        by_this_end: bool,
    },
    /// The server was shut down: it accepts nobody any more.
    #[error("the server on {pipe} is shut down")]
    #[non_exhaustive]
    ShutDown {
        /// The server's pipe.
        pipe: PipeName,
    },
    /// A [`PipeHub`](crate::PipeHub) has no such client, or no longer has it.
    #[error("no client {id} is connected to {pipe}")]
    #[non_exhaustive]
    UnknownClient {
        /// The hub's pipe.
        pipe: PipeName,
        /// The client that was asked for.
        id: ConnectionId,
    },
    /// The queue of a client of a [`PipeHub`](crate::PipeHub), or of a
    /// [`SharedSender`](crate::SharedSender), is full. This message was not accepted.
    #[error("the queue of connection {id} of {pipe} is full")]
    #[non_exhaustive]
    QueueFull {
        /// The pipe.
        pipe: PipeName,
        /// The connection whose peer does not read fast enough.
        id: ConnectionId,
    },
    /// A client of a [`PipeHub`](crate::PipeHub) left, or the hub ended, before all messages that were being
    /// flushed were sent.
    #[error("{messages} messages to client {id} of {pipe} were not sent")]
    #[non_exhaustive]
    Unsent {
        /// The hub's pipe.
        pipe: PipeName,
        /// The client that they were for.
        id: ConnectionId,
        /// How many the system has not taken, or not entirely.
        messages: u64,
    },
    /// A worker process ended before it took its end of the channel. Only on Windows: elsewhere the
    /// connection ends.
    #[error("the worker on {pipe} ended before it connected: {status}")]
    #[non_exhaustive]
    WorkerEnded {
        /// The channel's pipe.
        pipe: PipeName,
        /// How the process ended.
        status: ExitStatus,
    },
    /// This process has no channel to its parent.
    #[error("no channel to the parent process: {reason}")]
    #[non_exhaustive]
    NoChannel {
        /// Why not: it was started without one, it has taken it already, or the channel is another
        /// process's.
        reason: String,
    },
    /// Any other error of the system.
    #[error("{action}: {source}")]
    #[non_exhaustive]
    Io {
        /// What was being done, and to which pipe.
        action: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// The kind that a [`std::io::Error`] made from this error has.
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind;
        match self {
            Error::InvalidName(_) | Error::InvalidOption { .. } | Error::NotAPipe { .. } => {
                ErrorKind::InvalidInput
            }
            Error::ModeMismatch { .. } => ErrorKind::Unsupported,
            Error::NotFound { .. } | Error::NoChannel { .. } => ErrorKind::NotFound,
            Error::Busy { .. } | Error::QueueFull { .. } => ErrorKind::WouldBlock,
            Error::TimedOut { .. } => ErrorKind::TimedOut,
            Error::AddressInUse { .. } => ErrorKind::AddrInUse,
            Error::AccessDenied { .. } => ErrorKind::PermissionDenied,
            Error::MessageTooLarge { .. } => ErrorKind::InvalidData,
            Error::Truncated { .. } => ErrorKind::UnexpectedEof,
            Error::Closed { .. } | Error::Unsent { .. } | Error::WorkerEnded { .. } => {
                ErrorKind::BrokenPipe
            }
            Error::ShutDown { .. } | Error::UnknownClient { .. } => ErrorKind::NotConnected,
            Error::Io { source, .. } => source.kind(),
        }
    }

    /// The error for a system error while doing `action` to `pipe`, chosen by its kind. If `source` wraps one
    /// of these errors already, that one.
    pub(crate) fn from_io(action: &'static str, pipe: &PipeName, source: io::Error) -> Self {
        use io::ErrorKind;
        let source = match source.downcast() {
            Ok(error) => return error,
            Err(source) => source,
        };
        let pipe = pipe.clone();
        match source.kind() {
            ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected => Error::Closed {
                pipe,
                by_this_end: false,
            },
            ErrorKind::PermissionDenied => Error::AccessDenied {
                pipe,
                action,
                reason: source.to_string(),
            },
            _ => Error::Io {
                action: format!("{action} {pipe}"),
                source,
            },
        }
    }

    /// The error for what the platform reports about `pipe`.
    pub(crate) fn from_platform(pipe: &PipeName, error: PlatformError) -> Self {
        let (name, pipe) = (pipe, pipe.clone());
        match error {
            PlatformError::Missing => Error::NotFound {
                pipe,
                elsewhere: None,
            },
            PlatformError::Busy => Error::Busy { pipe },
            PlatformError::ModeMismatch => Error::ModeMismatch { pipe },
            PlatformError::NotAPipe { found } => Error::NotAPipe { pipe, found },
            PlatformError::InvalidName { rule } => {
                InvalidName::new(pipe.as_path().as_os_str(), rule).into()
            }
            PlatformError::InvalidOption { option, rule } => Error::InvalidOption { option, rule },
            PlatformError::AddressInUse { reason } => Error::AddressInUse { pipe, reason },
            PlatformError::AccessDenied { action, reason } => Error::AccessDenied {
                pipe,
                action,
                reason,
            },
            #[cfg(feature = "worker")]
            PlatformError::WorkerEnded(status) => Error::WorkerEnded { pipe, status },
            PlatformError::Io {
                action,
                detail: "",
                source,
            } => Error::from_io(action, name, source),
            PlatformError::Io {
                action,
                detail,
                source,
            } => Error::Io {
                action: format!("{action} {name}{detail}"),
                source,
            },
        }
    }
}

fn closed(pipe: &PipeName, by_this_end: bool) -> String {
    match by_this_end {
        true => format!("this end of {pipe} was closed"),
        false => format!("the peer of {pipe} closed the connection"),
    }
}

fn of_bytes(expected: Option<usize>) -> String {
    match expected {
        Some(expected) => format!("of {expected} bytes"),
        None => "bytes".into(),
    }
}

fn there(elsewhere: Option<&Path>) -> String {
    elsewhere.map_or_else(String::new, |path| {
        let path = path.display();
        format!(", but one does on {path}: the environment tells where logical names are")
    })
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), error)
    }
}

/// An error of the system without further context, as codecs report it.
impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Error::Io {
            action: "pipe I/O".into(),
            source,
        }
    }
}

/// An error with all of its sources, as text for logs: `a: b: c`.
pub(crate) fn chain<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl fmt::Display + 'a {
    Chain(error)
}

struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        f.write_str(&text)?;
        let mut error = self.0;
        while let Some(source) = error.source() {
            let next = source.to_string();
            // Many errors repeat the text of their source.
            if !text.ends_with(&next) {
                write!(f, ": {next}")?;
            }
            (error, text) = (source, next);
        }
        Ok(())
    }
}
