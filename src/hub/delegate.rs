use bytes::Bytes;
use futures_util::StreamExt;

use super::event::{DisconnectReason, Event};
use super::handle::HubHandle;
use super::pipe_hub::PipeHub;
use crate::{ConnectionId, Peer};

/// The events of a [`PipeHub`] as callbacks. Each does nothing unless it is implemented.
///
/// [`PipeHub::run`] calls them one at a time, in the order of the events. Each gets the hub's handle, whose
/// [`try_send`](HubHandle::try_send), [`broadcast`](HubHandle::broadcast),
/// [`disconnect`](HubHandle::disconnect) and [`shutdown`](HubHandle::shutdown) never wait, so they
/// can be called from here. A slow callback delays the clients, and blocks a thread of the
/// runtime. A panic in a callback ends the hub, and `run` with it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), asyncipc::Error> {
/// use asyncipc::hub::{DisconnectReason, HubHandle, PipeDelegate};
/// use asyncipc::{ConnectionId, PipeClient, PipeServer};
/// use bytes::Bytes;
///
/// /// Sends everything back.
/// struct Echo;
///
/// impl PipeDelegate for Echo {
///     fn on_recv(&mut self, hub: &HubHandle, id: ConnectionId, message: Bytes) {
///         if let Err(error) = hub.try_send(id, message) {
///             eprintln!("{error}");
///         }
///     }
///
///     fn on_disconnected(&mut self, hub: &HubHandle, _id: ConnectionId, _reason: DisconnectReason) {
///         hub.shutdown();
///     }
/// }
///
/// /// Asks once.
/// struct Ask(Option<Bytes>);
///
/// impl PipeDelegate for Ask {
///     fn on_connected(&mut self, hub: &HubHandle, id: ConnectionId, _peer: asyncipc::Peer) {
///         hub.try_send(id, "hello".into()).unwrap();
///     }
///
///     fn on_recv(&mut self, hub: &HubHandle, _id: ConnectionId, message: Bytes) {
///         self.0 = Some(message);
///         hub.shutdown();
///     }
/// }
///
/// let name = format!("doc-delegate-{}", std::process::id());
/// let server = PipeServer::bind(&name)?.into_hub();
/// let client = PipeClient::connect(&name);
/// let asking = async { Ok(client.await?.into_hub().run(Ask(None)).await) };
/// let serving = async { Ok::<_, asyncipc::Error>(server.run(Echo).await) };
/// let (asked, _) = tokio::try_join!(asking, serving)?;
/// assert_eq!(asked.0.unwrap(), "hello");
/// # Ok(()) }
/// ```
pub trait PipeDelegate: Send + 'static {
    /// The hub begins: a server listens, or a client has connected. Called once and before all other
    /// callbacks.
    fn on_create(&mut self, hub: &HubHandle) {
        let _ = hub;
    }

    /// As [`Event::Connected`].
    fn on_connected(&mut self, hub: &HubHandle, id: ConnectionId, peer: Peer) {
        let _ = (hub, id, peer);
    }

    /// As [`Event::Sent`]: `len` bytes in `messages` messages, nearly always one.
    fn on_send(&mut self, hub: &HubHandle, id: ConnectionId, messages: usize, len: usize) {
        let _ = (hub, id, messages, len);
    }

    /// As [`Event::Received`].
    fn on_recv(&mut self, hub: &HubHandle, id: ConnectionId, message: Bytes) {
        let _ = (hub, id, message);
    }

    /// As [`Event::Disconnected`].
    fn on_disconnected(&mut self, hub: &HubHandle, id: ConnectionId, reason: DisconnectReason) {
        let _ = (hub, id, reason);
    }
}

impl PipeHub {
    /// Calls the delegate with every event until the hub has ended, and then returns the delegate.
    ///
    /// The same for a server ([`PipeServer::into_hub`](crate::PipeServer::into_hub)) and a client
    /// ([`PipeConnection::into_hub`](crate::PipeConnection::into_hub)). To send
    /// from elsewhere, take a [`handle`](Self::handle) before.
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the hub.
    pub async fn run<D: PipeDelegate>(mut self, mut delegate: D) -> D {
        let hub = self.handle();
        delegate.on_create(&hub);
        while let Some(event) = self.next().await {
            match event {
                // `on_create` has said so.
                Event::Listening => {}
                Event::Connected { id, peer } => delegate.on_connected(&hub, id, peer),
                Event::Received { id, message } => delegate.on_recv(&hub, id, message),
                Event::Sent { id, messages, len } => delegate.on_send(&hub, id, messages, len),
                Event::Disconnected { id, reason } => delegate.on_disconnected(&hub, id, reason),
            }
        }
        delegate
    }
}
