use std::fmt;

use bytes::Bytes;

use crate::{ConnectionId, Error, Peer};

/// What happens in a [`PipeHub`](crate::PipeHub).
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server listens. Comes once and before all others; not when the hub is that of a client.
    Listening,
    /// A client is there. From now on it can be sent to.
    #[non_exhaustive]
    Connected {
        /// The connection's number, as [`PipeConnection::id`](crate::PipeConnection::id): never
        /// used again in this process.
        id: ConnectionId,
        /// Who it is, as far as the system tells.
        peer: Peer,
    },
    /// A message came.
    #[non_exhaustive]
    Received {
        /// From whom.
        id: ConnectionId,
        /// What it says.
        message: Bytes,
    },
    /// The system has taken a message. The client may not have read it yet.
    #[non_exhaustive]
    Sent {
        /// To whom.
        id: ConnectionId,
        /// How many messages this is about: one, as long as the application reads the events.
        /// When it is a whole queue behind, one event stands for several messages, or the events
        /// would add up without end.
        messages: usize,
        /// How long they were, in bytes.
        len: usize,
    },
    /// A client is gone. Nothing comes from it any more, and nothing can be sent to it.
    #[non_exhaustive]
    Disconnected {
        /// Who.
        id: ConnectionId,
        /// Why.
        reason: DisconnectReason,
    },
}

/// Why a client of a [`PipeHub`](crate::PipeHub) is gone.
#[derive(Debug)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// It left, between two messages.
    Left,
    /// The connection failed: the client left in the middle of a message, sent one above the
    /// limit, or the system has an error.
    Failed(Error),
    /// [`HubHandle::disconnect`](super::HubHandle::disconnect) was called.
    Disconnected,
    /// Its queue was full, and the hub's policy is
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
