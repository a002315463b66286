use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_core::stream::FusedStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::TaskTracker;

use super::shutdown::ShutdownHandle;
use super::stats::StatsHandle;
use crate::connection::ConnectionOptions;
use crate::stats::Totals;
use crate::{Error, PipeConnection, PipeListener, PipeName, PipeStream, ServerStats};

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
    pub(crate) connection: ConnectionOptions,
    pub(crate) drain_timeout: Duration,
    shutdown: ShutdownHandle,
    shut_down: Pin<Box<WaitForCancellationFutureOwned>>,
    totals: Totals,
}

impl PipeServer {
    pub(super) fn new(
        listener: PipeListener,
        connection: ConnectionOptions,
        drain_timeout: Duration,
    ) -> Self {
        let shutdown = ShutdownHandle::new();
        PipeServer {
            name: listener.name().clone(),
            listener: Some(listener),
            connection,
            drain_timeout,
            shut_down: Box::pin(shutdown.requested_owned()),
            shutdown,
            totals: Totals::default(),
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

    /// A handle that reads the same from anywhere, also while the server serves and after it has become a
    /// hub.
    pub fn stats_handle(&self) -> StatsHandle {
        StatsHandle::new(self.totals.clone())
    }

    /// Shuts the server down: from its next poll on, [`accept`](Self::accept) returns
    /// [`Error::ShutDown`], the stream has ended, and [`serve`](Self::serve) drains. From then on no
    /// client finds the server; connections live on. Does not wait.
    ///
    /// On Unix another server can then take the name. On Windows a name is taken as long as any connection
    /// lives.
    pub fn shutdown(&self) {
        self.shutdown.shutdown();
    }

    /// A handle that shuts the server down from anywhere.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// Waits for the next client; forever if none connects.
    ///
    /// # Errors
    ///
    /// [`Error::ShutDown`] once the server is shut down, also while this waits. [`Error::Io`] when no
    /// client can connect any more. That error comes once and ends the server: see [`PipeListener::accept`].
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses no client: the next call accepts it.
    pub async fn accept(&mut self) -> Result<PipeConnection, Error> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`accept`](Self::accept), to be called from a `poll` function.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<PipeConnection, Error>> {
        let accepted = ready!(self.poll_client(cx));
        if self.listener.is_none() {
            // After an error, the handles say so as well.
            self.shutdown.shutdown();
        }
        Poll::Ready(accepted)
    }

    /// As [`poll_accept`](Self::poll_accept), but does not begin the shutdown after an error. That wakes
    /// the tasks that wait for it, which runs code of their executor: not to be done under a lock.
    pub(super) fn poll_client(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<PipeConnection, Error>> {
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
                // The listener has ended.
                self.listener = None;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Stops listening: from now on nobody can connect.
    pub(super) fn stop_listening(&mut self) {
        self.listener = None;
    }

    /// As [`stop_listening`](Self::stop_listening), and returns the clients that have connected and were
    /// not accepted yet.
    #[cfg(feature = "endpoint")]
    pub(super) fn close(&mut self) -> Vec<PipeConnection> {
        let listener = self.listener.take();
        let last = listener.map_or_else(Vec::new, PipeListener::close);
        last.into_iter().map(|it| self.connection(it)).collect()
    }

    /// Tracks what dropped connections still have to do.
    pub(super) fn lingering(&self) -> TaskTracker {
        let listener = self.listener.as_ref();
        listener.map_or_else(TaskTracker::new, |it| it.lingering().clone())
    }

    fn connection(&self, stream: PipeStream) -> PipeConnection {
        self.connection
            .connection(stream.counted(self.totals.join()))
    }
}

impl Stream for PipeServer {
    type Item = Result<PipeConnection, Error>;

    /// The next client; `None` once the server is shut down. An error is the last item: no client can
    /// connect any more.
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
