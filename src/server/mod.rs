use std::future::{Future, IntoFuture, Pending, pending, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_core::stream::FusedStream;
use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use tracing::field::Empty;

use crate::connection::DEFAULT_LINGER;
use crate::error::chain;
use crate::stats::Totals;
use crate::sync::{lock, until};
use crate::sys::{Limits, ListenOptions};
use crate::{
    Access, Error, InvalidName, MessageCodec, PipeConnection, PipeListener, PipeName, PipeStream,
    ServerStats,
};

/// Whatever a handler fails with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long handlers that were cancelled have to let go of what they hold.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// Listens on a name and hands out each client as a [`PipeConnection`].
///
/// Three ways to use it: [`serve`](Self::serve) runs a handler for each client in a task of its
/// own; [`accept`](Self::accept) is for a loop of your own; and it is a [`Stream`] of connections,
/// which ends when the server is shut down.
///
/// ```no_run
/// # async fn doc() -> Result<(), asyncipc::Error> {
/// use asyncipc::{PipeConnection, PipeServer};
/// use futures::{SinkExt, StreamExt};
///
/// let stats = PipeServer::bind("echo")?
///     .serve(|mut conn: PipeConnection| async move {
///         while let Some(message) = conn.next().await {
///             conn.send(message?.freeze()).await?;
///         }
///         Ok(())
///     })
///     .with_graceful_shutdown(tokio::signal::ctrl_c())
///     .await?;
/// println!("served {} clients", stats.clients);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PipeServer {
    /// `None` once shut down.
    listener: Option<PipeListener>,
    name: PipeName,
    pub(crate) codec: MessageCodec,
    low_latency: Duration,
    pub(crate) drain_timeout: Duration,
    shutdown: ShutdownHandle,
    shut_down: Pin<Box<WaitForCancellationFutureOwned>>,
    totals: Totals,
}

impl PipeServer {
    /// Listens on `name` with every default. Clients can connect as soon as this returns.
    ///
    /// # Errors
    ///
    /// As [`ServerBuilder::bind`].
    pub fn bind<N>(name: N) -> Result<Self, Error>
    where
        N: TryInto<PipeName>,
        InvalidName: From<N::Error>,
    {
        Self::builder(name).bind()
    }

    /// Every knob, each with its default. A bad name is reported when binding.
    pub fn builder<N>(name: N) -> ServerBuilder
    where
        N: TryInto<PipeName>,
        InvalidName: From<N::Error>,
    {
        ServerBuilder {
            name: name.try_into().map_err(InvalidName::from),
            limits: Limits::default(),
            codec: MessageCodec::default(),
            linger: DEFAULT_LINGER,
            low_latency: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
            platform: ListenOptions::default(),
        }
    }

    /// The name that clients connect to.
    pub fn name(&self) -> &PipeName {
        &self.name
    }

    /// What the server has done so far.
    pub fn stats(&self) -> ServerStats {
        self.totals.stats()
    }

    /// Shuts the server down from elsewhere.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// Waits for the next client, forever if none comes.
    ///
    /// # Errors
    ///
    /// [`Error::ShutDown`] once the server is shut down, also while this waits. [`Error::Io`] when no
    /// client can come any more, once, after which the server is shut down: see
    /// [`PipeListener::accept`].
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses no client: the next call accepts it.
    pub async fn accept(&mut self) -> Result<PipeConnection, Error> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`accept`](Self::accept), to be called from a `poll` function.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<PipeConnection, Error>> {
        let Some(listener) = &mut self.listener else {
            return Poll::Ready(Err(Error::ShutDown {
                pipe: self.name.clone(),
            }));
        };
        if self.shut_down.as_mut().poll(cx).is_ready() {
            // Frees the name at once.
            self.listener = None;
            return Poll::Ready(Err(Error::ShutDown {
                pipe: self.name.clone(),
            }));
        }
        match ready!(listener.poll_accept(cx)) {
            Ok(stream) => Poll::Ready(Ok(self.connection(stream))),
            Err(error) => {
                // It has ended.
                self.listener = None;
                Poll::Ready(Err(error))
            }
        }
    }

    fn connection(&self, stream: PipeStream) -> PipeConnection {
        let conn = PipeConnection::new(stream.counted(self.totals.join()), self.codec);
        conn.with_low_latency(self.low_latency)
    }

    /// Runs `handler` for each client, in a task of its own.
    ///
    /// Await what this returns, or give it a
    /// [`with_graceful_shutdown`](Serve::with_graceful_shutdown) first.
    ///
    /// While the server drains, a handler that waits for the next message of an idle client waits
    /// until the drain deadline. To end sooner, it can look at the shutdown as well:
    ///
    /// ```no_run
    /// # async fn doc() -> Result<(), asyncipc::Error> {
    /// # use asyncipc::{PipeConnection, PipeServer};
    /// # use futures::{SinkExt, StreamExt};
    /// let server = PipeServer::bind("echo")?;
    /// let stop = server.shutdown_handle();
    /// server
    ///     .serve(move |mut conn: PipeConnection| {
    ///         let stop = stop.clone();
    ///         async move {
    ///             loop {
    ///                 let message = tokio::select! {
    ///                     message = conn.next() => message,
    ///                     _ = stop.requested() => break,
    ///                 };
    ///                 let Some(message) = message else { break };
    ///                 conn.send(message?.freeze()).await?;
    ///             }
    ///             Ok(conn.close().await?)
    ///         }
    ///     })
    ///     .with_graceful_shutdown(tokio::signal::ctrl_c())
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// A handler that fails or panics ends its own connection only; it is logged, with all sources
    /// of its error, within the span
    /// `connection`, which has the connection's number and its peer's process.
    pub fn serve<H, F>(self, handler: H) -> Serve<H>
    where
        H: Fn(PipeConnection) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        Serve {
            server: self,
            handler,
            signal: pending(),
        }
    }
}

impl Stream for PipeServer {
    type Item = Result<PipeConnection, Error>;

    /// The next client; `None` once the server is shut down. An error is the last item: no client can
    /// come any more.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.poll_accept(cx)) {
            Err(Error::ShutDown { .. }) => None,
            accepted => Some(accepted),
        })
    }
}

impl FusedStream for PipeServer {
    fn is_terminated(&self) -> bool {
        self.listener.is_none()
    }
}

/// A server whose accept loop has no say in when the name is free again.
#[derive(Clone, Debug)]
pub(crate) struct Listening(Arc<Mutex<PipeServer>>);

impl Listening {
    pub(crate) fn new(server: PipeServer) -> Self {
        Listening(Arc::new(Mutex::new(server)))
    }

    /// As [`PipeServer::accept`].
    pub(crate) async fn accept(&self) -> Result<PipeConnection, Error> {
        poll_fn(|cx| lock(&self.0).poll_accept(cx)).await
    }

    /// From now on nobody can connect.
    pub(crate) fn stop(&self) {
        lock(&self.0).listener = None;
    }

    /// The same, and gives those who have connected and were not accepted yet.
    #[cfg(feature = "endpoint")]
    pub(crate) fn close(&self) -> Vec<PipeConnection> {
        let mut server = lock(&self.0);
        let last = server
            .listener
            .take()
            .map_or_else(Vec::new, PipeListener::close);
        let server = &*server;
        last.into_iter().map(|it| server.connection(it)).collect()
    }
}

/// Shuts a [`PipeServer`] down: it accepts nobody any more, and a handler loop begins to drain.
#[derive(Clone, Debug)]
pub struct ShutdownHandle(pub(crate) CancellationToken);

impl ShutdownHandle {
    /// Shuts the server down. When the server's `accept` has returned, or its `serve` has begun to
    /// drain, no client finds it any more; connections live on.
    ///
    /// Another server can take the name then on Unix. On Windows a name is taken as long as any
    /// connection lives.
    pub fn shutdown(&self) {
        self.0.cancel();
    }

    /// Whether the server has been shut down, by this handle, another one, or the signal that it
    /// was given.
    pub fn is_shut_down(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the server is shut down: for handlers that would wait for their clients
    /// otherwise until the drain deadline.
    ///
    /// # Cancel safety
    ///
    /// Can be cancelled and called again.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }
}

/// A server with its handler, to be awaited.
///
/// Awaiting it runs the accept loop until the server is shut down, and then *drains*: nobody is
/// accepted any more, and handlers may finish until the `drain_timeout` (default 10 s) is over.
/// Those that have not are cancelled: their futures are dropped where they wait. The output is
/// what the server has done in all.
///
/// # Errors
///
/// As [`PipeServer::accept`] when no client can come any more: the handlers may finish before, as if
/// the server was shut down.
///
/// # Panics
///
/// Outside of a Tokio runtime: the handlers' tasks are spawned where this is awaited.
///
/// # Cancel safety
///
/// Dropping the future cancels the handlers, as at the end of draining.
#[derive(Debug)]
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<H, S = Pending<()>> {
    server: PipeServer,
    handler: H,
    signal: S,
}

impl<H> Serve<H> {
    /// Shuts the server down when `signal` completes, whatever its output.
    pub fn with_graceful_shutdown<S: Future>(self, signal: S) -> Serve<H, S> {
        Serve {
            server: self.server,
            handler: self.handler,
            signal,
        }
    }
}

impl<H, F, S> IntoFuture for Serve<H, S>
where
    H: Fn(PipeConnection) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
    S: Future + Send + 'static,
{
    type Output = Result<ServerStats, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<H, F, S> Serve<H, S>
where
    H: Fn(PipeConnection) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
    S: Future + Send + 'static,
{
    async fn run(self) -> Result<ServerStats, Error> {
        let Serve {
            mut server,
            handler,
            signal,
        } = self;
        let handler = Arc::new(handler);
        // What dropped connections still have to do.
        let lingering = match &server.listener {
            Some(listener) => listener.lingering().clone(),
            None => TaskTracker::new(),
        };
        // Aborted when this future is dropped.
        let mut handlers = JoinSet::new();

        tokio::pin!(signal);
        let mut outcome = Ok(());
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut signal => break,
                // First, or what those leave behind adds up while clients come without a pause.
                Some(_) = handlers.join_next() => continue,
                accepted = server.accept() => accepted,
            };
            match accepted {
                Ok(conn) => {
                    handlers.spawn(handle(conn, handler.clone()));
                }
                Err(Error::ShutDown { .. }) => break,
                Err(error) => {
                    let pipe = &server.name;
                    tracing::error!(%pipe, %error, "draining, since no client can come any more");
                    outcome = Err(error);
                    break;
                }
            }
        }

        // From here on clients find nobody, and handlers can know.
        server.listener = None;
        server.shutdown.shutdown();
        tracing::debug!(pipe = %server.name, handlers = handlers.len(), "draining");
        let deadline = Instant::now().checked_add(server.drain_timeout);
        if until(deadline, all(&mut handlers)).await.is_none() {
            let (handlers_left, waited) = (handlers.len(), server.drain_timeout);
            tracing::warn!(pipe = %server.name, handlers_left, ?waited, "cancelling the handlers");
            handlers.abort_all();
            if timeout(CANCEL_GRACE, all(&mut handlers)).await.is_err() {
                let handlers_left = handlers.len();
                tracing::error!(pipe = %server.name, handlers_left, "handlers block their threads");
            }
        }
        lingering.close();
        let _ = until(deadline, lingering.wait()).await;
        outcome.map(|()| server.stats())
    }
}

/// Waits until every task has ended.
async fn all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// Runs the handler of one connection; what goes wrong in it stays in it.
async fn handle<H, F>(conn: PipeConnection, handler: Arc<H>)
where
    H: Fn(PipeConnection) -> F,
    F: Future<Output = Result<(), BoxError>>,
{
    let pipe = conn.name();
    let span = tracing::info_span!("connection", %pipe, id = conn.id(), peer = Empty);
    if !span.is_disabled() {
        span.record("peer", conn.peer().ok().and_then(|it| it.process_id));
    }
    let run = async {
        tracing::debug!("connected");
        // The handler itself is called in here too: it may panic before its first await.
        let handled = AssertUnwindSafe(async { handler(conn).await }).catch_unwind();
        match handled.await {
            Ok(Ok(())) => tracing::debug!("finished"),
            Ok(Err(error)) => tracing::warn!(error = %chain(&*error), "the handler failed"),
            Err(_) => tracing::error!("the handler panicked"),
        }
    };
    run.instrument(span).await;
}

/// How to listen. Can bind any number of times, one after the other.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it binds"]
pub struct ServerBuilder {
    name: Result<PipeName, InvalidName>,
    limits: Limits,
    codec: MessageCodec,
    linger: Duration,
    low_latency: Duration,
    drain_timeout: Duration,
    pub(crate) platform: ListenOptions,
}

impl ServerBuilder {
    /// How many clients may be connected at a time. Default: as many as the system lets.
    ///
    /// Further clients wait: on Windows they find the pipe busy, which is waited for by clients of
    /// this crate and by all that call WaitNamedPipe; on Unix they are connected by the system,
    /// but not accepted until another leaves.
    pub fn max_connections(mut self, clients: usize) -> Self {
        self.limits.max_connections = clients;
        self
    }

    /// Who may connect. Default: the owner alone.
    pub fn access(mut self, access: Access) -> Self {
        self.limits.access = access;
        self
    }

    /// How many clients may wait to be accepted: on Windows the pipe instances that listen at a
    /// time, default 8; on Unix the socket's backlog, default 1024, which the system may cap.
    pub fn backlog(mut self, clients: u32) -> Self {
        self.limits.backlog = Some(clients);
        self
    }

    /// The longest message that is sent or received, in bytes. Default 16 MiB, at most
    /// [`u32::MAX`].
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.codec = MessageCodec::new(bytes);
        self
    }

    /// How long `close` waits for the peer to take the rest. Default 5 s. On Windows, a connection
    /// that is dropped keeps the pipe as long, in the background, for the peer to take what was sent.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How long a connection waits busily for the next message before it sleeps, asking the
    /// system again and again: small round trips between two processes become several times as fast,
    /// because nobody needs to be woken. Default zero: not at all.
    ///
    /// This takes processor time while waiting. Other tasks of the runtime have their turn between
    /// two attempts, and after waits in vain the next ones sleep at once, up to 1024 of them. Worth
    /// it for few connections with an idle core each, between processes; 20 to 50 µs suffice. It
    /// loses when both ends are in one process, with many connections, and with rare messages.
    /// Both ends should have it. Not in message mode.
    pub fn low_latency(mut self, limit: Duration) -> Self {
        self.low_latency = limit;
        self
    }

    /// How long handlers may go on once the server is shut down. Default 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Listens, and speaks messages. Clients can connect as soon as this returns.
    ///
    /// On Unix the socket's file is made with mode 0600 before anyone can connect. The file of a
    /// server that has died is replaced: only when nobody answers on it, and under a lock for this
    /// path, which servers of this crate hold for a moment and never wait for. To a running server,
    /// the question is a client that leaves at once. The lock is a file that nobody else can open,
    /// removed at once: beside the socket, or where others could remove it there, in the user's own
    /// folder below the temporary folder.
    ///
    /// A process that was forked from the server's may drop its copy of it: the file stays.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidName`], [`Error::InvalidOption`]
    /// - [`Error::AddressInUse`]: another server listens there, or is just being bound, or something
    ///   that is not a socket is in its place
    /// - [`Error::AccessDenied`]: the system refuses, or the folder of the sockets is another
    ///   user's
    /// - [`Error::Io`]: also outside of a Tokio runtime, and when a dead server's file is in the way
    ///   and there can be no lock
    ///
    /// # Panics
    ///
    /// In a Tokio runtime without I/O or time; `enable_all` gives it both.
    pub fn bind(&self) -> Result<PipeServer, Error> {
        let listener = self.bind_bytes()?;
        let shutdown = ShutdownHandle(CancellationToken::new());
        Ok(PipeServer {
            name: listener.name().clone(),
            listener: Some(listener),
            codec: self.codec,
            low_latency: self.low_latency,
            drain_timeout: self.drain_timeout,
            shut_down: Box::pin(shutdown.0.clone().cancelled_owned()),
            shutdown,
            totals: Totals::default(),
        })
    }

    /// As [`bind`](Self::bind), for protocols that bring their own framing.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn bind_bytes(&self) -> Result<PipeListener, Error> {
        PipeListener::new(
            self.name.clone()?,
            &self.limits,
            &self.platform,
            self.linger,
        )
    }
}
