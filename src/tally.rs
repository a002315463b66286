use std::future::{Future, ready};
use std::sync::{Mutex, MutexGuard};

use futures_util::future::Either;
use tokio::sync::oneshot;

use crate::sync::lock;

/// Counts what was put into a queue and what became of it, which is in the same order, and tells
/// those who flush.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    accepted: u64,
    /// With the system, or lost.
    finished: u64,
    ended: bool,
    flushes: Vec<Flush>,
}

#[derive(Debug)]
struct Flush {
    /// How many must have been finished.
    until: u64,
    lost: u64,
    done: oneshot::Sender<u64>,
}

impl Tally {
    /// One was put into the queue. To be called under the lock under which that is done.
    pub(crate) fn accept(&self) {
        self.lock().accepted += 1;
    }

    /// The first of those in the queue is with the system, or is lost.
    pub(crate) fn finish(&self, is_sent: bool) {
        let mut counts = self.lock();
        counts.finished += 1;
        let finished = counts.finished;
        for flush in &mut counts.flushes {
            flush.lost += u64::from(!is_sent);
        }
        for flush in counts.flushes.extract_if(.., |it| it.until <= finished) {
            // Whoever does not wait any more needs no word.
            let _ = flush.done.send(flush.lost);
        }
    }

    /// Nothing more goes out. How many are lost by that.
    pub(crate) fn end(&self) -> u64 {
        let mut counts = self.lock();
        counts.ended = true;
        for flush in std::mem::take(&mut counts.flushes) {
            let _ = flush.done.send(flush.lost + flush.until - counts.finished);
        }
        counts.left()
    }

    /// Waits until all that was accepted before this call is with the system or lost. How many are
    /// lost.
    pub(crate) fn flushed(&self) -> impl Future<Output = u64> + use<> {
        let mut counts = self.lock();
        let left = counts.left();
        if left == 0 || counts.ended {
            return Either::Left(ready(left));
        }
        let (done, flushed) = oneshot::channel();
        counts.flushes.retain(|it| !it.done.is_closed());
        let until = counts.accepted;
        counts.flushes.push(Flush {
            until,
            lost: 0,
            done,
        });
        // It always ends by a word, as every queue does.
        Either::Right(async move { flushed.await.unwrap_or(left) })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        lock(&self.0)
    }
}

impl Counts {
    fn left(&self) -> u64 {
        // Something may have gone out before it was counted as accepted.
        self.accepted.saturating_sub(self.finished)
    }
}
