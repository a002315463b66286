use std::future::{Future, ready};
use std::sync::{Mutex, MutexGuard};

use futures_util::future::Either;
use tokio::sync::oneshot;

use crate::sync::lock;

/// Counts what was put into a queue and what became of it, which is in the same order, and tells
/// those who flush. It does that after it has released its lock: to wake a task, or to drop its waker,
/// runs code of the executor's.
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
        let done = counts.flushes.extract_if(.., |it| it.until <= finished);
        let done: Vec<_> = done.collect();
        drop(counts);
        done.into_iter().for_each(Flush::report);
    }

    /// Nothing more goes out. How many are lost by that.
    pub(crate) fn end(&self) -> u64 {
        let mut counts = self.lock();
        counts.ended = true;
        let mut done = std::mem::take(&mut counts.flushes);
        for flush in &mut done {
            flush.lost += flush.until - counts.finished;
        }
        let left = counts.left();
        drop(counts);
        done.into_iter().for_each(Flush::report);
        left
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
        let given_up = counts.flushes.extract_if(.., |it| it.done.is_closed());
        let given_up: Vec<_> = given_up.collect();
        let until = counts.accepted;
        counts.flushes.push(Flush {
            until,
            lost: 0,
            done,
        });
        drop(counts);
        drop(given_up);
        // Every queue reports its end, so this does not wait for ever.
        Either::Right(async move { flushed.await.unwrap_or(left) })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        lock(&self.0)
    }
}

impl Flush {
    /// Not to be called under a lock.
    fn report(self) {
        // Nobody may wait any more.
        let _ = self.done.send(self.lost);
    }
}

impl Counts {
    fn left(&self) -> u64 {
        // Something may have gone out before it was counted as accepted.
        self.accepted.saturating_sub(self.finished)
    }
}
