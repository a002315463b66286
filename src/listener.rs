use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::connection::ConnectionOptions;
use crate::sync::Deadline;
use crate::sys::{self, Limits, Lingering};
use crate::{Error, PipeName, PipeStream};

/// Listens on a name and hands out each client as a [`PipeStream`] of bytes.
///
/// The bottom of a [`PipeServer`](crate::PipeServer), for protocols that bring their own framing.
/// Every option is on the [`ServerBuilder`](crate::ServerBuilder), whose
/// [`bind_bytes`](crate::ServerBuilder::bind_bytes) makes one of these.
///
/// Once the listener is dropped, no client finds it; streams that it has handed out live on. On
/// Windows another server can take the name when they are gone too.
///
/// # Runtimes
///
/// The listener and all its streams belong to the Tokio runtime in which the listener was bound. That
/// runtime has to run while anything waits. The tasks that accept, read and write may run elsewhere:
/// in another Tokio runtime, which may end earlier, or under another executor. See
/// [`PipeConnection`](crate::PipeConnection#runtimes).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use asyncipc::{PipeClient, PipeListener};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let name = format!("doc-listener-{}", std::process::id());
/// let mut listener = PipeListener::bind(&name)?;
/// let mut client = PipeClient::builder(&name).connect_bytes().await?;
/// client.write_all(b"hello").await?;
/// let mut hello = [0; 5];
/// listener.accept().await?.read_exact(&mut hello).await?;
/// assert_eq!(&hello, b"hello");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PipeListener {
    /// `None` after a permanent error.
    inner: Option<sys::Listener>,
    name: PipeName,
    connection: ConnectionOptions,
    /// The runtime in which the listener was bound. Each stream belongs to it, whoever accepts it.
    runtime: Handle,
    backoff: AcceptBackoff,
    lingering: TaskTracker,
}

impl PipeListener {
    /// Listens on `name` with every default.
    ///
    /// # Errors
    ///
    /// As [`ServerBuilder::bind`](crate::ServerBuilder::bind).
    pub fn bind<N>(name: N) -> Result<Self, Error>
    where
        N: TryInto<PipeName>,
        crate::InvalidName: From<N::Error>,
    {
        let name = name.try_into().map_err(crate::InvalidName::from)?;
        Self::new(
            name,
            &Limits::default(),
            &Default::default(),
            ConnectionOptions::default(),
        )
    }

    pub(crate) fn new(
        name: PipeName,
        limits: &Limits,
        options: &sys::ListenOptions,
        connection: ConnectionOptions,
    ) -> Result<Self, Error> {
        let runtime = need_runtime("cannot listen on", &name)?;
        let failed = |e| Error::from_platform(&name, e);
        limits.check().map_err(failed)?;
        let lingering = Lingering {
            tasks: TaskTracker::new(),
            limit: connection.linger,
        };
        let inner = sys::Listener::bind(name.address(), limits, options, lingering.clone())
            .map_err(failed)?;
        tracing::debug!(pipe = %name, "listening");
        Ok(PipeListener {
            inner: Some(inner),
            name,
            connection,
            runtime,
            backoff: AcceptBackoff::default(),
            lingering: lingering.tasks,
        })
    }

    /// The name that clients connect to.
    pub fn name(&self) -> &PipeName {
        &self.name
    }

    /// Waits for the next client.
    ///
    /// Waits forever if none connects. An error that can pass, such as a client that left early or a
    /// lack of file descriptors, is logged, and accepting goes on after a pause: 5 ms, doubled up to
    /// 1 s while errors last.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when no client can connect any more: the runtime in which the listener was bound
    /// has ended, or the system reports a permanent error. The error comes once and ends the listener, which
    /// frees the name as dropping it does. Later calls return [`Error::ShutDown`].
    ///
    /// # Panics
    ///
    /// If it has to pause after an error in a Tokio runtime that has no timer or is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses no client: the next call accepts it.
    pub async fn accept(&mut self) -> Result<PipeStream, Error> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`accept`](Self::accept), to be called from a `poll` function.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<PipeStream, Error>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Err(Error::ShutDown {
                pipe: self.name.clone(),
            }));
        };
        loop {
            ready!(self.backoff.poll(cx));
            let accepted = {
                let _entered = self.runtime.enter();
                ready!(inner.poll_accept(cx))
            };
            match accepted {
                Ok(io) => {
                    self.backoff = AcceptBackoff::default();
                    return Poll::Ready(Ok(self.connection.stream(io, self.name.clone())));
                }
                Err(error) if !sys::is_transient(&error) => {
                    self.inner = None;
                    let error = Error::from_io("cannot accept clients on", &self.name, error);
                    return Poll::Ready(Err(error));
                }
                Err(error) => {
                    let pause = self.backoff.begin(&self.runtime);
                    tracing::warn!(pipe = %self.name, %error, ?pause, "cannot accept a client yet");
                }
            }
        }
    }

    /// Stops listening, and returns the clients that have connected and were not accepted yet.
    #[cfg(feature = "endpoint")]
    pub(crate) fn close(self) -> Vec<PipeStream> {
        let PipeListener {
            inner,
            name,
            connection,
            runtime,
            ..
        } = self;
        let _entered = runtime.enter();
        let last = inner
            .map_or_else(Vec::new, sys::Listener::close)
            .into_iter();
        last.map(|io| connection.stream(io, name.clone())).collect()
    }

    /// Tracks the work that dropped streams still have to do before the process may end.
    pub(crate) fn lingering(&self) -> &TaskTracker {
        &self.lingering
    }
}

/// The pauses after errors that can pass. Each is twice as long as the one before, up to a limit.
#[derive(Debug)]
struct AcceptBackoff {
    /// The pause that is going on.
    pause: Option<Deadline>,
    next: Duration,
}

impl AcceptBackoff {
    const FIRST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_secs(1);

    /// Begins a pause, and returns its length.
    fn begin(&mut self, runtime: &Handle) -> Duration {
        let pause = self.next;
        self.pause = Some(Deadline::after(pause, runtime));
        self.next = (pause * 2).min(Self::LONGEST);
        pause
    }

    /// Waits for the end of the pause, if there is one.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

impl Default for AcceptBackoff {
    fn default() -> Self {
        AcceptBackoff {
            pause: None,
            next: Self::FIRST,
        }
    }
}

/// The current runtime, or an error where tokio itself would panic.
pub(crate) fn need_runtime(action: &str, name: &PipeName) -> Result<Handle, Error> {
    Handle::try_current().map_err(|e| Error::Io {
        action: format!("{action} {name}"),
        source: io::Error::other(e),
    })
}
