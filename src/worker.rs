//! Worker processes: children of this process, each with a private channel to it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::connection::{ConnectionOptions, connection_setters};
use crate::listener::need_runtime;
use crate::sync::until;
use crate::sys::{self, Inherited};
use crate::{Error, PipeClient, PipeConnection, PipeName, PipeServer};

/// The environment variable that says where a worker's end of the channel is.
const VARIABLE: &str = "ASYNCIPC_CHANNEL";

/// The beginning of the variable's value when there is no channel. A command has such a value between two
/// workers; the number behind it is what the next start needs to know of the last one.
const NO_CHANNEL: &str = "none:";

impl PipeServer {
    /// A builder for a worker: a child process that has a private channel to this process. The child takes
    /// its end with [`PipeClient::from_parent`].
    ///
    /// No other process can take the child's end. On Unix it is one of a pair of sockets without a
    /// name, which this child alone inherits. On Windows it is a pipe of one instance for the same
    /// user, with 128 random bits in its name; whoever connects is let in only with the child's
    /// process id, and the child checks that its parent serves the pipe.
    ///
    /// ```no_run
    /// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
    /// use asyncipc::PipeServer;
    /// use futures::{SinkExt, StreamExt};
    /// use tokio::process::Command;
    ///
    /// let mut command = Command::new("resize-images");
    /// command.kill_on_drop(true);
    /// let (mut child, mut conn) = PipeServer::worker().spawn(&mut command).await?;
    /// conn.send("cat.png".into()).await?;
    /// match conn.next().await {
    ///     Some(answer) => println!("{:?}", answer?),
    ///     None => println!("it died: {}", child.wait().await?),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn worker() -> WorkerBuilder {
        WorkerBuilder {
            connection: ConnectionOptions::default(),
            timeout: Duration::from_secs(30),
        }
    }
}

/// How to start a worker: made by [`PipeServer::worker`]. Can start any number of them.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it spawns"]
pub struct WorkerBuilder {
    connection: ConnectionOptions,
    timeout: Duration,
}

impl WorkerBuilder {
    connection_setters!();

    /// How long to wait, on Windows, until the worker has called [`PipeClient::from_parent`].
    /// Default 30 s; [`Duration::MAX`] waits forever. On Unix there is nothing to wait for.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts `command` as a child process, and gives it its end.
    ///
    /// Everything else about the child is as the command says: its standard streams, its
    /// environment, `kill_on_drop`. Afterwards the command can be used again, any number of times:
    /// for another worker, or to start a process without a channel. On Unix the variable
    /// `ASYNCIPC_CHANNEL` stays in its environment, to say that there is none. A command that is moved
    /// or whose environment is cleared between two workers grows by a few bytes each time. If a command
    /// has taken the place in memory and the environment of another one that still exists, the first
    /// attempt is an error.
    ///
    /// On Unix this returns as soon as the program runs. On Windows it returns when the worker has
    /// connected. There the worker must be the child itself, and not a process that the child starts: with
    /// a launcher or a shell in between, the result is [`Error::WorkerEnded`] when that one ends. On Unix
    /// they may hand on the descriptor.
    ///
    /// The connection ends when the worker ends in any way, or drops its end: with `None`, or on Unix
    /// with [`Error::Closed`] when sending to it. [`peer`](PipeConnection::peer) returns the child's
    /// process; on Unix the user in it is the one that this process runs as, even if the command changes
    /// the child's user. The name of the connection is that of the pipe, or on Unix what the system's
    /// tools call the worker's socket, such as `socket:[4711]`.
    ///
    /// # Errors
    ///
    /// After any of them, the child is killed.
    ///
    /// - [`Error::Io`] with the program's name, when it cannot be started; also outside of a Tokio
    ///   runtime
    /// - [`Error::WorkerEnded`]: on Windows, when the child ends without having connected. On Unix
    ///   the connection ends, and [`Child::wait`] says how the child ended
    /// - [`Error::TimedOut`]: on Windows, when it has not connected in time
    ///
    /// # Panics
    ///
    /// In a Tokio runtime without I/O or time; `enable_all` gives it both.
    ///
    /// # Cancel safety
    ///
    /// Cancelling kills the child.
    pub fn spawn<'a>(
        &self,
        command: &'a mut Command,
    ) -> impl Future<Output = Result<(Child, PipeConnection), Error>> + Send + use<'a> {
        let builder = self.clone();
        async move { builder.start(command).await }
    }

    async fn start(self, command: &mut Command) -> Result<(Child, PipeConnection), Error> {
        let WorkerBuilder {
            connection,
            timeout,
        } = self;
        let program = command.as_std().get_program().to_owned();
        let failed = |source| Error::Io {
            action: format!("cannot start {program:?}"),
            source,
        };
        let (parent_end, mut child_end) = sys::channel().map_err(failed)?;
        let name = PipeName::as_it_is(parent_end.name());
        need_runtime("cannot start a worker on", &name)?;

        let given = child_end.give_to(command, given_before(command));
        command.env(VARIABLE, child_end.address());
        let spawned = command.spawn();
        let was_given = child_end.was_given();
        // The next child must get neither this address nor the one that this process was started with.
        match given {
            Some(number) if spawned.is_err() || was_given.is_ok() => {
                command.env(VARIABLE, format!("{NO_CHANNEL}{number}"))
            }
            _ => command.env_remove(VARIABLE),
        };
        // Now only the child has this end: when the child ends, so does the channel.
        drop(child_end);
        let mut child = Unclaimed(Some(spawned.map_err(failed)?));
        was_given.map_err(failed)?;

        let started = Instant::now();
        let deadline = started.checked_add(timeout);
        match until(
            deadline,
            parent_end.connected(child.get(), connection.linger),
        )
        .await
        {
            Some(connected) => {
                let connected = connected.map_err(|e| Error::from_platform(&name, e))?;
                let conn = connection.connection(connection.stream(connected, name));
                let child = child.claim();
                tracing::debug!(pipe = %conn.name(), id = conn.id().get(), process = child.id(), "worker");
                Ok((child, conn))
            }
            None => Err(Error::TimedOut {
                pipe: name,
                action: "waiting for the worker on",
                waited: started.elapsed(),
                reason: "it has not connected",
            }),
        }
    }
}

/// What starting the last worker has left in the command's environment.
fn given_before(command: &Command) -> Option<u64> {
    let mut variables = command.as_std().get_envs();
    let (_, value) = variables.find(|(key, _)| *key == VARIABLE)?;
    value?.to_str()?.strip_prefix(NO_CHANNEL)?.parse().ok()
}

/// A child that is killed unless it is claimed. The runtime then reaps it.
struct Unclaimed(Option<Child>);

impl Unclaimed {
    fn get(&mut self) -> &mut Child {
        self.0.as_mut().expect("claimed only at the end")
    }

    fn claim(mut self) -> Child {
        self.0.take().expect("claimed once")
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Fails if the child has ended already.
            let _ = child.start_kill();
        }
    }
}

impl PipeClient {
    /// A builder for the channel to the parent: the process that has started this one with
    /// [`PipeServer::worker`]. The channel can be taken once.
    ///
    /// Take it before this process starts any other process: on Unix, a process that is started earlier
    /// inherits the descriptor, and while it lives the parent does not see that this process has ended.
    ///
    /// ```no_run
    /// # async fn doc() -> Result<(), asyncipc::Error> {
    /// use asyncipc::PipeClient;
    /// use futures::{SinkExt, StreamExt};
    ///
    /// let mut conn = PipeClient::from_parent().connect().await?;
    /// while let Some(job) = conn.next().await {
    ///     conn.send(job?.freeze()).await?;
    /// }
    /// conn.close().await
    /// # }
    /// ```
    pub fn from_parent() -> FromParent {
        FromParent {
            connection: ConnectionOptions::default(),
            timeout: Duration::from_secs(5),
        }
    }
}

/// How to take a worker's end of its channel: made by [`PipeClient::from_parent`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct FromParent {
    connection: ConnectionOptions,
    timeout: Duration,
}

impl FromParent {
    connection_setters!();

    /// How long to wait, on Windows, while somebody else has connected to the pipe. Default 5 s;
    /// [`Duration::MAX`] waits forever. On Unix there is nothing to wait for.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Takes the channel: an ordinary connection. It ends, with `None`, when the parent drops its end or
    /// ends in any way.
    ///
    /// # Errors
    ///
    /// - [`Error::NoChannel`]: this process was not started with a channel, has taken it already, or
    ///   has inherited the environment of the process that the channel was for
    /// - [`Error::NotFound`], [`Error::TimedOut`]: on Windows, when the parent has left, or somebody
    ///   else is in the way until the timeout
    /// - [`Error::AccessDenied`]: on Windows, when the pipe is not the parent's
    /// - [`Error::Io`], also outside of a Tokio runtime
    ///
    /// # Panics
    ///
    /// In a Tokio runtime without I/O or time; `enable_all` gives it both.
    ///
    /// # Cancel safety
    ///
    /// If it is cancelled before it completes, it can be tried again.
    pub fn connect(&self) -> impl Future<Output = Result<PipeConnection, Error>> + Send + use<> {
        let builder = self.clone();
        async move { builder.take().await }
    }

    async fn take(self) -> Result<PipeConnection, Error> {
        let no_channel = |reason| Error::NoChannel { reason };
        let address = std::env::var(VARIABLE)
            .ok()
            .filter(|it| !it.starts_with(NO_CHANNEL))
            .ok_or_else(|| no_channel("this process was not started with one".into()))?;
        let taking = Taking::begin().map_err(no_channel)?;
        let end = Inherited::find(&address).map_err(no_channel)?;
        let name = PipeName::as_it_is(end.name());
        need_runtime("cannot connect to", &name)?;

        let started = Instant::now();
        let deadline = started.checked_add(self.timeout);
        match until(deadline, end.open()).await {
            Some(opened) => {
                let opened = opened.map_err(|e| Error::from_platform(&name, e))?;
                let connection = self.connection;
                let conn = connection.connection(connection.stream(opened, name));
                taking.done();
                Ok(conn)
            }
            None => Err(Error::TimedOut {
                pipe: name,
                action: "connecting to",
                waited: started.elapsed(),
                reason: "somebody else is connected",
            }),
        }
    }
}

/// Whether this process has taken its channel, or is about to.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// One attempt to take the channel. If it is dropped before `done`, another attempt can be made.
struct Taking(());

impl Taking {
    fn begin() -> Result<Self, String> {
        match TAKEN.swap(true, Relaxed) {
            true => Err("this process has taken it already".into()),
            false => Ok(Taking(())),
        }
    }

    fn done(self) {
        std::mem::forget(self);
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        TAKEN.store(false, Relaxed);
    }
}
