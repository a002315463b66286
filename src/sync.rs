//! Taking locks, and waiting until a deadline.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// Locks, even after a panic elsewhere: nothing under these locks is ever left half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `future`, or for the deadline if there is one: then `None`. Only where all polls are in the
/// same runtime.
pub(crate) async fn until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// A time to wait for, whoever polls. Each poll first compares the clock. A timer only has to cause the
/// next poll, so each poll may use another one.
#[derive(Debug)]
pub(crate) struct Deadline {
    /// `None`: later than the clock can express.
    at: Option<Instant>,
    /// Its timer is used when the polling task has no runtime.
    runtime: Handle,
    timer: Option<Timer>,
}

#[derive(Debug)]
enum Timer {
    /// A timer of the runtime that polled last. A timer of an ended runtime must not be polled, so each
    /// poll makes its own.
    Here(#[allow(dead_code, reason = "wakes for as long as it exists")] Pin<Box<Sleep>>),
    /// From a task in `runtime`, which drops the other end.
    There(oneshot::Receiver<()>),
}

impl Deadline {
    /// The deadline that is `time` from now.
    pub(crate) fn after(time: Duration, runtime: &Handle) -> Self {
        Deadline {
            at: Instant::now().checked_add(time),
            runtime: runtime.clone(),
            timer: None,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        if Instant::now() >= at {
            self.timer = None;
            return Poll::Ready(());
        }
        if Handle::try_current().is_ok() {
            let mut sleep = Box::pin(sleep_until(at));
            let elapsed = sleep.as_mut().poll(cx);
            self.timer = Some(Timer::Here(sleep));
            return elapsed;
        }
        if !matches!(self.timer, Some(Timer::There(_))) {
            self.timer = Some(Timer::There(wake_at(at, &self.runtime)));
        }
        if let Some(Timer::There(timer)) = &mut self.timer
            && Pin::new(timer).poll(cx).is_ready()
        {
            // The time has come, or that runtime has ended: then no timer is left, and only the clock
            // can be compared.
            self.timer = None;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// The error for a task that nothing would wake any more.
pub(crate) fn runtime_ended() -> io::Error {
    io::Error::other("the runtime in which the connection was made has ended")
}

/// Returns a receiver. Its sender is dropped at the time, or when the runtime ends.
fn wake_at(at: Instant, runtime: &Handle) -> oneshot::Receiver<()> {
    let (mut over, timer) = oneshot::channel();
    runtime.spawn(async move {
        tokio::select! {
            () = sleep_until(at) => {}
            () = over.closed() => {}
        }
    });
    timer
}
