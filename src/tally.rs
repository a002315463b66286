use std::future::{Future, ready};
use std::sync::{Mutex, MutexGuard};

use futures_util::future::Either;
use tokio::sync::oneshot;

use crate::sync::lock;

/// Counts the messages that were put into a queue, and those that were sent or lost, in the same order. Wakes
/// those who flush when their messages are done. It does so after it has released its lock, because waking a
/// task, or dropping its waker, runs the executor's code.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    accepted: u64,
    /// Sent to the system, or lost.
    finished: u64,
    ended: bool,
    flushes: Vec<Flush>,
}

#[derive(Debug)]
struct Flush {
    /// How many messages must be finished before this flush is done.
    until: u64,
    lost: u64,
    done: oneshot::Sender<u64>,
}

impl Tally {
    /// A message was put into the queue. Call this under the same lock as putting it there.
    pub(crate) fn accept(&self) {
        self.lock().accepted += 1;
    }

    /// The first message in the queue was sent to the system, or is lost.
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

    /// Nothing more goes out. Returns how many messages are lost.
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

    /// Waits until all messages that were accepted before this call were sent or are lost. Returns how many
    /// are lost.
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
        // Fails if nobody waits any more.
        let _ = self.done.send(self.lost);
    }
}

impl Counts {
    fn left(&self) -> u64 {
        // Something may have gone out before it was counted as accepted.
        self.accepted.saturating_sub(self.finished)
    }
}
