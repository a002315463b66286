use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::stream::{FusedStream, Stream};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::brief::brief;
use super::builder::EndpointBuilder;
use super::envelope::Envelope;
use super::event::Event;
use super::handle::EndpointHandle;
use super::life::Life;
use crate::error::chain;
use crate::server::SharedServer;
use crate::{Error, InvalidName, PipeName, ShutdownHandle};

/// A program with a name. It listens on its name, sends messages to other programs by their names, and
/// handles what arrives by action and by sender.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), asyncipc::BoxError> {
/// use asyncipc::Endpoint;
/// use asyncipc::endpoint::Event;
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
/// assert!(matches!(gui.next().await, Some(Event::Ready)));
/// let Some(Event::Message(message)) = gui.next().await else { panic!() };
/// assert_eq!((message.action.as_str(), &message.data), ("hello", &"from the worker".into()));
/// # Ok(()) }
/// ```
///
/// Read its events all the time, or let [`run`](Self::run) do it. While 64 of them are unread, new messages
/// wait, and requests are not answered.
///
/// # Sending
///
/// The endpoint has a queue for each program that it sends to. It connects to the program when the first
/// message is sent, keeps the connection, and connects again when the connection is lost, after random
/// pauses that grow. So neither side has to be there first, and each can be restarted. A message that cannot be delivered
/// within `give_up_after`, because nobody listens or nobody reads, comes back: as
/// [`Event::Undelivered`], or as the error of the request.
///
/// # Handling
///
/// A message goes to the handler for its action and then to the one for its sender. If there is neither,
/// it is an event. A request is answered with what the first handler returns. A request without a handler
/// is refused at once, and is no event.
///
/// The messages of one connection are handled one after the other, in the order in which they
/// came. Everything that another endpoint sends comes on one connection. Requests do not wait for
/// unfinished messages, nor for each other: the handler of a request starts when the request comes, after
/// the messages before it were handled, unless one of them takes its time. So two programs can ask each
/// other from within their handlers. Handlers of different connections run side by side.
///
/// When `handlers` messages and requests of one connection, or `bytes_in_hand` bytes of them, are being
/// handled or wait for that, nothing more is read from it until one is done, and its sender is held
/// back. Until then, the endpoint does not notice the end of the connection either. The same happens when
/// the application does not read the events.
///
/// When a handler fails or panics, that ends only the handling of this message.
///
/// # Handlers that send and ask
///
/// Programs whose handlers [`send`](EndpointHandle::send) to each other do not stop each other,
/// in any circle: no handler waits long for room, so each program goes on reading. What a handler's own
/// future sends may go beyond `queue`, up to `handler_queue`; beyond that, `send` fails at once with
/// [`EndpointError::QueueFull`](super::EndpointError::QueueFull). When twice the `queue` waits, a `send` first waits 5 ms at most for some of that to go out.
/// Nothing is lost as long as there is room for the answers to what is on its way. Handlers that send, in
/// a circle, more messages than they get reach the bound sooner or later.
///
/// Programs whose handlers ask each other by [`request`](EndpointHandle::request) do not stop each
/// other either. While a handler waits for a reply, it does not count among the `handlers`, nor its
/// message among the `bytes_in_hand`. Up to `waiting_handlers` of them can wait, with up to 16 times the
/// bytes; a request of one more fails at once with
/// [`EndpointError::TooManyWait`](super::EndpointError::TooManyWait). Replies come on the connection on
/// which this program asks. The others send their own messages and requests on another one, so
/// replies never wait for handlers.
///
/// That has two limits:
///
/// - While the handler of a message waits for a reply, up to `waiting_handlers` more messages are read
///   behind it. The other program may ask a question of its own before it replies. If that question comes
///   behind more messages than that, the handler's request ends at its timeout.
/// - A handler that waits in another way, for a lock, for a message or for a task that sends, counts as
///   at work. Programs whose handlers wait for each other like that need more `handlers` than there are
///   messages under way between them.
///
/// # When a program crashes
///
/// In all of these cases but the first, the order of messages is kept. A message stays with the sender
/// until the system has taken all of it.
///
/// - The receiver hangs: if the system has a part of the message that is given up, the connection is
///   given up too, and the sender gets [`EndpointError::Unread`](super::EndpointError::Unread). What is sent later goes over a
///   new connection, and the receiver may handle it beside what it still has of the old one.
/// - The receiver crashes: what it had not read is lost, although the system had taken it, and so is what
///   it was handling. On Linux, [`EndpointError::Unread`](super::EndpointError::Unread) tells the sender
///   that something was not read; other systems do not know or do not say. The message that was on its way
///   is sent again. It arrives twice if the system had taken all of it but had not confirmed that, and the
///   receiver had handled it.
/// - The sender crashes: what waits in its queues is lost. The receiver gets no part of a message.
/// - One of them shuts down and is restarted: nothing is lost, nothing arrives twice, and the order is
///   kept, as long as both are endpoints and the drain timeout is long enough. An endpoint that shuts down
///   asks the others to send no more, and handles what is on its way. When all of that is handled, or at the
///   drain timeout, it ends their connections. They then send to the program that takes its name next. Only
///   on macOS, a program that connects at the very moment when the other stops listening may lose what it
///   sends then, as in a crash.
///
/// To know that a message was handled, send it as a [`request`](EndpointHandle::request).
///
/// # The wire
///
/// Envelopes are JSON objects in ordinary frames: the length as 4 bytes, most significant first,
/// then the JSON. Any program can take part; unknown fields are ignored. JSON cannot represent NaN and the
/// infinities: they arrive as null.
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
/// Any other message is an [`Event::Error`], and the connection goes on.
/// If it has an `id`, it is refused as a request. A message above the limit is left out, and both sides are told: the
/// sender by [`EndpointError::Rejected`](super::EndpointError::Rejected), or by the error of its request. If the message may
/// have been a reply, nobody knows to which request, so all requests that wait on this connection
/// fail. A frame that ends early ends the connection.
///
/// # Access
///
/// By default only the same user may connect. `from` is what the other side says: a program that
/// may connect can call itself by any name.
///
/// # Ending
///
/// [`EndpointHandle::shutdown`] ends it in order. So does an error after which nobody can connect any
/// more, which is an [`Event::Error`]. Dropping the endpoint ends everything at once, and logs what was
/// left. No task is left behind. Before the process ends, wait for [`Event::Closed`]; elsewhere than on
/// Windows, [`EndpointHandle::flush_all`] is enough. When the runtime in which it was bound has ended,
/// there are no more events, and sending is [`Error::ShutDown`].
///
/// # Cancel safety
///
/// `next` loses nothing when cancelled.
#[derive(Debug)]
#[must_use = "events have to be read for everything to go on"]
pub struct Endpoint {
    events: mpsc::Receiver<Event>,
    reading: Reading,
    handle: EndpointHandle,
    listening: SharedServer,
}

/// How far the events have been read.
#[derive(Debug)]
enum Reading {
    /// More can come while the accept loop runs. Dropping this ends it; the tasks of the connections end
    /// by [`Life::Dropped`].
    Running(AbortOnDropHandle<()>),
    /// The accept loop has ended, with its last events or with its runtime.
    AcceptEnded,
    /// The last event was read.
    Closed,
}

impl Endpoint {
    pub(super) fn new(
        events: mpsc::Receiver<Event>,
        handle: EndpointHandle,
        listening: SharedServer,
        accepting: AbortOnDropHandle<()>,
    ) -> Self {
        Endpoint {
            events,
            reading: Reading::Running(accepting),
            handle,
            listening,
        }
    }

    /// Listens on `name` with every default and no handler.
    ///
    /// # Errors
    ///
    /// As [`EndpointBuilder::bind`].
    pub fn bind<N>(name: N) -> Result<Self, Error>
    where
        N: TryInto<PipeName> + ToString,
        InvalidName: From<N::Error>,
    {
        Self::builder(name).bind()
    }

    /// Every option, each with its default. A bad name is reported when binding.
    ///
    /// The name is a logical one or a full path, as for a [`PipeName`]. Its text is what the others find
    /// in [`from`](Envelope::from), and how they send to it. The text of a `PipeName` is its full path.
    pub fn builder<N>(name: N) -> EndpointBuilder
    where
        N: TryInto<PipeName> + ToString,
        InvalidName: From<N::Error>,
    {
        EndpointBuilder::new(name)
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

    /// Shuts the endpoint down from anywhere, as [`EndpointHandle::shutdown`].
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.handle.shutdown_handle()
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
                Event::Ready => tracing::debug!(%endpoint, "ready"),
                Event::Message(Envelope { action, from, .. }) => {
                    let (action, from) = (brief(&action), brief(&from));
                    tracing::warn!(%endpoint, %action, %from, "there is no handler for it");
                }
                Event::Undelivered {
                    to,
                    envelope,
                    error,
                } => {
                    let (action, error) = (brief(&envelope.action), chain(&error).to_string());
                    let error = brief(&error);
                    tracing::warn!(%endpoint, %to, %action, %error, "undelivered");
                }
                Event::Error(error) => {
                    let error = chain(&error).to_string();
                    tracing::warn!(%endpoint, error = %brief(&error));
                }
                Event::Closed => tracing::debug!(%endpoint, "closed"),
            }
        }
    }

    /// The next event. Pending while more can come.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Poll::Ready(event) = self.events.poll_recv(cx) {
            return Poll::Ready(event);
        }
        self.handle.shared().events.all_read();
        if let Reading::Running(accepting) = &mut self.reading {
            if Pin::new(accepting).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.reading = Reading::AcceptEnded;
        }
        Poll::Ready(self.events.try_recv().ok())
    }
}

impl Stream for Endpoint {
    type Item = Event;

    /// What happens next; `None` after [`Event::Closed`].
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.is_terminated() {
            return Poll::Ready(None);
        }
        let event = self.poll_event(cx);
        if let Poll::Ready(None | Some(Event::Closed)) = event {
            self.reading = Reading::Closed;
        }
        event
    }
}

impl FusedStream for Endpoint {
    fn is_terminated(&self) -> bool {
        matches!(self.reading, Reading::Closed)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // First, so that the handles put nothing into a queue that nobody empties any more.
        let shared = self.handle.shared();
        shared.shutdown.shutdown();
        shared.life.advance(Life::Dropped);
        self.events.close();
        let mut messages = 0;
        while let Ok(event) = self.events.try_recv() {
            let is_message = matches!(event, Event::Message(_) | Event::Undelivered { .. });
            messages += usize::from(is_message);
        }
        if messages > 0 {
            let endpoint = self.name();
            tracing::warn!(%endpoint, messages, "an endpoint was dropped, and messages in its events were not read");
        }
        self.listening.stop_listening();
        // Handlers may hold handles, which hold the handlers.
        let handlers = std::mem::take(&mut *self.handle.shared().handlers());
        drop(handlers);
    }
}
