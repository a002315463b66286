//! What the two halves of a connection share.

use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};

use super::closing::Closing;
use super::pipe_end::PipeEnd;
use crate::stats::{Counters, Place};
use crate::{ConnectionId, Error};

/// A message connection, without the state that belongs to one of its halves.
#[derive(Debug)]
pub(crate) struct Core {
    end: Arc<PipeEnd>,
    pub(crate) id: ConnectionId,
    pub(crate) counters: Arc<Counters>,
    pub(crate) closing: Closing,
    /// Set once the sending half is shared.
    pub(super) queue: OnceLock<Weak<dyn Queued>>,
}

/// What a shared sender has taken and may not have written yet.
pub(super) trait Queued: Send + Sync {
    /// Writes as much as the system takes without waiting. A task of the connection's runtime writes the
    /// rest.
    fn write_now(self: Arc<Self>);
}

impl Core {
    pub(super) fn new(end: Arc<PipeEnd>, id: ConnectionId) -> Self {
        let counters = Arc::new(Counters::default());
        if let Some(place) = end.place.get() {
            place.begin(id, counters.clone());
        }
        Core {
            end,
            id,
            counters,
            closing: Closing::default(),
            queue: OnceLock::new(),
        }
    }

    pub(super) fn end(&self) -> &Arc<PipeEnd> {
        &self.end
    }

    /// Writes what a shared sender has taken. A task that waits for an answer needs its request sent.
    pub(super) fn write_queued(&self) {
        if let Some(queue) = self.queue.get().and_then(Weak::upgrade) {
            queue.write_now();
        }
    }

    /// Waits for `future`, which is a part of closing: see [`Closing`].
    pub(crate) async fn discarding<F: Future>(&self, future: F) -> F::Output {
        self.closing.discarding(&self.io, future).await
    }

    /// The error for sending after this end was closed or the peer has left.
    pub(crate) fn closed(&self, by_this_end: bool) -> Error {
        Error::Closed {
            pipe: self.name.clone(),
            by_this_end,
        }
    }
}

impl Deref for Core {
    type Target = PipeEnd;

    #[inline]
    fn deref(&self) -> &PipeEnd {
        &self.end
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(place) = self.end.place.get() {
            Place::end(place, self.id);
        }
    }
}
