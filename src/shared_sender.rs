//! A sender for many tasks, which gathers what they send at about the same time.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::sync::{Mutex, Notify};
use tokio::task::yield_now;

use crate::connection::Shared;
use crate::{ConnectionStats, Error, PipeName, PipeSender};

/// A sender that any number of tasks can have a clone of, made by
/// [`PipeSender::into_shared`](crate::PipeSender::into_shared).
///
/// [`send`](Self::send) returns when the message is in the connection's batch, which is bounded:
/// when the peer does not read, senders wait, in the order in which they came. A task of the
/// runtime, started by the first `send`, writes the batch as soon as the senders pause, and
/// receiving on the same connection writes it before it waits. So a message costs a system call
/// only when it comes alone. The messages of one task stay in order.
///
/// What `send` has taken goes out even if every clone is dropped, as long as the runtime lives;
/// [`flush`](Self::flush) waits until the system has it, [`close`](Self::close) until the peer
/// has. A failure to write reaches all of them: from then on each gets
/// [`Error::Closed`](crate::Error::Closed).
///
/// ```no_run
/// # async fn doc() -> Result<(), asyncipc::Error> {
/// use asyncipc::PipeClient;
///
/// let (sender, _receiver) = PipeClient::connect("log").await?.split();
/// let sender = sender.into_shared();
/// for task in 0..16 {
///     let sender = sender.clone();
///     tokio::spawn(async move {
///         for line in 0..1000 {
///             sender.send(format!("task {task}, line {line}").into()).await?;
///         }
///         sender.flush().await
///     });
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SharedSender(Arc<Handle>);

/// The senders' end of the queue: when the last clone is gone, the queue is told.
struct Handle(Arc<Queue>);

pub(crate) struct Queue {
    sender: Mutex<PipeSender>,
    shared: Arc<Shared>,
    /// The flusher is told here when there is something to write, or no sender any more.
    dirty: Notify,
    started: AtomicBool,
    /// Whether no sender is left.
    over: AtomicBool,
}

impl SharedSender {
    pub(crate) fn new(sender: PipeSender) -> Self {
        let shared = sender.shared.clone();
        let queue = Arc::new(Queue {
            sender: Mutex::new(sender),
            shared,
            dirty: Notify::new(),
            started: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        // Nobody else has set it: there is one sender to a connection.
        let _ = queue.shared.queue.0.set(Arc::downgrade(&queue));
        SharedSender(Arc::new(Handle(queue)))
    }

    /// The connection's number, as [`PipeConnection::id`](crate::PipeConnection::id).
    pub fn id(&self) -> u64 {
        self.queue().shared.id
    }

    /// The pipe's name, as [`PipeConnection::name`](crate::PipeConnection::name).
    pub fn name(&self) -> &PipeName {
        &self.queue().shared.name
    }

    /// How much has gone through both halves so far.
    pub fn stats(&self) -> ConnectionStats {
        self.queue().shared.counters.stats()
    }

    /// Takes a message for sending, waiting for room while the peer does not read.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`] for a message above the limit, after which sending goes on;
    /// [`Error::Closed`] when the peer has left, somebody has closed the connection, or writing
    /// has failed before.
    ///
    /// # Panics
    ///
    /// The first time, outside of a Tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A cancelled `send` has not taken its message.
    pub async fn send(&self, message: Bytes) -> Result<(), Error> {
        let queue = self.queue();
        let mut sender = queue.sender.lock().await;
        let was_empty = sender.unsent() == 0;
        sender.feed(message).await?;
        drop(sender);
        let starts = !queue.started.load(Relaxed) && !queue.started.swap(true, Relaxed);
        // Otherwise the flusher knows already: it stops only when there is nothing left.
        if was_empty || starts {
            queue.dirty.notify_one();
        }
        if starts {
            tokio::spawn(flush_when_dirty(queue.clone()));
        }
        Ok(())
    }

    /// Waits until the system has everything that was sent before.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] or [`Error::Io`] when writing fails, or has failed.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing.
    pub async fn flush(&self) -> Result<(), Error> {
        self.queue().sender.lock().await.flush().await
    }

    /// Sends what was taken, and ends this direction for all clones when the peer has read
    /// everything. What the others `send` from now on is [`Error::Closed`].
    ///
    /// # Errors
    ///
    /// As [`PipeConnection::close`](crate::PipeConnection::close).
    ///
    /// # Cancel safety
    ///
    /// Cancelled, it may have ended the direction or not: call it again.
    pub async fn close(&self) -> Result<(), Error> {
        SinkExt::close(&mut *self.queue().sender.lock().await).await
    }

    fn queue(&self) -> &Arc<Queue> {
        &self.0.0
    }
}

/// Writes the batch whenever the senders pause; ends when there is no sender any more.
async fn flush_when_dirty(queue: Arc<Queue>) {
    loop {
        queue.dirty.notified().await;
        // While more comes, more goes out in one write. Whoever fills the batch writes it.
        let mut seen = 0;
        while let Ok(unsent) = queue.sender.try_lock().map(|it| it.unsent())
            && unsent > seen
        {
            seen = unsent;
            yield_now().await;
        }
        let mut sender = queue.sender.lock().await;
        if sender.unsent() > 0
            && let Err(error) = sender.flush().await
        {
            tracing::debug!(id = queue.shared.id, %error, "cannot send what was taken");
        }
        if queue.over.load(Relaxed) {
            return;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.over.store(true, Relaxed);
        self.0.dirty.notify_one();
    }
}

impl fmt::Debug for SharedSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSender")
            .field("id", &self.id())
            .field("name", self.name())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}

/// Where a connection's receiver finds the queue, if there is one.
#[derive(Debug, Default)]
pub(crate) struct QueueRef(OnceLock<Weak<Queue>>);

impl QueueRef {
    /// Writes what there is, as far as that goes without waiting.
    pub(crate) fn kick(&self, cx: &mut Context<'_>) {
        if let Some(queue) = self.0.get().and_then(Weak::upgrade)
            && let Ok(mut sender) = queue.sender.try_lock()
            && sender.unsent() > 0
        {
            // What is left, the flusher will write; a failure, the next sender will be told.
            let _: Poll<_> = sender.poll_flush_unpin(cx);
        }
    }
}
