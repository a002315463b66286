use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::connection::{ConnectionOptions, connection_setters};
use crate::listener::need_runtime;
use crate::sync::until;
use crate::sys::{self, ConnectOptions, PlatformError, Waited};
use crate::{Error, InvalidName, PipeConnection, PipeName, PipeStream};

/// The pause between two attempts to connect: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Connects to a server, waiting for it as WaitNamedPipe does.
///
/// ```no_run
/// # async fn doc() -> Result<(), asyncipc::Error> {
/// use std::time::Duration;
/// use asyncipc::PipeClient;
///
/// let plain = PipeClient::connect("echo").await?;
/// let patient = PipeClient::builder("echo")
///     .timeout(Duration::from_secs(20))
///     .wait_for_server(true)
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct PipeClient;

impl PipeClient {
    /// Connects with every default: waits up to 5 s for a busy server; a missing server is an error at once.
    ///
    /// # Errors
    ///
    /// As [`ClientBuilder::connect`].
    pub async fn connect<N>(name: N) -> Result<PipeConnection, Error>
    where
        N: TryInto<PipeName>,
        InvalidName: From<N::Error>,
    {
        Self::builder(name).connect().await
    }

    /// Every option, each with its default. A bad name is reported when connecting.
    pub fn builder<N>(name: N) -> ClientBuilder
    where
        N: TryInto<PipeName>,
        InvalidName: From<N::Error>,
    {
        ClientBuilder {
            name: name.try_into().map_err(InvalidName::from),
            timeout: Duration::from_secs(5),
            wait_for_server: false,
            connection: ConnectionOptions::default(),
            verify_server: false,
            look_elsewhere: true,
            platform: ConnectOptions::default(),
        }
    }
}

/// How to connect. Can connect any number of times.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    name: Result<PipeName, InvalidName>,
    timeout: Duration,
    wait_for_server: bool,
    connection: ConnectionOptions,
    verify_server: bool,
    /// Whether to look for a missing server in other folders, so that the error can name its path.
    look_elsewhere: bool,
    pub(crate) platform: ConnectOptions,
}

impl ClientBuilder {
    /// How long to wait for a server that is busy, and with
    /// [`wait_for_server`](Self::wait_for_server) also for one that is missing. Default 5 s.
    /// [`Duration::MAX`] waits forever.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether to wait for a server that does not listen yet. Default: no, it is
    /// [`Error::NotFound`] at once.
    pub fn wait_for_server(mut self, wait: bool) -> Self {
        self.wait_for_server = wait;
        self
    }

    /// Tries once: a busy server is [`Error::Busy`], a missing one [`Error::NotFound`]. The same
    /// as a timeout of zero. On another machine, that one attempt takes as long as the network.
    pub fn no_wait(self) -> Self {
        self.timeout(Duration::ZERO)
    }

    connection_setters!();

    /// Whether to refuse a server that runs as another user, before anything is sent. While a server is not
    /// running, anyone can take its name. Default: no.
    pub fn verify_server(mut self, verify: bool) -> Self {
        self.verify_server = verify;
        self
    }

    /// Connects, and speaks messages.
    ///
    /// On Windows, the system reports when a busy server becomes free. For a missing server, and on
    /// Unix also for a busy one, there is no such event: the client tries again after pauses of 1 ms
    /// to 50 ms, each varied at random, and a last time at the deadline itself.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidName`], [`Error::InvalidOption`]
    /// - [`Error::NotFound`]: nobody listens, and [`wait_for_server`](Self::wait_for_server) is not set
    /// - [`Error::NotAPipe`]: at once, when the path is that of a folder or a file; only on Unix
    /// - [`Error::Busy`]: only with [`no_wait`](Self::no_wait)
    /// - [`Error::TimedOut`] with the time waited
    /// - [`Error::AccessDenied`]: the system refuses, or the folder of the sockets belongs to another user;
    ///   with [`verify_server`](Self::verify_server), also when the server does
    /// - [`Error::ModeMismatch`]: only in message mode
    /// - [`Error::Io`], also outside of a Tokio runtime
    ///
    /// # Panics
    ///
    /// In a Tokio runtime without I/O or time; `enable_all` gives it both.
    ///
    /// # Cancel safety
    ///
    /// Cancelling stops the attempts and leaves nothing behind.
    pub fn connect(&self) -> impl Future<Output = Result<PipeConnection, Error>> + Send + use<> {
        let (connecting, options) = (self.connect_bytes(), self.connection);
        async move { Ok(options.connection(connecting.await?)) }
    }

    /// As [`connect`](Self::connect), for protocols that bring their own framing.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn connect_bytes(&self) -> impl Future<Output = Result<PipeStream, Error>> + Send + use<> {
        let builder = self.clone();
        async move { builder.wait_and_open().await }
    }

    async fn wait_and_open(&self) -> Result<PipeStream, Error> {
        let name = self.name.clone()?;
        let checked = self.platform.check();
        checked.map_err(|e| Error::from_platform(&name, e))?;
        need_runtime("cannot connect to", &name)?;
        let started = Instant::now();
        // `None`: later than the clock can represent.
        let deadline = started.checked_add(self.timeout);
        let mut pause = PAUSES.0;
        loop {
            let attempt = sys::connect(name.address(), &self.platform);
            let error = match until(deadline.filter(|_| !self.timeout.is_zero()), attempt).await {
                Some(Ok(io)) => return self.connected(self.connection.stream(io, name)),
                Some(Err(error)) => error,
                None => return Err(timed_out(name, started.elapsed(), "nobody answers")),
            };
            let is_busy = match error {
                PlatformError::Busy => true,
                PlatformError::Missing if self.wait_for_server => false,
                PlatformError::Missing => return Err(self.not_found(name)),
                error => return Err(Error::from_platform(&name, error)),
            };
            if deadline.is_some_and(|it| it <= Instant::now()) {
                return Err(self.gave_up(name, is_busy, started.elapsed()));
            }
            if is_busy {
                let left = deadline.map(|it| it.saturating_duration_since(Instant::now()));
                let wait = sys::wait_until_free(name.address(), &self.platform, left);
                match until(deadline, wait).await {
                    // Another client may be faster: try again, with the time that is left. Yields, so that
                    // other tasks run even if this repeats.
                    None | Some(Waited::Ended) => {
                        yield_now().await;
                        continue;
                    }
                    Some(Waited::TimedOut) => {
                        return Err(self.gave_up(name, is_busy, started.elapsed()));
                    }
                    Some(Waited::Unsupported) => {}
                }
            }
            until(deadline, sleep(jitter(pause))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn connected(&self, stream: PipeStream) -> Result<PipeStream, Error> {
        if self.verify_server {
            let peer = stream.peer()?;
            if !peer.is_same_user() {
                return Err(Error::AccessDenied {
                    pipe: stream.name().clone(),
                    action: "cannot connect to",
                    reason: match peer.user {
                        Some(user) => match sys::current_user() {
                            Ok(_) => format!("its server belongs to user {user}, not to you"),
                            Err(e) => format!("its server belongs to user {user}, and {e}"),
                        },
                        None => "the system does not tell whose server it is".into(),
                    },
                });
            }
        }
        Ok(stream)
    }

    fn gave_up(&self, pipe: PipeName, is_busy: bool, waited: Duration) -> Error {
        if self.timeout.is_zero() {
            return match is_busy {
                true => Error::Busy { pipe },
                false => self.not_found(pipe),
            };
        }
        let reason = match is_busy {
            true => "the server is busy",
            false => "no server listens there",
        };
        timed_out(pipe, waited, reason)
    }

    fn not_found(&self, pipe: PipeName) -> Error {
        let elsewhere = self.look_elsewhere.then(|| sys::elsewhere(pipe.address()));
        Error::NotFound {
            elsewhere: elsewhere.flatten(),
            pipe,
        }
    }

    /// Looking there connects to a server that it finds, and leaves at once. So a caller that tries again
    /// and again lets only one attempt look.
    #[cfg(feature = "endpoint")]
    pub(crate) fn look_elsewhere(mut self, look: bool) -> Self {
        self.look_elsewhere = look;
        self
    }
}

fn timed_out(pipe: PipeName, waited: Duration, reason: &'static str) -> Error {
    Error::TimedOut {
        pipe,
        action: "connecting to",
        waited,
        reason,
    }
}

/// A random time between half of `pause` and the whole of it: clients that tried at the same time try
/// again at different times.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * random())
}

/// A random number from 0 to 1.
pub(crate) fn random() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}
