use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, select};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::Instrument;
use tracing::field::Empty;

use super::pipe_server::PipeServer;
use super::shutdown::ShutdownHandle;
use crate::error::chain;
use crate::sync::until;
use crate::{Error, PipeConnection, PipeName, ServerStats};

/// Whatever a handler fails with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long cancelled handlers have to release what they hold.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

impl PipeServer {
    /// Runs `handler` for each client, in a task of its own.
    ///
    /// Await or spawn the returned future. Call
    /// [`with_graceful_shutdown`](Serve::with_graceful_shutdown) on it first to end it by a signal.
    ///
    /// While the server drains, a handler that waits for the next message of an idle client waits
    /// until the drain deadline. To end sooner, it can wait for the shutdown as well:
    ///
    /// ```no_run
    /// # async fn doc() -> Result<(), asyncipc::Error> {
    /// # use asyncipc::{PipeConnection, PipeServer};
    /// # use futures::{SinkExt, StreamExt};
    /// let server = PipeServer::bind("echo")?;
    /// let shutdown = server.shutdown_handle();
    /// server
    ///     .serve(move |mut conn: PipeConnection| {
    ///         let shutdown = shutdown.clone();
    ///         async move {
    ///             loop {
    ///                 let message = tokio::select! {
    ///                     message = conn.next() => message,
    ///                     _ = shutdown.requested() => break,
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
    /// A handler that fails or panics ends its own connection only. The error is logged, with all its
    /// sources, in the span `connection`, which has the connection's number and its peer's process.
    pub fn serve<H, F>(self, handler: H) -> Serve
    where
        H: Fn(PipeConnection) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        Serve {
            name: self.name().clone(),
            shutdown: self.shutdown_handle(),
            signal: None,
            serving: Box::pin(serve(self, handler)),
        }
    }
}

/// A server with its handler: a future that serves, to be awaited or spawned.
///
/// It runs the accept loop until the server is shut down, and then *drains*: nobody is accepted any
/// more, and handlers may finish until the `drain_timeout` (default 10 s) is over. Handlers that have
/// not finished by then are cancelled: their futures are dropped where they wait. The output is what the
/// server has done in all; [`PipeServer::stats_handle`] reads that at any time.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), asyncipc::Error> {
/// use asyncipc::{PipeClient, PipeConnection, PipeServer};
/// use futures::{SinkExt, StreamExt};
///
/// let name = format!("doc-serve-{}", std::process::id());
/// let server = PipeServer::bind(&name)?;
/// let shutdown = server.shutdown_handle();
/// let serving = tokio::spawn(server.serve(async |mut conn: PipeConnection| {
///     conn.send("welcome".into()).await?;
///     Ok(())
/// }));
/// let mut client = PipeClient::connect(&name).await?;
/// assert_eq!(client.next().await.unwrap()?, "welcome");
/// shutdown.shutdown();
/// serving.await.unwrap()?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// As [`PipeServer::accept`] when no client can connect any more. The error is returned after the handlers
/// have had their time to finish, as after a shutdown.
///
/// # Panics
///
/// When it is polled outside of a Tokio runtime: it spawns the handlers' tasks in the runtime that polls it.
///
/// # Cancel safety
///
/// Dropping the future cancels the handlers, as at the end of draining.
#[must_use = "a server does nothing until it is awaited or spawned"]
pub struct Serve {
    name: PipeName,
    shutdown: ShutdownHandle,
    /// Shuts the server down when it completes. `None` if there is no signal, or if it has completed.
    signal: Option<BoxFuture<'static, ()>>,
    serving: BoxFuture<'static, Result<ServerStats, Error>>,
}

impl Serve {
    /// Shuts the server down when `signal` completes, whatever its output. If this is called several times,
    /// the first signal that completes shuts the server down.
    pub fn with_graceful_shutdown<S>(mut self, signal: S) -> Self
    where
        S: Future + Send + 'static,
    {
        let signal = async move {
            signal.await;
        };
        let signal = signal.boxed();
        self.signal = Some(match self.signal.take() {
            Some(earlier) => select(earlier, signal).map(drop).boxed(),
            None => signal,
        });
        self
    }
}

impl Future for Serve {
    type Output = Result<ServerStats, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Before serving, so that clients that connect without a pause cannot delay the shutdown.
        if let Some(signal) = &mut self.signal
            && signal.as_mut().poll(cx).is_ready()
        {
            self.signal = None;
            self.shutdown.shutdown();
        }
        self.serving.as_mut().poll(cx)
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("name", &self.name)
            .field("shutdown", &self.shutdown)
            .finish_non_exhaustive()
    }
}

async fn serve<H, F>(mut server: PipeServer, handler: H) -> Result<ServerStats, Error>
where
    H: Fn(PipeConnection) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let lingering = server.lingering();
    // Aborted when this future is dropped.
    let mut handlers = JoinSet::new();
    let handler = Arc::new(handler);
    let outcome = accept(&mut server, &handler, &mut handlers).await;

    // From now on no client finds the server, and handlers can see the shutdown.
    server.stop_listening();
    server.shutdown();
    tracing::debug!(pipe = %server.name(), handlers = handlers.len(), "draining");
    let deadline = Instant::now().checked_add(server.drain_timeout);
    if until(deadline, all(&mut handlers)).await.is_none() {
        let (handlers_left, waited) = (handlers.len(), server.drain_timeout);
        tracing::warn!(pipe = %server.name(), handlers_left, ?waited, "cancelling the handlers");
        handlers.abort_all();
        if timeout(CANCEL_GRACE, all(&mut handlers)).await.is_err() {
            let handlers_left = handlers.len();
            tracing::error!(pipe = %server.name(), handlers_left, "handlers block their threads");
        }
    }
    lingering.close();
    let _ = until(deadline, lingering.wait()).await;
    outcome.map(|()| server.stats())
}

/// Spawns a handler for each client, until the server is shut down or no client can connect any more.
async fn accept<H, F>(
    server: &mut PipeServer,
    handler: &Arc<H>,
    handlers: &mut JoinSet<()>,
) -> Result<(), Error>
where
    H: Fn(PipeConnection) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            biased;
            // First: ended handlers would accumulate while clients connect without a pause.
            Some(_) = handlers.join_next() => continue,
            accepted = server.accept() => accepted,
        };
        match accepted {
            Ok(conn) => {
                handlers.spawn(handle(conn, handler.clone()));
            }
            Err(Error::ShutDown { .. }) => return Ok(()),
            Err(error) => {
                let pipe = server.name();
                tracing::error!(%pipe, %error, "draining, since no client can connect any more");
                return Err(error);
            }
        }
    }
}

/// Waits until every task has ended.
async fn all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// Runs the handler of one connection. Its errors and panics are logged, and end this connection only.
async fn handle<H, F>(conn: PipeConnection, handler: Arc<H>)
where
    H: Fn(PipeConnection) -> F,
    F: Future<Output = Result<(), BoxError>>,
{
    let pipe = conn.name();
    let span = tracing::info_span!("connection", %pipe, id = conn.id().get(), peer = Empty);
    if !span.is_disabled() {
        span.record("peer", conn.peer().ok().and_then(|it| it.process_id));
    }
    let run = async {
        tracing::debug!("connected");
        // The handler is called inside of the guarded future, since it may panic before its first await.
        let handled = AssertUnwindSafe(async { handler(conn).await }).catch_unwind();
        match handled.await {
            Ok(Ok(())) => tracing::debug!("finished"),
            Ok(Err(error)) => tracing::warn!(error = %chain(&*error), "the handler failed"),
            Err(_) => tracing::error!("the handler panicked"),
        }
    };
    run.instrument(span).await;
}
