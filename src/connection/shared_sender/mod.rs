//! A sender for many tasks, which batches what they send at about the same time.

use std::collections::VecDeque;
mod closers;
mod flusher;
mod sink;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio_util::sync::ReusableBoxFuture;

use self::closers::Closers;
use self::flusher::{Flusher, flush_when_dirty};
use super::closing::Linger;
use super::core::Core;
use crate::framing::HEADER;
use crate::sync::{lock, runtime_ended};
use crate::{ConnectionId, ConnectionStats, Error, Peer, PipeName, PipeSender};

/// A sender that any number of tasks can clone, made by
/// [`PipeSender::into_shared`](crate::PipeSender::into_shared).
///
/// [`send`](Self::send) returns when the message is in the connection's batch, which is bounded: while
/// the peer does not read, senders wait. A task writes the batch as soon as the senders pause. A
/// receiver of the same connection writes it before it waits. So a message costs a system call only when
/// it comes alone. The messages of one task stay in order.
///
/// The first `send` starts that task, in the connection's runtime. The clones can be used anywhere: in
/// other runtimes, which may end, or in none.
///
/// [`flush`](Self::flush) waits until the system has what was sent before, [`close`](Self::close) until
/// the peer has it. After the last clone is dropped, what `send` has taken still goes out, as long as
/// the connection's runtime lives. The peer has the linger time to make room for it; then the rest is
/// lost, and a warning says how many bytes that was.
///
/// A failed write affects all clones: from then on each gets [`Error::Closed`]. When the connection's
/// runtime has ended, each gets [`Error::Io`].
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
///
/// Each clone is also a [`Sink`](futures_sink::Sink) of its own, with a place for one message:
/// `poll_ready` waits until the batch has room. From then on, the clone can start to send a message,
/// whatever other clones send meanwhile. So beyond the batch, there may be one message per clone.
pub struct SharedSender {
    senders: Arc<Senders>,
    /// This clone's state as a sink.
    sink: SinkState,
}

#[derive(Default)]
struct SinkState {
    /// Whether `poll_ready` has found room for the next message.
    has_place: bool,
    waiting: Option<(Wait, ReusableBoxFuture<'static, Result<(), Error>>)>,
}

/// What a sink waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Room,
    Flush,
    Close,
}

/// The senders' end of the queue. Dropping the last clone notifies the queue.
struct Senders(Arc<Queue>);

struct Queue {
    state: Mutex<QueueState>,
    core: Arc<Core>,
    /// Notifies the flusher that there is something to write, or that no sender is left.
    dirty: Notify,
    /// Notifies those who wait for room, or for a write, that something was written.
    progress: Notify,
    /// Whether there is a flusher, or was one.
    started: AtomicBool,
    /// Whether no sender is left.
    over: AtomicBool,
    /// Whether the queue takes no more messages.
    closing: AtomicBool,
    closers: Arc<Closers>,
}

struct QueueState {
    sender: PipeSender,
    /// What sinks sent while the batch was full. It goes out next.
    overflow: VecDeque<Bytes>,
    /// The bytes of all frames in `overflow`.
    overflowing: usize,
    /// How many bytes were taken in total.
    taken: u64,
    /// Wakes the flusher while it waits for the system to take more.
    blocked: Option<Waker>,
    /// Whether the flusher has ended with its runtime, so that nobody writes any more.
    orphaned: bool,
}

impl PipeSender {
    /// Makes a sender that many tasks can share. It gathers what they send at about the same time into
    /// one write.
    pub fn into_shared(self) -> SharedSender {
        SharedSender::new(self)
    }
}

impl SharedSender {
    fn new(mut sender: PipeSender) -> Self {
        sender.keep_spent();
        let core = sender.core.clone();
        let queue = Arc::new(Queue {
            state: Mutex::new(QueueState {
                taken: sender.unsent() as u64,
                sender,
                overflow: VecDeque::new(),
                overflowing: 0,
                blocked: None,
                orphaned: false,
            }),
            core,
            dirty: Notify::new(),
            progress: Notify::new(),
            started: AtomicBool::new(false),
            over: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            closers: Arc::default(),
        });
        // Nobody else has set it: a connection has only one sender.
        let weak: Weak<Queue> = Arc::downgrade(&queue);
        let _ = queue.core.queue.set(weak);
        SharedSender {
            senders: Arc::new(Senders(queue)),
            sink: SinkState::default(),
        }
    }

    /// The connection's number, as [`PipeConnection::id`](crate::PipeConnection::id).
    pub fn id(&self) -> ConnectionId {
        self.queue().core.id
    }

    /// The pipe's name, as [`PipeConnection::name`](crate::PipeConnection::name).
    pub fn name(&self) -> &PipeName {
        &self.queue().core.name
    }

    /// Asks the system who is at the other end, as [`PipeConnection::peer`](crate::PipeConnection::peer).
    ///
    /// # Errors
    ///
    /// The same.
    pub fn peer(&self) -> Result<Peer, Error> {
        self.queue().core.peer()
    }

    /// Whether nothing more can be sent: the peer has closed the connection, a clone has closed this
    /// end, writing has failed, or the connection's runtime has ended. Asks the system, and does not
    /// consume received messages: see [`PipeConnection::is_closed`](crate::PipeConnection::is_closed).
    pub fn is_closed(&self) -> bool {
        let queue = self.queue();
        let is_over = |state: &mut QueueState| state.orphaned || state.sender.has_failed();
        queue.closing.load(Relaxed) || queue.with(is_over) || !queue.core.io.has_peer()
    }

    /// How much both halves have transferred so far.
    pub fn stats(&self) -> ConnectionStats {
        self.queue().core.counters.stats()
    }

    /// Takes a message for sending. Waits for room while the peer does not read.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`] for a message above the limit, after which sending can continue;
    /// [`Error::Closed`] when the peer has left, somebody has closed the connection, or an earlier write
    /// has failed; [`Error::Io`] when the connection's runtime has ended.
    ///
    /// # Cancel safety
    ///
    /// A cancelled `send` has not taken its message.
    pub async fn send(&self, mut message: Bytes) -> Result<(), Error> {
        let queue = self.queue();
        // However many senders there are, other tasks of the runtime get to run.
        consume_budget().await;
        if queue.try_push(&mut message, false)? {
            return Ok(());
        }
        loop {
            let mut progress = pin!(queue.progress.notified());
            // From here on, no wake-up is missed.
            progress.as_mut().enable();
            if queue.try_push(&mut message, false)? {
                return Ok(());
            }
            progress.await;
        }
    }

    /// Takes a message for sending if there is room for it now.
    ///
    /// # Errors
    ///
    /// [`Error::QueueFull`] when there is no room: the message was not taken. Otherwise as for
    /// [`send`](Self::send).
    pub fn try_send(&self, mut message: Bytes) -> Result<(), Error> {
        match self.queue().try_push(&mut message, false)? {
            true => Ok(()),
            false => Err(self.queue().full()),
        }
    }

    /// Waits until the system has everything that was sent before.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when writing fails, or has failed; [`Error::Io`] when the connection's
    /// runtime has ended before everything was written.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing.
    pub async fn flush(&self) -> Result<(), Error> {
        self.queue().flushed().await
    }

    /// Sends what was taken, and ends this direction for all clones, as
    /// [`PipeConnection::close_write`](crate::PipeConnection::close_write) does: the peer can still
    /// answer. From now on, other clones get [`Error::Closed`] when they send. Does not wait for the
    /// peer to read.
    ///
    /// # Errors
    ///
    /// [`Error::ModeMismatch`] for a Windows byte pipe, which has no half-close; sending can continue
    /// then. [`Error::Closed`] when writing fails, or has failed, or a clone has closed the connection;
    /// [`Error::Io`] when the connection's runtime has ended before everything was written.
    ///
    /// # Cancel safety
    ///
    /// After cancelling, no more messages are taken, and those already taken still go out. Call it again
    /// to end the direction.
    pub async fn close_write(&self) -> Result<(), Error> {
        let queue = self.queue();
        queue.with(|it| it.sender.check_half_closing())?;
        let taken = queue.stop_taking();
        queue.written(taken).await?;
        queue.with(|it| it.sender.end_direction())?;
        // If an empty message marks the end, the flusher waits until the system has it.
        queue.dirty.notify_one();
        queue.written(taken).await
    }

    /// Sends what was taken, ends this direction for all clones, and waits until the peer has read
    /// everything. From now on, other clones get [`Error::Closed`] when they send.
    ///
    /// Once the receiver is dropped or has ended, what the peer still sends is discarded, as by
    /// [`PipeConnection::close`](crate::PipeConnection::close).
    ///
    /// After the linger deadline, nothing more is sent. The connection keeps its place in the server's
    /// `max_connections` until the clones and the receiver are dropped.
    ///
    /// # Errors
    ///
    /// As [`PipeConnection::close`](crate::PipeConnection::close).
    ///
    /// # Cancel safety
    ///
    /// After cancelling, no more messages are taken, and those already taken still go out. Call it again
    /// to learn when the peer has them.
    pub async fn close(&self) -> Result<(), Error> {
        self.queue().close().await
    }

    fn queue(&self) -> &Arc<Queue> {
        &self.senders.0
    }
}

impl Queue {
    /// Calls `f` with the state, under the lock. `f` must not run code of the application or of its
    /// executor, which may call this again.
    fn with<T>(&self, f: impl FnOnce(&mut QueueState) -> T) -> T {
        let mut state = lock(&self.state);
        let result = f(&mut state);
        let spent = state.sender.take_spent();
        drop(state);
        drop(spent);
        result
    }

    /// Takes no more messages. Returns how many bytes were taken in total.
    fn stop_taking(&self) -> u64 {
        let taken = self.with(|it| {
            self.closing.store(true, Relaxed);
            it.taken
        });
        // Those who wait for room learn that there will be none.
        self.progress.notify_waiters();
        taken
    }

    async fn close(self: &Arc<Self>) -> Result<(), Error> {
        let queue = self;
        let taken = queue.stop_taking();
        let closing = async {
            // The flusher writes it, so cancelling this loses nothing.
            queue.written(taken).await?;
            poll_fn(|cx| queue.with(|it| it.sender.poll_end(cx))).await?;
            if queue.with(|it| it.sender.has_closed()) {
                return Ok(());
            }
            let drained = queue.core.closing.drained(&queue.core.io).await;
            queue.with(|it| match it.sender.has_closed() {
                // Another clone has closed. What the peer did after that does not matter.
                true => Ok(()),
                false => it.sender.finish(drained),
            })
        };
        let closing = queue.closers.run(queue.core.discarding(closing));
        if let Some(closed) = Linger::limit(&queue.core, closing).await {
            return closed;
        }
        let (result, flusher) = queue.with(|it| match it.sender.has_closed() {
            // Another clone has closed at the last moment.
            true => (Ok(()), None),
            // The flusher has nothing to wait for any more.
            false => (Err(it.give_up()), it.blocked.take()),
        });
        if let Some(flusher) = flusher {
            flusher.wake();
        }
        queue.progress.notify_waiters();
        result
    }

    async fn flushed(self: &Arc<Self>) -> Result<(), Error> {
        let taken = self.with(|it| it.taken);
        self.written(taken).await
    }

    fn full(&self) -> Error {
        Error::QueueFull {
            pipe: self.core.name.clone(),
            id: self.core.id,
        }
    }

    /// The error that a message sent now would get, if there is one already.
    fn check_open(&self, state: &QueueState) -> Result<(), Error> {
        if state.sender.has_failed() {
            return Err(state.sender.closed());
        }
        if self.closing.load(Relaxed) {
            return Err(self.core.closed(true));
        }
        match state.orphaned {
            true => Err(self.orphaned()),
            false => Ok(()),
        }
    }

    fn has_room(&self) -> Result<bool, Error> {
        self.with(|state| {
            self.check_open(state)?;
            state.has_room()
        })
    }

    /// Waits until there is room for a message.
    async fn room(self: &Arc<Self>) -> Result<(), Error> {
        // What was fed before may fill the batch before any `send` has started the flusher.
        self.start();
        loop {
            let mut progress = pin!(self.progress.notified());
            // From here on, no wake-up is missed.
            progress.as_mut().enable();
            if self.has_room()? {
                return Ok(());
            }
            progress.await;
        }
    }

    /// Takes the message if there is room, or if a sink has a place for it.
    fn try_push(self: &Arc<Self>, message: &mut Bytes, has_place: bool) -> Result<bool, Error> {
        self.start();
        let was_idle = self.with(|state| {
            self.check_open(state)?;
            let len = message.len();
            let before = state.unsent();
            if state.has_room()? {
                state.sender.take(message)?;
            } else if has_place {
                state.sender.check_size(len)?;
                state.overflow.push_back(std::mem::take(message));
                state.overflowing += HEADER + len;
            } else {
                return Ok::<_, Error>(None);
            }
            state.taken += (HEADER + len) as u64;
            Ok(Some(before == 0))
        })?;
        // Otherwise the flusher knows already: it stops only when there is nothing left.
        if was_idle == Some(true) {
            self.dirty.notify_one();
        }
        Ok(was_idle.is_some())
    }

    /// Waits until the system has the first `taken` bytes.
    async fn written(self: &Arc<Self>, taken: u64) -> Result<(), Error> {
        loop {
            let mut progress = pin!(self.progress.notified());
            // From here on, no wake-up is missed.
            progress.as_mut().enable();
            let is_written = self.with(|state| {
                if state.sender.has_failed() {
                    return Err(state.sender.closed());
                }
                let is_written = state.written() >= taken;
                match state.orphaned && !is_written {
                    true => Err(self.orphaned()),
                    false => Ok(is_written),
                }
            })?;
            if is_written {
                return Ok(());
            }
            self.start();
            progress.await;
        }
    }

    /// Starts the flusher if there was none. Not to be called under the lock: a runtime that has ended
    /// drops the flusher at once.
    fn start(self: &Arc<Self>) {
        if !self.started.load(Relaxed) && !self.started.swap(true, Relaxed) {
            self.dirty.notify_one();
            let flusher = Flusher(self.clone());
            self.core.io.runtime().spawn(flush_when_dirty(flusher));
        }
    }

    /// Gives up what was taken. No sender is left to get the error.
    fn abandon(&self) -> Error {
        let (bytes, error) = self.with(|state| {
            state.blocked = None;
            let bytes = state.sender.buffered() + state.overflowing;
            (bytes, state.give_up())
        });
        // A write that the system already has continues.
        if bytes > 0 {
            let (id, pipe, waited) = (self.core.id.get(), &self.core.name, self.core.linger);
            tracing::warn!(
                id, %pipe, bytes, ?waited,
                "the peer does not read: what a shared sender had taken is lost"
            );
        }
        error
    }

    fn orphaned(&self) -> Error {
        self.core.failed("cannot write to", runtime_ended())
    }
}

impl QueueState {
    /// How many bytes of those taken the system has.
    fn written(&self) -> u64 {
        self.taken.saturating_sub(self.unsent() as u64)
    }

    /// How many bytes the system does not have yet: see [`PipeSender::unsent`].
    fn unsent(&self) -> usize {
        self.sender.unsent() + self.overflowing
    }

    /// Whether a message can be taken without waiting.
    fn has_room(&mut self) -> Result<bool, Error> {
        Ok(self.overflow.is_empty() && self.sender.has_room()?)
    }

    /// Hands everything that was taken to the system.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            ready!(self.sender.poll_flush_unpin(cx))?;
            let Some(mut message) = self.overflow.pop_front() else {
                return Poll::Ready(Ok(()));
            };
            self.overflowing -= HEADER + message.len();
            let taken = self.sender.take(&mut message);
            // Its bytes may be the application's, so they are not dropped here, under the lock.
            self.sender.retire(message);
            taken?;
        }
    }

    /// Gives up at the linger deadline.
    fn give_up(&mut self) -> Error {
        self.sender.give_up(!self.overflow.is_empty())
    }

    /// Whether more was taken since the last call, and there is room for even more.
    fn is_growing(&mut self, seen: &mut usize) -> bool {
        let before = std::mem::replace(seen, self.unsent());
        // The next sender gets the error.
        *seen > before && self.has_room().unwrap_or(false)
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.0.over.store(true, Relaxed);
        // Wakes the flusher wherever it waits.
        self.0.dirty.notify_one();
        if let Some(flusher) = self.0.with(|it| it.blocked.take()) {
            flusher.wake();
        }
    }
}

impl Drop for QueueState {
    fn drop(&mut self) {
        if !self.overflow.is_empty() && !self.sender.has_failed() {
            let (id, messages) = (self.sender.id().get(), self.overflow.len());
            tracing::warn!(
                id,
                messages,
                "a shared sender was dropped with messages in it"
            );
        }
    }
}

impl Clone for SharedSender {
    /// The new one has no place yet.
    fn clone(&self) -> Self {
        SharedSender {
            senders: self.senders.clone(),
            sink: SinkState::default(),
        }
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
