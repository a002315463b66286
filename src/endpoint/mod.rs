//! Messages between programs that know each other by name.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::stream::{FusedStream, Stream};
use futures_util::StreamExt;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::error::chain;
use crate::server::Listening;
use crate::sync::{lock, until};
use crate::{Access, BoxError, Error, MessageCodec, PipeName, PipeServer, ShutdownHandle};

mod brief;
mod conversation;
mod envelope;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod handle;
mod handlers;
mod handling;
mod link;
mod outgoing;

pub use envelope::Envelope;
pub use error::EndpointError;
pub use handle::EndpointHandle;

use brief::brief;
use conversation::Conversation;
use handlers::Handlers;

/// How many events wait for the application. Each connection has one more of its own in hand.
const EVENTS: usize = 64;

/// How many times as many messages may wait when handlers send them, and handlers when they wait
/// for other programs.
const ROOM_FOR_HANDLERS: usize = 16;

/// How long an event waits for room before that is logged.
const UNREAD: Duration = Duration::from_secs(1);

/// A program with a name: it listens on it, sends messages to others by theirs, and handles what
/// comes by action and by sender. Needs the feature `endpoint`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), asyncipc::BoxError> {
/// use asyncipc::{Endpoint, EndpointEvent};
/// use futures::StreamExt;
///
/// let [gui, worker] = ["gui", "worker"].map(|it| format!("doc-{it}-{}", std::process::id()));
/// let worker = Endpoint::builder(worker)
///     .on("add", async |message| {
///         let (a, b): (i32, i32) = message.parse()?;
///         Ok(a + b)
///     })
///     .bind()?;
/// let to_gui = worker.handle();
/// tokio::spawn(worker.run());
/// let mut gui = Endpoint::bind(gui)?;
///
/// let sum = gui.handle().request(to_gui.name(), "add", (2, 3)).await?;
/// assert_eq!(sum, 5);
///
/// // What nobody handles is in the stream.
/// to_gui.send(gui.name(), "hello", "from the worker").await?;
/// assert!(matches!(gui.next().await, Some(EndpointEvent::Ready)));
/// let Some(EndpointEvent::Message(message)) = gui.next().await else { panic!() };
/// assert_eq!((message.action.as_str(), &message.data), ("hello", &"from the worker".into()));
/// # Ok(()) }
/// ```
///
/// Somebody has to read its events all the time, [`run`](Self::run) if nobody else does: while 64 of
/// them are unread, what comes waits, and requests are not answered.
///
/// # Sending
///
/// There is a queue for each name that is sent to. It connects when it is first needed, keeps the
/// connection, and connects again when that is lost, after pauses that are random and grow. So
/// neither side has to be there first, and each can be started again. What cannot be delivered
/// within `give_up_after`, because nobody listens or nobody reads, comes back: as
/// [`EndpointEvent::Undelivered`], or as the error of the request.
///
/// # Handling
///
/// A message goes to the handler for its action and to the one for its sender, in this order, if
/// there are both; to the stream, if there is neither. A request is answered with what the first
/// of them returns. One that there is no handler for is refused at once, and is not in the stream.
///
/// The messages of one connection are handled one after the other, in the order in which they
/// came; all that another endpoint sends comes on one connection. Requests do not wait for them,
/// nor for each other: a request begins to be handled when it comes, when all messages before it
/// were handled or wait for one of them that takes its time. So two programs can ask each other
/// from within their handlers. Handlers of different connections run side by side.
///
/// When `handlers` messages and requests of one connection are being handled or wait for that, or
/// `bytes_in_hand` bytes of them, no more is read from it until one is done, and its sender is held
/// back. Until then, it is not noticed either that the connection has ended. The same happens when the
/// application does not read the events.
///
/// A handler that fails or panics ends this one message.
///
/// # Handlers that send and ask
///
/// Programs whose handlers [`send`](EndpointHandle::send) to each other do not stop each other,
/// in any circle: no handler waits long for room, so each program goes on reading. What a handler's own
/// future sends may go beyond `queue`, up to `handler_queue`; more is [`EndpointError::QueueFull`] at
/// once. When twice the `queue` waits, a `send` first waits 5 ms at most for some of that to go out.
/// Nothing is lost as long as the answers to what is on its way have room. Handlers that send more than
/// they get, in a circle, reach the bound sooner or later.
///
/// Programs whose handlers ask each other by [`request`](EndpointHandle::request) do not stop each
/// other either. While a handler waits for a reply, it does not count among the `handlers`, nor its
/// message among the `bytes_in_hand`. Up to `waiting_handlers` of them can wait, with up to 16 times the
/// bytes; a request of one more is [`EndpointError::TooManyWait`] at once. Replies come on the connection
/// on which this program asks. The others send their own messages and requests on another one, so
/// replies never wait for handlers.
///
/// That has two limits:
///
/// - While the handler of a message waits for a reply, up to `waiting_handlers` more messages are read
///   behind it. If the other program's question, which has to be answered first, comes behind more than
///   that, the handler's request ends at its timeout.
/// - A handler that waits in another way, for a lock, for a message or for a task that sends, counts as
///   at work. Programs whose handlers wait for each other like that need more `handlers` than there are
///   messages under way between them.
///
/// # When a program crashes
///
/// The order stays in all of these cases but the first. A message is in the sender's hands until the
/// system has taken all of it.
///
/// - The receiver hangs: when a message is given up of which the system has a part, the connection is
///   given up too, and its sender is told by [`EndpointError::Unread`]. What is sent later goes over a
///   new connection, and the receiver may handle it beside what it still has of the old one.
/// - The receiver crashes: what the system had taken and it had not read is lost, and so is what
///   it was handling. Of what was not read, the sender is told on Linux, by
///   [`EndpointError::Unread`]; others do not know or do not say. The message that was on its way
///   is sent again: if the system had taken all of it without having said so, and the receiver had
///   handled it, it comes twice.
/// - The sender crashes: what waits in its queues is lost. The receiver gets no part of a message.
/// - One of them shuts down and is started again: nothing is lost, nothing comes twice, and the order
///   stays, as long as both are endpoints and the drain timeout suffices. One that shuts down asks the
///   others to send no more, and handles what is on its way. They send to the one that comes after it
///   when their connection to it has ended, which it does when all of that was handled; after the drain
///   timeout in any case. Only on macOS, who connects in the very moment in which
///   it stops to listen may lose what it sends then, as in a crash.
///
/// Whoever has to know that a message was handled makes it a
/// [`request`](EndpointHandle::request).
///
/// # The wire
///
/// Envelopes are JSON objects in ordinary frames: the length as 4 bytes, most significant first,
/// then the JSON. Any program can take part; fields that are not known are ignored. JSON has no
/// place for NaN and the infinities: they arrive as null.
///
/// | | |
/// |---|---|
/// | a message | `{"action": "open", "from": "app.gui", "data": …}`; without `data` it is null |
/// | a request | the same with an `"id"`, a whole number from 0 |
/// | its reply, on the same connection | `{"action": "open", "from": "app.worker", "reply": id, "data": …}` |
/// | its refusal | the same with `"error": "text"` in place of `data` |
/// | a message was above the limit and left out, on the same connection | `{"from": "app.worker", "error": "text", "size": bytes}`, with the frame's length |
/// | shutting down | `{"from": "app.worker", "closing": true}`: send no more on this connection, and end it once all replies are there |
///
/// A message that is nothing of this is an [`EndpointEvent::Error`], and the connection goes on.
/// If it has an `id`, it is refused. One above the limit is left out, and both sides are told: the
/// sender by [`EndpointError::Rejected`], or by the error of the request that it was. If it may
/// have been a reply, nobody knows to which request: all that wait for one on this connection
/// fail. A frame that ends early ends the connection.
///
/// # Access
///
/// By default only the own user may connect. `from` is what the other side says: among those who
/// may connect, each can call itself by any name.
///
/// # Ending
///
/// [`EndpointHandle::shutdown`] ends it orderly; so does an error after which nobody can connect any
/// more, which is an [`EndpointEvent::Error`]. Dropping the endpoint ends everything at once; what was
/// left is logged. No task is left behind. Before the process ends, wait for
/// [`EndpointEvent::Closed`], or, not on Windows, for [`EndpointHandle::flush_all`]. When the runtime
/// in which it was bound has ended, there are no more events, and sending is [`Error::ShutDown`].
///
/// # Cancel safety
///
/// `next` loses nothing when cancelled.
#[derive(Debug)]
#[must_use = "events have to be read for everything to go on"]
pub struct Endpoint {
    events: mpsc::Receiver<EndpointEvent>,
    closed: bool,
    handle: EndpointHandle,
    listening: Listening,
    /// The accept loop. The tasks of the connections end by `dropped`.
    task: AbortOnDropHandle<()>,
    task_ended: bool,
}

/// What happens at an [`Endpoint`]. Needs the feature `endpoint`.
#[derive(Debug)]
#[non_exhaustive]
pub enum EndpointEvent {
    /// It listens on its name. Comes first.
    Ready,
    /// A message that there is no handler for.
    Message(Envelope),
    /// A message that was accepted by [`send`](EndpointHandle::send) and given up.
    ///
    /// The system has not taken all of it, or has not said so in time: only in that case, and
    /// rarely, the other side may have it nonetheless.
    #[non_exhaustive]
    Undelivered {
        /// The program that it was for.
        to: String,
        /// The message.
        envelope: Envelope,
        /// Why: [`EndpointError::Undelivered`].
        error: EndpointError,
    },
    /// Something went wrong, and the endpoint goes on.
    Error(EndpointError),
    /// It was shut down, and everything has ended. Comes last.
    Closed,
}

/// How to be an [`Endpoint`]. Needs the feature `endpoint`.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it binds"]
pub struct EndpointBuilder {
    name: String,
    options: Options,
    handlers: Handlers,
}

#[derive(Clone, Debug)]
struct Options {
    access: Access,
    verify_server: bool,
    codec: MessageCodec,
    queue: usize,
    /// `None`: as many times the one before as there are in [`ROOM_FOR_HANDLERS`].
    handler_queue: Option<usize>,
    give_up_after: Duration,
    request_timeout: Duration,
    backoff: (Duration, Duration),
    handlers: usize,
    /// `None`: the same.
    waiting_handlers: Option<usize>,
    bytes_in_hand: usize,
    drain_timeout: Duration,
}

impl Options {
    fn handler_queue(&self) -> usize {
        let default = self.queue.saturating_mul(ROOM_FOR_HANDLERS);
        let messages = self.handler_queue.unwrap_or(default).max(self.queue);
        messages.min(Semaphore::MAX_PERMITS)
    }

    /// How many messages wait for a program when handlers that send more keep in step. Above the
    /// `queue`: as long as so much waits, only handlers add to it.
    fn much(&self) -> usize {
        self.queue.saturating_mul(2)
    }

    fn waiting_handlers(&self) -> usize {
        let default = self.handlers.saturating_mul(ROOM_FOR_HANDLERS);
        self.waiting_handlers.unwrap_or(default)
    }
}

impl EndpointBuilder {
    /// Calls `handler` for every message with this action, from the first one on.
    ///
    /// What it returns is the reply to a request, and is not looked at for other messages. If it
    /// fails, the request is refused with the error's text and those of its sources; for other messages there is an
    /// [`EndpointEvent::Error`].
    ///
    /// It runs in the task of its connection: what takes the processor for long belongs into
    /// [`spawn_blocking`](tokio::task::spawn_blocking). It is cancelled when the endpoint is
    /// dropped, or at the drain timeout. With a request, it is cancelled as well when the drain timeout
    /// has passed since the connection has ended, for nobody gets its reply: that is
    /// [`EndpointError::Abandoned`]. With a message, it goes on to its end.
    ///
    /// It is called again and again, so what it uses is cloned for each call. One that sends needs
    /// the handle: see [`bind_with`](Self::bind_with).
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    ///
    /// let total = Arc::new(AtomicU64::new(0));
    /// let builder = asyncipc::Endpoint::builder("app.worker").on("add", move |message| {
    ///     let total = total.clone();
    ///     async move {
    ///         let n: u64 = message.parse()?;
    ///         Ok(total.fetch_add(n, Relaxed) + n)
    ///     }
    /// });
    /// ```
    pub fn on<H, F, R>(mut self, action: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Envelope) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, BoxError>> + Send + 'static,
        R: Serialize,
    {
        let handler = handlers::handler(handler);
        self.handlers.on(action.into(), handler);
        self
    }

    /// Calls `handler` for every message from the program of this name, from the first one on.
    /// Otherwise as [`on`](Self::on).
    ///
    /// Where there is a handler for the action too, that one is called first, and answers. Requests
    /// that have none are answered by this one.
    pub fn on_from<H, F, R>(mut self, name: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Envelope) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, BoxError>> + Send + 'static,
        R: Serialize,
    {
        let handler = handlers::handler(handler);
        self.handlers.on_from(name.into(), handler);
        self
    }

    /// Who may connect. Default: the owner alone.
    pub fn access(mut self, access: Access) -> Self {
        self.options.access = access;
        self
    }

    /// Whether to send only to programs that run as the same user: a name can be taken by anyone
    /// while its program is not running. Default: no.
    pub fn verify_server(mut self, verify: bool) -> Self {
        self.options.verify_server = verify;
        self
    }

    /// The longest envelope that is sent or received, as JSON, in bytes. Default 1 MiB. What comes and
    /// is longer is left out, and both sides are told.
    ///
    /// As a [`Value`](serde_json::Value) it takes more memory than as JSON, and whoever sends it
    /// decides how much more: as much for one text, 2 times for texts of 40 characters, 16 times for
    /// numbers of one digit (24 times while it is read), 40 times for lists of one such number, 98
    /// times for objects with one (measured on 64-bit Linux).
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.options.codec = MessageCodec::new(bytes);
        self
    }

    /// How many messages may wait for each program that is sent to, at least one. Default 64.
    pub fn queue(mut self, messages: usize) -> Self {
        self.options.queue = messages.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// How many messages may wait for each program before a handler's
    /// [`send`](EndpointHandle::send) or [`request`](EndpointHandle::request) to it fails with
    /// [`EndpointError::QueueFull`]. All messages that wait count, also those from outside of handlers. Default 16 times the `queue`; at least the
    /// `queue`. Up to this bound, a handler waits 5 ms at most for room.
    ///
    /// Choose it so that the answers to all that can be on its way to this program have room: then
    /// none of them fails while the other side pauses.
    pub fn handler_queue(mut self, messages: usize) -> Self {
        self.options.handler_queue = Some(messages);
        self
    }

    /// How long a message that was accepted may wait until the system has taken it: for its turn,
    /// for the other side to be there, and to read. Default 30 s. [`Duration::MAX`]: for ever.
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.options.give_up_after = time;
        self
    }

    /// How long [`EndpointHandle::request`] waits for the reply, from its call on. Default 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// The pauses between two attempts to reach a program. The first is up to `first` long, and
    /// each may be twice as long as the one before it, up to `longest`; each is of random length.
    /// Default 10 ms and 1 s.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.options.backoff = (first, longest.max(first));
        self
    }

    /// How many messages and requests of one connection are being handled, or wait for that, at a
    /// time; at least one. Default 64.
    pub fn handlers(mut self, messages: usize) -> Self {
        self.options.handlers = messages.max(1);
        self
    }

    /// How many bytes of messages from one connection may be handled, or wait for that, at a time;
    /// with more, nothing is read from it. This bounds long messages, as `handlers` bounds their
    /// number. Counted as JSON: [`max_message_size`](Self::max_message_size) says how much memory that
    /// takes. Default 4 MiB. Below the bound, the next message is read whole, however long it is: so
    /// there may be one `max_message_size` more.
    ///
    /// Messages whose handlers wait for replies do not count, up to 16 times as many bytes. At that
    /// bound, a request of one more handler fails with [`EndpointError::TooManyWait`].
    pub fn bytes_in_hand(mut self, bytes: usize) -> Self {
        self.options.bytes_in_hand = bytes.max(1);
        self
    }

    /// How many handlers of one connection may wait for replies or flushes, in addition to the
    /// `handlers` that are at work. A request or flush of one more fails at once with
    /// [`EndpointError::TooManyWait`]. Default 16 times the `handlers`.
    pub fn waiting_handlers(mut self, handlers: usize) -> Self {
        self.options.waiting_handlers = Some(handlers);
        self
    }

    /// How long the end of something may take. Default 10 s. This limits how long
    ///
    /// - everything may go on after [`EndpointHandle::shutdown`]
    /// - another program that was asked to end its connection, or asks to end it, is waited for
    /// - a request may be handled after its caller has ended the connection, or its direction of it
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.options.drain_timeout = timeout;
        self
    }

    /// Listens on the name. Others can send to it as soon as this returns, and the events have to
    /// be read: see [`Endpoint`], and [`run`](Endpoint::run).
    ///
    /// # Errors
    ///
    /// As [`ServerBuilder::bind`](crate::ServerBuilder::bind).
    ///
    /// # Panics
    ///
    /// In a Tokio runtime without I/O or time; `enable_all` gives it both.
    pub fn bind(self) -> Result<Endpoint, Error> {
        self.bind_with(|_| {})
    }

    /// As [`bind`](Self::bind), and before the first message is read, `prepare` gets the handle:
    /// for handlers that send. They miss nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), asyncipc::BoxError> {
    /// # let name = format!("doc-bind-with-{}", std::process::id());
    /// let endpoint = asyncipc::Endpoint::builder(name).bind_with(|handle| {
    ///     let own = handle.clone();
    ///     handle.on("echo", move |message| {
    ///         let own = own.clone();
    ///         async move { Ok(own.send(&message.from, "echoed", message.data).await?) }
    ///     });
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As `bind`; `prepare` is not called then.
    ///
    /// # Panics
    ///
    /// As `bind`.
    pub fn bind_with(self, prepare: impl FnOnce(&EndpointHandle)) -> Result<Endpoint, Error> {
        let EndpointBuilder {
            name,
            options,
            handlers,
        } = self;
        let server = PipeServer::builder(&name)
            .access(options.access)
            .linger(options.drain_timeout)
            .max_message_size(options.codec.max_message_size())
            .bind()?;
        let (events_in, events) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared {
            name,
            pipe: server.name().clone(),
            options,
            handlers: Mutex::new(handlers),
            queues: Mutex::default(),
            events: events_in,
            unread: AtomicBool::new(false),
            shutdown: ShutdownHandle(CancellationToken::new()),
            deaf: CancellationToken::new(),
            deaf_since: OnceLock::new(),
            dropped: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            next_id: AtomicU64::new(1),
        });
        let handle = EndpointHandle(shared.clone());
        prepare(&handle);
        let listening = Listening::new(server);
        Ok(Endpoint {
            events,
            closed: false,
            handle,
            listening: listening.clone(),
            task: AbortOnDropHandle::new(tokio::spawn(accept(listening, shared))),
            task_ended: false,
        })
    }
}

impl Endpoint {
    /// Listens on `name` with every default and no handler.
    ///
    /// # Errors
    ///
    /// As [`EndpointBuilder::bind`].
    pub fn bind(name: impl Into<String>) -> Result<Self, Error> {
        Self::builder(name).bind()
    }

    /// Every knob, each with its default. The name is a logical one or a full path, as for a
    /// [`PipeName`]; a bad one is reported when binding.
    pub fn builder(name: impl Into<String>) -> EndpointBuilder {
        EndpointBuilder {
            name: name.into(),
            options: Options {
                access: Access::default(),
                verify_server: false,
                codec: MessageCodec::new(1 << 20),
                queue: 64,
                handler_queue: None,
                give_up_after: Duration::from_secs(30),
                request_timeout: Duration::from_secs(10),
                backoff: (Duration::from_millis(10), Duration::from_secs(1)),
                handlers: 64,
                waiting_handlers: None,
                bytes_in_hand: 4 << 20,
                drain_timeout: Duration::from_secs(10),
            },
            handlers: Handlers::default(),
        }
    }

    /// Its name, as it was given.
    pub fn name(&self) -> &str {
        self.handle.name()
    }

    /// The pipe on which it listens.
    pub fn pipe(&self) -> &PipeName {
        self.handle.pipe()
    }

    /// Sends, from anywhere.
    pub fn handle(&self) -> EndpointHandle {
        self.handle.clone()
    }

    /// Reads the events until the endpoint is shut down, and logs them: for programs that have a
    /// handler for everything.
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the endpoint.
    pub async fn run(mut self) {
        while let Some(event) = self.next().await {
            let endpoint = self.name();
            match event {
                EndpointEvent::Ready => tracing::debug!(%endpoint, "ready"),
                EndpointEvent::Message(Envelope { action, from, .. }) => {
                    let (action, from) = (brief(&action), brief(&from));
                    tracing::warn!(%endpoint, %action, %from, "there is no handler for it");
                }
                EndpointEvent::Undelivered {
                    to,
                    envelope,
                    error,
                } => {
                    let (action, error) = (brief(&envelope.action), chain(&error).to_string());
                    let error = brief(&error);
                    tracing::warn!(%endpoint, %to, %action, %error, "undelivered");
                }
                EndpointEvent::Error(error) => {
                    let error = chain(&error).to_string();
                    tracing::warn!(%endpoint, error = %brief(&error));
                }
                EndpointEvent::Closed => tracing::debug!(%endpoint, "closed"),
            }
        }
    }
}

impl Stream for Endpoint {
    type Item = EndpointEvent;

    /// What happens next; `None` after [`EndpointEvent::Closed`].
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EndpointEvent>> {
        if self.closed {
            return Poll::Ready(None);
        }
        let event = match self.events.poll_recv(cx) {
            Poll::Ready(event) => event,
            Poll::Pending => {
                self.handle.0.unread.store(false, Relaxed);
                // Whether it has told that everything is over, or its runtime has ended.
                if !self.task_ended {
                    let _ = ready!(Pin::new(&mut self.task).poll(cx));
                    self.task_ended = true;
                }
                self.events.try_recv().ok()
            }
        };
        self.closed = matches!(event, None | Some(EndpointEvent::Closed));
        Poll::Ready(event)
    }
}

impl FusedStream for Endpoint {
    fn is_terminated(&self) -> bool {
        self.closed
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // For the handles: there is nobody to send for any more. First, so that nothing is put into a
        // queue that is gone.
        self.handle.shutdown();
        self.handle.0.dropped.cancel();
        self.events.close();
        let mut messages = 0;
        while let Ok(event) = self.events.try_recv() {
            use EndpointEvent::{Message, Undelivered};
            messages += usize::from(matches!(event, Message(_) | Undelivered { .. }));
        }
        if messages > 0 {
            let endpoint = self.name();
            tracing::warn!(%endpoint, messages, "an endpoint was dropped, and messages in its events were not read");
        }
        self.listening.stop();
        // They may have a handle each, which would keep everything for ever.
        let handlers = std::mem::take(&mut *self.handle.0.handlers());
        drop(handlers);
    }
}

/// What the endpoint, its handles and its tasks have in common.
#[derive(Debug)]
struct Shared {
    name: String,
    pipe: PipeName,
    options: Options,
    handlers: Mutex<Handlers>,
    /// The programs that there is something to send to, or a connection.
    queues: Mutex<HashMap<PipeName, outgoing::Queue>>,
    events: mpsc::Sender<EndpointEvent>,
    /// Whether it was logged that nobody reads them.
    unread: AtomicBool,
    /// Done under the lock of `queues`: afterwards, nothing is put into one.
    shutdown: ShutdownHandle,
    /// Nobody can connect any more.
    deaf: CancellationToken,
    /// Since when.
    deaf_since: OnceLock<Instant>,
    /// Nobody is there any more to read the events: everything ends.
    dropped: CancellationToken,
    tasks: TaskTracker,
    runtime: Handle,
    next_id: AtomicU64,
}

impl Shared {
    /// Runs until it ends, or the endpoint is dropped.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let dropped = self.dropped.clone();
        let task = async move {
            tokio::select! {
                biased;
                () = dropped.cancelled() => {}
                () = task => {}
            }
        };
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Gives an event to the application, waiting until it has room.
    async fn tell(&self, event: EndpointEvent) {
        let mut untold = Untold(self, Some(event));
        let mut telling = pin!(self.events.reserve());
        let room = match timeout(UNREAD, &mut telling).await {
            Ok(room) => room,
            Err(_) => {
                if !self.unread.swap(true, Relaxed) {
                    tracing::warn!(endpoint = %self.name, "nobody reads the events: what comes waits, requests too");
                }
                telling.await
            }
        };
        if let (Ok(room), Some(event)) = (room, untold.1.take()) {
            room.send(event);
        }
    }

    /// Waits until the endpoint is shut down and the drain timeout has passed.
    async fn drained(&self) {
        self.deaf.cancelled().await;
        let since = *self.deaf_since.get_or_init(Instant::now);
        let deadline = since.checked_add(self.options.drain_timeout);
        until(deadline, pending::<()>()).await;
    }

    fn shut_down_now(&self) {
        let _queues = lock(&self.queues);
        self.shutdown.shutdown();
    }

    fn shut_down(&self) -> Error {
        Error::ShutDown {
            pipe: self.pipe.clone(),
        }
    }

    fn handlers(&self) -> MutexGuard<'_, Handlers> {
        lock(&self.handlers)
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }
}

/// An event that the application did not get, unless it was taken out.
struct Untold<'a>(&'a Shared, Option<EndpointEvent>);

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(event) = &self.1 {
            let event = brief::event(event);
            tracing::warn!(endpoint = %self.0.name, %event, "dropped before it was read");
        }
    }
}

/// Accepts connections until the endpoint is shut down, and ends when all tasks have.
async fn accept(server: Listening, shared: Arc<Shared>) {
    shared.tell(EndpointEvent::Ready).await;
    let enter = |conn| shared.spawn(Conversation::new(shared.clone(), conn, None).run());
    let accept_all = async {
        loop {
            match server.accept().await {
                Ok(conn) => enter(conn),
                Err(error) => return error,
            }
        }
    };
    let failed = tokio::select! {
        biased;
        () = shared.shutdown.requested() => None,
        error = accept_all => Some(error),
    };
    // Also after an error: an endpoint that nobody can reach takes nothing for sending.
    shared.shut_down_now();
    // Those who are connected as the system sees it may have sent something.
    server.close().into_iter().for_each(enter);
    // The name is free now. Before, those who are asked to send no more would come back at once.
    shared.deaf_since.get_or_init(Instant::now);
    shared.deaf.cancel();
    tracing::debug!(endpoint = %shared.name, tasks = shared.tasks.len(), "draining");
    shared.tasks.close();
    shared.tasks.wait().await;
    if let Some(error) = failed {
        shared.tell(EndpointEvent::Error(error.into())).await;
    }
    shared.tell(EndpointEvent::Closed).await;
}
