//! The queue of messages to one program, as the handles see it. Its other end is the
//! [`Destination`](super::destination).

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
    /// Who waits for the reply, if it is a request.
    pub(super) requester: Option<Requester>,
}

/// A message that was accepted for sending.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) item: Item,
    pub(super) since: Instant,
}

/// What the handles need of a program that is being sent to.
#[derive(Debug)]
pub(super) struct Queue {
    /// Its capacity is the handlers' bound.
    pub(super) items: mpsc::Sender<Accepted>,
    pub(super) room: Arc<Room>,
    pub(super) tally: Arc<Tally>,
    pub(super) to: String,
    pub(super) obstacle: Obstacle,
}

/// Tells those who wait for room that something was taken out of a queue, or that the queue has ended.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Held by the first of those who wait for room. The others wait for this lock, in turn: so nobody
    /// overtakes anybody, and each gets room in the end.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// For the one whose turn it is: there is room below the `queue`.
    pub(super) below_limit: Notify,
    /// For handlers, which wait for a moment: something was taken out.
    pub(super) taken: Notify,
}

impl Room {
    pub(super) fn notify_all(&self) {
        self.below_limit.notify_waiters();
        self.taken.notify_waiters();
    }
}

/// Why a program cannot be sent to at the moment, for people to read. `None` if nothing is known.
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
