use std::fmt;

use bytes::Bytes;

use crate::{ConnectionId, Error, Peer};

/// What happens in a [`PipeHub`](crate::PipeHub).
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server listens. Comes once and before all other events; not in the hub of a client.
    Listening,
    /// A client has connected. From now on it can be sent to.
    #[non_exhaustive]
    Connected {
        /// The connection's number, as [`PipeConnection::id`](crate::PipeConnection::id). It is never
        /// used again in this process.
        id: ConnectionId,
        /// Who it is, as far as the system tells.
        peer: Peer,
    },
    /// A message came.
    #[non_exhaustive]
    Received {
        /// The client that sent it.
        id: ConnectionId,
        /// The message.
        message: Bytes,
    },
    /// The system has taken a message. The client may not have read it yet.
    #[non_exhaustive]
    Sent {
        /// The client that it was sent to.
        id: ConnectionId,
        /// How many messages this event stands for: one, as long as the application reads the events.
        /// When the application is a whole queue behind, one event stands for several messages, so that
        /// the events do not accumulate without bound.
        messages: usize,
        /// How long they were, in bytes.
        len: usize,
    },
    /// A client has gone. Nothing more comes from it, and nothing can be sent to it.
    #[non_exhaustive]
    Disconnected {
        /// The client.
        id: ConnectionId,
        /// Why.
        reason: DisconnectReason,
    },
}

/// Why a client of a [`PipeHub`](crate::PipeHub) has gone.
#[derive(Debug)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The client left, between two messages.
    Left,
    /// The connection failed: the client left in the middle of a message, it sent a message above the
    /// limit, or the system reported an error.
    Failed(Error),
    /// [`HubHandle::disconnect`](super::HubHandle::disconnect) was called.
    Disconnected,
    /// The client's queue was full, and the hub's policy is
    /// [`Overflow::Disconnect`](super::Overflow::Disconnect).
    Overflow,
    /// The hub was shut down.
    ShutDown,
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DisconnectReason::Left => f.write_str("it left"),
            DisconnectReason::Failed(error) => error.fmt(f),
            DisconnectReason::Disconnected => f.write_str("it was disconnected"),
            DisconnectReason::Overflow => f.write_str("it does not read, and its queue is full"),
            DisconnectReason::ShutDown => f.write_str("the hub was shut down"),
        }
    }
}
