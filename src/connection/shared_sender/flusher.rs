//! The task that writes what shared senders have taken, and the receiver, which does so before it waits.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use tokio::task::yield_now;

use super::Queue;
use crate::connection::closing::Linger;
use crate::connection::core::Queued;

/// Writes the batch whenever the senders pause or have filled it. Ends when no sender is left, or when
/// nothing more can be written. Once no sender is left, the peer has the linger time to read.
pub(super) async fn flush_when_dirty(flusher: Flusher) {
    let queue = &flusher.0;
    let mut linger = Linger::default();
    loop {
        queue.dirty.notified().await;
        // While more messages come, one write carries more of them.
        let mut seen = 0;
        while queue.with(|it| it.is_growing(&mut seen)) {
            yield_now().await;
        }
        let flushed = poll_fn(|cx| {
            let mut flushed = queue.with(|state| {
                state.blocked = None;
                if state.sender.has_closed() || state.sender.has_failed() {
                    return Poll::Ready(Ok(()));
                }
                let flushed = state.poll_flush(cx);
                if flushed.is_pending() {
                    state.blocked = Some(cx.waker().clone());
                }
                flushed
            });
            if flushed.is_pending() && queue.over.load(Relaxed) {
                queue.core.closing.poll_discard(&queue.core.io, cx);
                if linger.poll(&queue.core, cx).is_ready() {
                    flushed = Poll::Ready(Err(queue.abandon()));
                }
            }
            queue.progress.notify_waiters();
            flushed
        })
        .await;
        if let Err(error) = flushed {
            tracing::debug!(id = queue.core.id.get(), %error, "cannot send what was taken");
        }
        let over = queue.over.load(Relaxed);
        if queue.with(|it| it.sender.has_failed() || (over && it.unsent() == 0)) {
            return;
        }
    }
}

/// The flusher's handle to the queue.
pub(super) struct Flusher(pub(super) Arc<Queue>);

impl Drop for Flusher {
    /// The flusher ends only when nothing is left to write, or with its runtime.
    fn drop(&mut self) {
        self.0.with(|state| {
            state.blocked = None;
            state.orphaned = true;
        });
        self.0.progress.notify_waiters();
    }
}

impl Queued for Queue {
    fn write_now(self: Arc<Self>) {
        let is_left = self.with(|state| {
            if state.unsent() == 0 || state.blocked.is_some() {
                return false;
            }
            // The next sender gets the error.
            let mut cx = Context::from_waker(Waker::noop());
            state.poll_flush(&mut cx).is_pending()
        });
        if is_left {
            self.start();
            self.dirty.notify_one();
        }
    }
}
