//! The queue of messages to one program. The handles put messages into it, and the
//! [`Destination`](super::destination) takes them out.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::envelope::Envelope;
use super::link::Requester;
use crate::sync::lock;
use crate::tally::Tally;

/// A message to be sent.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) envelope: Envelope,
    pub(super) frame: Bytes,
    /// The caller that waits for the reply, if it is a request.
    pub(super) requester: Option<Requester>,
}

/// A message that was accepted for sending.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) item: Item,
    pub(super) since: Instant,
}

/// What the handles need to send to one program.
#[derive(Debug)]
pub(super) struct Queue {
    /// Its capacity is the handlers' bound.
    pub(super) items: mpsc::Sender<Accepted>,
    pub(super) room: Arc<Room>,
    pub(super) tally: Arc<Tally>,
    pub(super) to: String,
    pub(super) obstacle: Obstacle,
}

/// Wakes those who wait for room: a message was taken out of the queue, or the queue has ended.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// The first of those who wait for room holds this lock. The others wait for the lock, in turn: so nobody
    /// overtakes anybody, and each gets room in the end.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Wakes the holder of `turn`: fewer messages than the `queue` wait.
    pub(super) below_limit: Notify,
    /// Wakes the handlers that pause: a message was taken out.
    pub(super) taken: Notify,
}

impl Room {
    pub(super) fn notify_all(&self) {
        self.below_limit.notify_waiters();
        self.taken.notify_waiters();
    }
}

/// Why messages to a program are held up at the moment, as text. `None` if nothing is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Obstacle(Arc<Mutex<Option<String>>>);

impl Obstacle {
    pub(super) fn set(&self, reason: impl Into<String>) {
        *lock(&self.0) = Some(reason.into());
    }

    pub(super) fn clear(&self) {
        *lock(&self.0) = None;
    }

    pub(super) fn get(&self) -> Option<String> {
        lock(&self.0).clone()
    }
}

impl Queue {
    /// How many messages are in it.
    pub(super) fn len(&self) -> usize {
        self.items.max_capacity() - self.items.capacity()
    }
}
