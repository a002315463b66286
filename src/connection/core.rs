//! What the two halves of a connection share.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::closing::Closing;
use super::shared_sender::QueueRef;
use crate::stats::{Counters, Place};
use crate::sync::Deadline;
use crate::{Error, Peer, PipeName, sys};

/// What both halves have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) io: Arc<sys::Stream>,
    pub(crate) name: PipeName,
    pub(crate) linger: Duration,
    pub(crate) id: u64,
    pub(crate) counters: Arc<Counters>,
    /// What a shared sender has taken.
    pub(crate) queue: QueueRef,
    pub(crate) closing: Closing,
    /// Among the clients of the server that accepted it.
    pub(super) place: Option<Arc<Place>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.end(self.id);
        }
    }
}

impl Shared {
    pub(crate) fn peer(&self) -> Result<Peer, Error> {
        self.io
            .peer()
            .map(Peer::from)
            .map_err(|e| Error::from_io("cannot tell the peer of", &self.name, e))
    }

    pub(crate) fn failed_read(&self, error: io::Error) -> Error {
        Error::from_io("cannot read from", &self.name, error)
    }

    /// Until when closing that begins now may last.
    pub(crate) fn linger_deadline(&self) -> Deadline {
        Deadline::after(self.linger, self.io.runtime())
    }

    /// Waits for `future`, which is a part of closing: see [`Closing`].
    pub(crate) async fn discarding<F: Future>(&self, future: F) -> F::Output {
        self.closing.discarding(&self.io, future).await
    }

    /// Waits until the peer has taken everything.
    pub(crate) async fn drained(&self) -> io::Result<()> {
        self.closing.drained(&self.io).await
    }

    /// Why nothing more can be sent.
    pub(crate) fn closed(&self, by_this_end: bool) -> Error {
        Error::Closed {
            pipe: self.name.clone(),
            by_this_end,
        }
    }
}
