use std::time::Duration;

use super::pipe_server::PipeServer;
use crate::connection::{ConnectionOptions, connection_setters};
use crate::sys::{Limits, ListenOptions};
use crate::{Access, Error, InvalidName, PipeListener, PipeName};

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

    /// Every option, each with its default. A bad name is reported when binding.
    pub fn builder<N>(name: N) -> ServerBuilder
    where
        N: TryInto<PipeName>,
        InvalidName: From<N::Error>,
    {
        ServerBuilder {
            name: name.try_into().map_err(InvalidName::from),
            limits: Limits::default(),
            connection: ConnectionOptions::default(),
            drain_timeout: Duration::from_secs(10),
            platform: ListenOptions::default(),
        }
    }
}

/// How to listen. Can bind any number of times, one after the other.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it binds"]
pub struct ServerBuilder {
    name: Result<PipeName, InvalidName>,
    limits: Limits,
    connection: ConnectionOptions,
    drain_timeout: Duration,
    pub(crate) platform: ListenOptions,
}

impl ServerBuilder {
    /// How many clients may be connected at a time. Default: as many as the system allows.
    ///
    /// Further clients wait. On Windows they find the pipe busy; clients of this crate, and all that call
    /// WaitNamedPipe, then wait for it. On Unix the system connects them, but the server does not accept
    /// them until another client leaves.
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

    connection_setters!();

    /// How long handlers may go on after the server is shut down. Default 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Listens, and speaks messages. Clients can connect as soon as this returns.
    ///
    /// On Unix the socket's file has mode 0600 before anyone can connect. The file of a server that has
    /// died is replaced, but only when nobody answers on it. To ask, this connects and leaves at once: a
    /// running server sees such a client. Meanwhile, this holds a lock for the path, which servers of this
    /// crate hold for a moment and never wait for. The lock is a file that no other user can open, and it
    /// is removed at once. It is beside the socket, or, if others could remove it there, in the user's own
    /// folder below the temporary folder.
    ///
    /// A process that was forked from the server's may drop its copy of the server: the file stays.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidName`], [`Error::InvalidOption`]
    /// - [`Error::AddressInUse`]: another server listens there or is just being bound, or something other than
    ///   a server's socket has the path
    /// - [`Error::AccessDenied`]: the system refuses, or the folder of the sockets is another
    ///   user's
    /// - [`Error::Io`]: also outside of a Tokio runtime, and when a dead server's file is in the way
    ///   and the lock cannot be made
    ///
    /// # Panics
    ///
    /// In a Tokio runtime without I/O or time; `enable_all` gives it both.
    pub fn bind(&self) -> Result<PipeServer, Error> {
        let listener = self.bind_bytes()?;
        Ok(PipeServer::new(
            listener,
            self.connection,
            self.drain_timeout,
        ))
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
            self.connection,
        )
    }
}
