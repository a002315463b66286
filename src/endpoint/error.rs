use std::io;
use std::time::Duration;

use crate::{BoxError, Error, InvalidName};

/// What can go wrong between named programs.
///
/// Converting into [`std::io::Error`] keeps the [kind](EndpointError::kind).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// An error of the pipe: a name that breaks a rule, a message above the limit, an endpoint
    /// that is shut down, a connection that failed.
    #[error(transparent)]
    Pipe(#[from] Error),
    /// As many messages wait for this program as may. This one was not accepted.
    #[error("{messages} messages wait for {to} already")]
    #[non_exhaustive]
    QueueFull {
        /// The program that it was for.
        to: String,
        /// How many may wait.
        messages: usize,
    },
    /// A handler's request was not made: too many handlers of one connection wait for other programs
    /// already, or the messages of those that wait have too many bytes. This bounds what is
    /// read while handlers wait.
    #[error(
        "{to} was not asked: {handlers} handlers of one connection, with {bytes} bytes of messages, wait \
         for other programs already; {bound} allows {most}"
    )]
    #[non_exhaustive]
    TooManyWait {
        /// The program that was to be asked.
        to: String,
        /// How many wait.
        handlers: usize,
        /// How many bytes their messages have in all, as JSON.
        bytes: usize,
        /// The option whose bound was reached: `waiting_handlers`, or `bytes_in_hand`.
        bound: &'static str,
        /// The most that it allows: a number of handlers, or of bytes.
        most: usize,
    },
    /// The data cannot be sent as JSON. Nothing was sent.
    #[error("the data of {action:?} cannot be sent: {reason}")]
    #[non_exhaustive]
    Data {
        /// The message's action.
        action: String,
        /// What JSON cannot represent.
        reason: String,
    },
    /// A message was accepted, and given up: the system had not taken all of it in time.
    #[error("not delivered to {to} within {waited:.1?}: {reason}")]
    #[non_exhaustive]
    Undelivered {
        /// The program that it was for.
        to: String,
        /// How long it had been waiting.
        waited: Duration,
        /// What was in the way.
        reason: String,
    },
    /// Messages that were accepted before the call of `flush` were given up. Each of them has an event of
    /// its own, or is the error of its request.
    #[error("{messages} messages to {to} were not sent")]
    #[non_exhaustive]
    NotSent {
        /// The program that they were for.
        to: String,
        /// How many.
        messages: u64,
    },
    /// The reply to a request did not come in time.
    #[error("no reply from {to} to {action:?} within {waited:.1?}: {reason}")]
    #[non_exhaustive]
    NoReply {
        /// The program that was asked.
        to: String,
        /// What it was asked for.
        action: String,
        /// How long the requester has waited.
        waited: Duration,
        /// What is known about the cause.
        reason: String,
    },
    /// The request was sent, and no reply comes any more. Nobody knows whether it was handled.
    #[error("no reply from {to} to {action:?}: {reason}")]
    #[non_exhaustive]
    Unanswered {
        /// The program that was asked.
        to: String,
        /// What it was asked for.
        action: String,
        /// Why: which side has ended the connection, or what came that may have been the reply.
        reason: String,
    },
    /// The other program replied with an error: its handler failed, it has none, or the request is
    /// above the limit there.
    #[error("{to} cannot do {action:?}: {reason}")]
    #[non_exhaustive]
    Refused {
        /// The program that was asked.
        to: String,
        /// What it was asked for.
        action: String,
        /// What it said.
        reason: String,
    },
    /// The connection has ended, and the other program may not have read everything that the
    /// system had for it: what it has not read is lost. Either the program has left: then Linux knows what
    /// was unread, Windows may report it without knowing, and other systems do not report it. Or the program
    /// did not read until a message was given up.
    #[error("{to} may not have read everything that was sent to it")]
    #[non_exhaustive]
    Unread {
        /// The other program.
        to: String,
    },
    /// The other program has left out a message that was sent to it, which is lost: it was above
    /// the limit there.
    #[error("{to} did not take a message: {reason}")]
    #[non_exhaustive]
    Rejected {
        /// The program that did not take it, as it calls itself.
        to: String,
        /// What it said.
        reason: String,
    },
    /// A message above the limit arrived. It was left out, its sender is told, and its connection goes on.
    #[error("a message of {size} bytes is above the limit of {max} bytes{}", sender(*process_id))]
    #[non_exhaustive]
    TooLarge {
        /// The process that it came from, where the system tells.
        process_id: Option<u32>,
        /// Its size as JSON, in bytes.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// A message arrived that is not an envelope. It was left out, and its connection goes on.
    #[error("a message that is not an envelope came: {reason}")]
    #[non_exhaustive]
    BadEnvelope {
        /// The process that it came from, where the system tells.
        process_id: Option<u32>,
        /// The rule that it breaks.
        reason: String,
    },
    /// A handler failed or panicked, and nobody waits for its reply.
    #[error("the handler of {action:?} from {from} failed: {source}")]
    #[non_exhaustive]
    Handler {
        /// The message's action.
        action: String,
        /// The message's sender.
        from: String,
        /// What the handler said.
        source: BoxError,
    },
    /// The program that made these requests has ended the connection, and the drain timeout has passed
    /// since then: their handlers were cancelled.
    #[error("{requests} requests were given up {waited:.1?} after whoever made them had left")]
    #[non_exhaustive]
    Abandoned {
        /// How many requests.
        requests: usize,
        /// How long they could go on.
        waited: Duration,
    },
    /// The endpoint was shut down, and the drain timeout passed while handlers were at work, or
    /// waited for their turn, on messages of one connection.
    #[error("{messages} messages were not handled to the end before the endpoint shut down")]
    #[non_exhaustive]
    Unhandled {
        /// How many messages, requests included.
        messages: usize,
    },
}

fn sender(process_id: Option<u32>) -> String {
    process_id.map_or_else(String::new, |it| format!(", from process {it}"))
}

impl EndpointError {
    /// The kind that a [`std::io::Error`] made from this error has: `WouldBlock` if trying again later
    /// can help, `TimedOut` if a time limit has passed, and so on. For
    /// [`Pipe`](EndpointError::Pipe), that of [`Error::kind`].
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind;
        match self {
            EndpointError::Pipe(error) => error.kind(),
            EndpointError::QueueFull { .. } | EndpointError::TooManyWait { .. } => {
                ErrorKind::WouldBlock
            }
            EndpointError::Data { .. } => ErrorKind::InvalidInput,
            EndpointError::Undelivered { .. }
            | EndpointError::NoReply { .. }
            | EndpointError::Abandoned { .. }
            | EndpointError::Unhandled { .. } => ErrorKind::TimedOut,
            EndpointError::NotSent { .. }
            | EndpointError::Unanswered { .. }
            | EndpointError::Unread { .. } => ErrorKind::BrokenPipe,
            EndpointError::Rejected { .. }
            | EndpointError::TooLarge { .. }
            | EndpointError::BadEnvelope { .. } => ErrorKind::InvalidData,
            EndpointError::Refused { .. } | EndpointError::Handler { .. } => ErrorKind::Other,
        }
    }
}

impl From<EndpointError> for io::Error {
    fn from(error: EndpointError) -> Self {
        io::Error::new(error.kind(), error)
    }
}

impl From<InvalidName> for EndpointError {
    fn from(error: InvalidName) -> Self {
        EndpointError::Pipe(error.into())
    }
}
