use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::accept::accept;
use super::envelope::Envelope;
use super::event::EventSender;
use super::handle::EndpointHandle;
use super::handlers::{Handlers, boxed_handler};
use super::life::Lifecycle;
use super::options::Options;
use super::program::Endpoint;
use super::shared::Shared;
use crate::server::SharedServer;
use crate::{
    Access, BoxError, Error, InvalidName, MessageCodec, PipeName, PipeServer, ServerBuilder,
    ShutdownHandle,
};

/// How to make an [`Endpoint`]. Can bind any number of times, one after the other.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it binds"]
pub struct EndpointBuilder {
    /// As it was given.
    name: String,
    /// How it listens. `options` has its linger time and its limit.
    server: ServerBuilder,
    options: Options,
    handlers: Handlers,
}

impl EndpointBuilder {
    pub(super) fn new<N>(name: N) -> Self
    where
        N: TryInto<PipeName> + ToString,
        InvalidName: From<N::Error>,
    {
        EndpointBuilder {
            name: name.to_string(),
            server: PipeServer::builder(name),
            options: Options::default(),
            handlers: Handlers::default(),
        }
    }

    /// Calls `handler` for every message with this action, from the first one on.
    ///
    /// What it returns is the reply to a request, and is ignored for other messages. If it
    /// fails, a request is refused with the texts of the error and of its sources; another message is an
    /// [`Event::Error`](super::Event::Error).
    ///
    /// The handler runs in the task of its connection: move long computations to
    /// [`spawn_blocking`](tokio::task::spawn_blocking). It is cancelled when the endpoint is
    /// dropped, or at the drain timeout after a shutdown. When a connection has ended, the handlers of its
    /// requests have the drain timeout to finish, and are then cancelled, because nobody gets their replies:
    /// that is [`EndpointError::Abandoned`](super::EndpointError::Abandoned). The handler of a message goes
    /// on to its end.
    ///
    /// The handler is called many times, so it clones what it uses for each call. A handler that sends needs
    /// the endpoint's handle: see [`bind_with`](Self::bind_with).
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
        self.handlers.on(action.into(), boxed_handler(handler));
        self
    }

    /// Calls `handler` for every message from the program of this name, from the first one on.
    /// Otherwise as [`on`](Self::on).
    ///
    /// If there is a handler for the action too, that one is called first, and answers. Otherwise this
    /// one answers.
    pub fn on_from<H, F, R>(mut self, name: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Envelope) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, BoxError>> + Send + 'static,
        R: Serialize,
    {
        self.handlers.on_from(name.into(), boxed_handler(handler));
        self
    }

    /// Who may connect. Default: the owner alone.
    pub fn access(mut self, access: Access) -> Self {
        self.server = self.server.access(access);
        self
    }

    /// How many programs may be connected to this one at a time, as
    /// [`ServerBuilder::max_connections`]. Default: as many as the system allows.
    pub fn max_connections(mut self, programs: usize) -> Self {
        self.server = self.server.max_connections(programs);
        self
    }

    /// How many programs may wait to be accepted, as [`ServerBuilder::backlog`].
    pub fn backlog(mut self, programs: u32) -> Self {
        self.server = self.server.backlog(programs);
        self
    }

    /// How long a connection that ends waits for the other program to take the rest, as
    /// [`ServerBuilder::linger`]: connections that this program has made, and those that others have made
    /// to it. Default: the [`drain_timeout`](Self::drain_timeout).
    pub fn linger(mut self, linger: Duration) -> Self {
        self.options.linger = Some(linger);
        self
    }

    /// Sets further options of the server that other programs connect to: those that only one platform
    /// has, and those that this builder has no method for.
    ///
    /// `configure` gets the server's builder and returns it. The endpoint's own `max_message_size` and
    /// `linger` replace those that `configure` sets. Other endpoints cannot connect to a server in message
    /// mode.
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use asyncipc::unix::ServerBuilderExt;
    ///
    /// let builder = asyncipc::Endpoint::builder("/run/app/worker.sock")
    ///     .configure_server(|server| server.mode(0o660));
    /// # }
    /// ```
    pub fn configure_server(
        mut self,
        configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Self {
        self.server = configure(self.server);
        self
    }

    /// Whether to send only to programs that run as the same user: a name can be taken by anyone
    /// while its program is not running. Default: no.
    pub fn verify_server(mut self, verify: bool) -> Self {
        self.options.verify_server = verify;
        self
    }

    /// The longest envelope that is sent or received, as JSON, in bytes. Default 1 MiB. When a longer one
    /// arrives, it is left out, and both sides are told.
    ///
    /// As a [`Value`](serde_json::Value) it takes more memory than as JSON. How much more is up to the
    /// sender: as much for one text, 2 times for texts of 40 characters, 16 times for
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
    /// [`EndpointError::QueueFull`](super::EndpointError::QueueFull). All messages that wait count, also those from outside of handlers.
    /// Default 16 times the `queue`; at least the `queue`. Up to this bound, a handler waits 5 ms at most
    /// for room.
    ///
    /// Choose it so that there is room for the answers to everything that can be on its way to this
    /// program: then none of them fails while the other side pauses.
    pub fn handler_queue(mut self, messages: usize) -> Self {
        self.options.handler_queue = Some(messages);
        self
    }

    /// How long a message that was accepted may wait until the system has taken it: for its turn,
    /// for the other side to be there, and to read. Default 30 s. [`Duration::MAX`]: forever.
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

    /// How many messages and requests of one connection may be handled, or wait for that, at a
    /// time; at least one. Default 64.
    pub fn handlers(mut self, messages: usize) -> Self {
        self.options.handlers = messages.max(1);
        self
    }

    /// How many bytes of messages from one connection may be handled, or wait for that, at a time;
    /// with more, nothing is read from it. This bounds the size of the messages, as `handlers` bounds their
    /// number. Bytes are counted as JSON: [`max_message_size`](Self::max_message_size) says how much memory that
    /// takes. Default 4 MiB. Below the bound, the next message is read whole, however long it is: so
    /// there may be one `max_message_size` more.
    ///
    /// Messages whose handlers wait for replies do not count, up to 16 times as many bytes. At that
    /// bound, a request of one more handler fails with [`EndpointError::TooManyWait`](super::EndpointError::TooManyWait).
    pub fn bytes_in_hand(mut self, bytes: usize) -> Self {
        self.options.bytes_in_hand = bytes.max(1);
        self
    }

    /// How many handlers of one connection may wait for replies or flushes, in addition to the
    /// `handlers` that are at work. A request or flush of one more fails at once with
    /// [`EndpointError::TooManyWait`](super::EndpointError::TooManyWait). Default 16 times the `handlers`.
    pub fn waiting_handlers(mut self, handlers: usize) -> Self {
        self.options.waiting_handlers = Some(handlers);
        self
    }

    /// How long the end of something may take. Default 10 s. This limits how long
    ///
    /// - everything may go on after [`EndpointHandle::shutdown`]
    /// - another program that was asked to end its connection, or asks to end it, is waited for
    /// - a request may be handled after its caller has ended the connection, or stopped sending on it
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.options.drain_timeout = timeout;
        self
    }

    /// Listens on the name. Others can send to it as soon as this returns. Read the events of the endpoint:
    /// see [`Endpoint`], and [`run`](Endpoint::run).
    ///
    /// The builder can bind again when the endpoint has ended. It keeps its handlers, and what they hold,
    /// until it is dropped.
    ///
    /// # Errors
    ///
    /// As [`ServerBuilder::bind`](crate::ServerBuilder::bind).
    ///
    /// # Panics
    ///
    /// In a Tokio runtime without I/O or time; `enable_all` gives it both.
    pub fn bind(&self) -> Result<Endpoint, Error> {
        self.bind_with(|_| {})
    }

    /// As [`bind`](Self::bind), but calls `prepare` with the handle before the first message is read. In
    /// there, set the handlers that send: so they miss no message.
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
    pub fn bind_with(&self, prepare: impl FnOnce(&EndpointHandle)) -> Result<Endpoint, Error> {
        let EndpointBuilder { name, options, .. } = self;
        let server = self.server.clone();
        let server = server
            .linger(options.linger())
            .max_message_size(options.codec.max_message_size())
            .bind()?;
        let (events, receiver) = EventSender::new(name.clone());
        let shared = Arc::new(Shared {
            name: name.clone(),
            pipe: server.name().clone(),
            options: options.clone(),
            handlers: Mutex::new(self.handlers.clone()),
            queues: Mutex::default(),
            events,
            shutdown: ShutdownHandle::new(),
            life: Lifecycle::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            next_id: AtomicU64::new(1),
        });
        let handle = EndpointHandle::new(shared.clone());
        prepare(&handle);
        let listening = SharedServer::new(server);
        let accepting = tokio::spawn(accept(listening.clone(), shared));
        let accepting = AbortOnDropHandle::new(accepting);
        Ok(Endpoint::new(receiver, handle, listening, accepting))
    }
}
