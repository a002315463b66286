use std::time::Duration;

use crate::{BoxError, Error, InvalidName};

/// What can go wrong between named programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// An error of the pipe: a name that breaks a rule, a message above the limit, an endpoint
    /// that is shut down, a connection that failed.
    #[error(transparent)]
    Pipe(#[from] Error),
    /// As many messages wait for this program as may. This one was not taken.
    #[error("{messages} messages wait for {to} already")]
    #[non_exhaustive]
    QueueFull {
        /// The program that it was for.
        to: String,
        /// How many may wait.
        messages: usize,
    },
    /// The data cannot be sent as JSON. Nothing was sent.
    #[error("the data of {action:?} cannot be sent: {reason}")]
    #[non_exhaustive]
    Data {
        /// The message's action.
        action: String,
        /// What JSON has no place for.
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
    /// The reply to a request did not come in time.
    #[error("no reply from {to} to {action:?} within {waited:.1?}: {reason}")]
    #[non_exhaustive]
    NoReply {
        /// The program that was asked.
        to: String,
        /// What it was asked for.
        action: String,
        /// How long it was waited for.
        waited: Duration,
        /// What is known of it.
        reason: String,
    },
    /// The connection ended after the request was sent and before its reply came. Whether the
    /// request was handled is not known.
    #[error("{to} left before it replied to {action:?}")]
    #[non_exhaustive]
    Unanswered {
        /// The program that was asked.
        to: String,
        /// What it was asked for.
        action: String,
    },
    /// The other program replied with an error: its handler failed, or it has none.
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
    /// The other program left, and may not have read everything that the system had for it: that
    /// is lost. Linux knows; Windows may say so without knowing; others do not say it.
    #[error("{to} left, and may not have read everything that was sent to it")]
    #[non_exhaustive]
    Unread {
        /// The program that left.
        to: String,
    },
    /// A message came that is not an envelope. It was left out, and its connection goes on.
    #[error("a message that is not an envelope came: {reason}")]
    #[non_exhaustive]
    BadEnvelope {
        /// The process that it came from, where the system tells.
        process_id: Option<u32>,
        /// The rule that it breaks.
        reason: String,
    },
    /// A handler failed or panicked, and there is nobody who waits for its reply.
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
    /// The endpoint was shut down, and the drain timeout passed while handlers were at work, or
    /// waited for their turn, on messages of one connection.
    #[error("{messages} messages were not handled to the end before the endpoint shut down")]
    #[non_exhaustive]
    Unhandled {
        /// How many messages, requests included.
        messages: usize,
    },
}

impl From<InvalidName> for EndpointError {
    fn from(error: InvalidName) -> Self {
        EndpointError::Pipe(error.into())
    }
}
