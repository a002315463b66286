use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};
use tokio_util::task::TaskTracker;

use crate::stream::DEFAULT_LINGER;
use crate::sys::{self, Limits, Lingering};
use crate::{Access, Error, PipeName, PipeStream};

/// After an error in accepting, the pause before the next try: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Listens on a name and hands out each client as a [`PipeStream`] of bytes.
///
/// The bottom of a [`PipeServer`](crate::PipeServer), for protocols that bring their own framing.
/// Every knob is on the [`ServerBuilder`](crate::ServerBuilder), whose
/// [`bind_bytes`](crate::ServerBuilder::bind_bytes) makes one of these.
///
/// Once the listener is dropped, no client finds it; streams that it has handed out live on. On
/// Windows another server can take the name when they are gone too.
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
    inner: sys::Listener,
    name: PipeName,
    linger: Duration,
    /// Runs while errors keep us from trying again.
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
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
            DEFAULT_LINGER,
        )
    }

    pub(crate) fn new(
        name: PipeName,
        limits: &Limits,
        options: &sys::ListenOptions,
        linger: Duration,
    ) -> Result<Self, Error> {
        need_runtime("cannot listen on", &name)?;
        limits.check()?;
        let lingering = Lingering {
            tasks: TaskTracker::new(),
            limit: linger,
        };
        let inner = sys::Listener::bind(&name, limits, options, lingering.clone())?;
        tracing::debug!(pipe = %name, "listening");
        Ok(PipeListener {
            inner,
            name,
            linger,
            pause: None,
            next_pause: PAUSES.0,
            lingering: lingering.tasks,
        })
    }

    /// The name that clients connect to.
    pub fn name(&self) -> &PipeName {
        &self.name
    }

    /// Waits for the next client.
    ///
    /// An error of the system does not end the listener, be it a client that left early or a lack
    /// of file descriptors: it is logged, and accepting goes on after a pause of 5 ms, doubled up
    /// to 1 s while errors last. So this waits forever when no client comes.
    ///
    /// # Errors
    ///
    /// None at present.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses no client: the next call accepts it.
    pub async fn accept(&mut self) -> Result<PipeStream, Error> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`accept`](Self::accept), to be called from a `poll` function.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<PipeStream, Error>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.inner.poll_accept(cx)) {
                Ok(io) => {
                    self.next_pause = PAUSES.0;
                    return Poll::Ready(Ok(PipeStream::new(io, self.name.clone(), self.linger)));
                }
                Err(error) => {
                    let pause = self.next_pause;
                    tracing::warn!(pipe = %self.name, %error, ?pause, "cannot accept a client yet");
                    self.pause = Some(Box::pin(sleep(pause)));
                    self.next_pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Lets nobody connect any more, and gives those who have and were not accepted yet.
    #[cfg(feature = "endpoint")]
    pub(crate) fn close(self) -> Vec<PipeStream> {
        let PipeListener {
            inner,
            name,
            linger,
            ..
        } = self;
        let last = inner.close().into_iter();
        last.map(|io| PipeStream::new(io, name.clone(), linger))
            .collect()
    }

    /// Tracks what dropped streams still have to do before the process may end.
    pub(crate) fn lingering(&self) -> &TaskTracker {
        &self.lingering
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            backlog: None,
            max_connections: usize::MAX,
            access: Access::Owner,
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), Error> {
        let at_least_one = |option| Error::InvalidOption {
            option,
            rule: "at least 1".into(),
        };
        if self.max_connections == 0 {
            return Err(at_least_one("max_connections"));
        }
        if self.backlog == Some(0) {
            return Err(at_least_one("backlog"));
        }
        Ok(())
    }
}

/// tokio panics where it has no runtime; an error is kinder.
pub(crate) fn need_runtime(action: &str, name: &PipeName) -> Result<(), Error> {
    Handle::try_current().map(drop).map_err(|e| Error::Io {
        action: format!("{action} {name}"),
        source: io::Error::other(e),
    })
}
