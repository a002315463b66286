use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::listener::need_runtime;
use crate::stream::DEFAULT_LINGER;
use crate::sys::{self, Unavailable};
use crate::{Error, InvalidName, MessageCodec, PipeConnection, PipeName, PipeStream};

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
    /// Connects with every default: a busy server is waited for up to 5 s, a missing one is an
    /// error at once.
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

    /// Every knob, each with its default. A bad name is reported when connecting.
    pub fn builder<N>(name: N) -> ClientBuilder
    where
        N: TryInto<PipeName>,
        InvalidName: From<N::Error>,
    {
        ClientBuilder {
            name: name.try_into().map_err(InvalidName::from),
            timeout: Duration::from_secs(5),
            wait_for_server: false,
            codec: MessageCodec::default(),
            linger: DEFAULT_LINGER,
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
    codec: MessageCodec,
    linger: Duration,
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
    /// as a timeout of zero.
    pub fn no_wait(self) -> Self {
        self.timeout(Duration::ZERO)
    }

    /// The longest message that is sent or received, in bytes. Default 16 MiB, at most
    /// [`u32::MAX`].
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.codec = MessageCodec::new(bytes);
        self
    }

    /// How long `close` waits for the peer to take the rest. Default 5 s.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Connects, and speaks messages.
    ///
    /// There is no event for a server that becomes free, so it is asked again after pauses of
    /// 1 ms to 50 ms, each varied at random, and at last at the deadline itself.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidName`]
    /// - [`Error::NotFound`]: nobody listens, and it was not to be waited for
    /// - [`Error::Busy`]: only with [`no_wait`](Self::no_wait)
    /// - [`Error::TimedOut`] with the time waited
    /// - [`Error::AccessDenied`]: the system refuses, or the folder of the sockets is another
    ///   user's
    /// - [`Error::Io`], also outside of a Tokio runtime
    ///
    /// # Cancel safety
    ///
    /// Cancelling stops the attempts and leaves nothing behind.
    pub async fn connect(&self) -> Result<PipeConnection, Error> {
        Ok(PipeConnection::new(
            self.connect_bytes().await?,
            self.codec.clone(),
        ))
    }

    /// As [`connect`](Self::connect), for protocols that bring their own framing.
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn connect_bytes(&self) -> Result<PipeStream, Error> {
        let name = self.name.clone()?;
        need_runtime("cannot connect to", &name)?;
        let started = Instant::now();
        // `None`: so far away that it never comes.
        let deadline = started.checked_add(self.timeout);
        let mut pause = PAUSES.0;
        loop {
            let error = match sys::Stream::connect(&name) {
                Ok(io) => return Ok(PipeStream::new(io, name, self.linger)),
                Err(error) => error,
            };
            let state = match sys::unavailable(&error) {
                Some(Unavailable::Missing) if self.wait_for_server => Unavailable::Missing,
                Some(Unavailable::Missing) => return Err(Error::NotFound { pipe: name }),
                Some(Unavailable::Busy) => Unavailable::Busy,
                None => return Err(Error::from_io("cannot connect to", &name, error)),
            };
            let now = Instant::now();
            if deadline.is_some_and(|it| it <= now) {
                return Err(self.gave_up(name, state, now - started));
            }
            let next = now + jitter(pause);
            sleep_until(deadline.map_or(next, |it| it.min(next))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn gave_up(&self, pipe: PipeName, state: Unavailable, waited: Duration) -> Error {
        if self.timeout.is_zero() {
            return match state {
                Unavailable::Missing => Error::NotFound { pipe },
                Unavailable::Busy => Error::Busy { pipe },
            };
        }
        let reason = match state {
            Unavailable::Missing => "no server listens there",
            Unavailable::Busy => "the server is busy",
        };
        Error::TimedOut {
            pipe,
            action: "connecting to",
            waited,
            reason,
        }
    }
}

/// Between half of `pause` and the whole of it, so that clients that met do not meet again.
fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    pause.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}
