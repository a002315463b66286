use tokio::sync::mpsc;

use super::accept::accept;
use super::client::HubClient;
use super::options::{HubOptions, Overflow};
use super::pipe_hub::PipeHub;
use super::registry::Registry;
use crate::server::SharedServer;
use crate::stats::Totals;
use crate::{PipeConnection, PipeServer, ShutdownHandle, StatsHandle};

/// How many events wait for the application. Each client's task holds one more.
const EVENTS: usize = 64;

/// How a [`PipeHub`] deals with its clients. Makes any number of hubs.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it makes a hub"]
pub struct HubBuilder {
    options: HubOptions,
}

impl HubBuilder {
    /// How many messages may wait for a client, at least one. Default 64.
    pub fn queue(mut self, messages: usize) -> Self {
        self.options.set_queue(messages);
        self
    }

    /// What happens to a client whose queue is full. Default: [`Overflow::Wait`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.options.overflow = overflow;
        self
    }

    /// The hub of a server's clients. It ends when it is [shut down](super::HubHandle::shutdown), also by a
    /// [`ShutdownHandle`] of the server.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn serve(&self, server: PipeServer) -> PipeHub {
        let registry = Registry::new(
            server.name(),
            server.connection.codec,
            self.options,
            server.drain_timeout,
            server.shutdown_handle(),
            server.stats_handle(),
        );
        let (events_in, events) = mpsc::channel(EVENTS);
        let server = SharedServer::new(server);
        let accepting = accept(server.clone(), registry.clone(), events_in);
        PipeHub::spawn(registry, events, Some(server), accepting)
    }

    /// The hub of a single connection: the peer is its only client. It ends when the connection does. The
    /// connection's linger time is its drain timeout.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn connected(&self, conn: PipeConnection) -> PipeHub {
        let (sender, receiver) = conn.split();
        let totals = Totals::default();
        let place = totals.join();
        place.begin(sender.id(), sender.core.counters.clone());
        let registry = Registry::new(
            sender.name(),
            sender.codec,
            self.options,
            sender.core.linger,
            ShutdownHandle::new(),
            StatsHandle::new(totals),
        );
        let (events_in, events) = mpsc::channel(EVENTS);
        let (connected, client) =
            HubClient::enter(&registry, sender, receiver, Some(place), &events_in);
        PipeHub::spawn(registry, events, None, async move {
            if events_in.send(connected).await.is_ok() {
                client.run().await;
            }
        })
    }
}

impl PipeServer {
    /// Makes a [`PipeHub`] of this server, with every default. [`PipeHub::builder`] has the options.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn into_hub(self) -> PipeHub {
        PipeHub::builder().serve(self)
    }
}

impl PipeConnection {
    /// Makes a [`PipeHub`] of this connection, with every default: for clients that handle events.
    /// [`PipeHub::builder`] has the options.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn into_hub(self) -> PipeHub {
        PipeHub::builder().connected(self)
    }
}

impl PipeHub {
    /// Every option, each with its default.
    ///
    /// ```no_run
    /// # fn doc() -> Result<(), asyncipc::Error> {
    /// use asyncipc::hub::Overflow;
    /// use asyncipc::{PipeHub, PipeServer};
    ///
    /// let hub = PipeHub::builder()
    ///     .queue(256)
    ///     .overflow(Overflow::Disconnect)
    ///     .serve(PipeServer::bind("news")?);
    /// # Ok(()) }
    /// ```
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }
}
