//! The clones of a shared sender that wait for it to close.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Notify;

/// Wakes all clones that are closing. The connection can hold only one waker, so each closing clone
/// registers this one. A clone that is no longer polled then holds up no other.
#[derive(Default)]
pub(super) struct Closers(Notify);

impl Closers {
    /// Waits for `future`, a part of closing that several clones may wait for at once.
    pub(super) async fn run<F: Future>(self: &Arc<Self>, future: F) -> F::Output {
        let waker = Waker::from(self.clone());
        let mut future = pin!(future);
        loop {
            let mut woken = pin!(self.0.notified());
            // From here on, no wake-up is missed.
            woken.as_mut().enable();
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            if let Poll::Ready(output) = polled {
                return output;
            }
            woken.await;
        }
    }
}

impl Wake for Closers {
    fn wake(self: Arc<Self>) {
        self.0.notify_waiters();
    }
}
