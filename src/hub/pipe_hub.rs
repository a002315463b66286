use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::stream::{FusedStream, Stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::event::Event;
use super::handle::HubHandle;
use super::registry::Registry;
use crate::PipeName;
use crate::server::SharedServer;

/// All clients of a server in one object: a [`Stream`] of what happens to them, and a
/// [`HubHandle`] to send to them.
///
/// It is for programs that handle events in one place. Where each client is a conversation of its own,
/// [`PipeServer::serve`](crate::PipeServer::serve) is simpler. [`run`](Self::run) calls a
/// [`PipeDelegate`](super::PipeDelegate) with the same events. A client can have a hub too, made from its
/// [`PipeConnection`](crate::PipeConnection).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), asyncipc::Error> {
/// use asyncipc::hub::Event;
/// use asyncipc::{PipeClient, PipeServer};
/// use futures::{SinkExt, StreamExt};
///
/// let name = format!("doc-hub-{}", std::process::id());
/// let mut hub = PipeServer::bind(&name)?.into_hub();
/// let clients = hub.handle();
/// let serving = async {
///     while let Some(event) = hub.next().await {
///         match event {
///             Event::Connected { id, .. } => clients.send(id, "welcome".into()).await?,
///             Event::Received { id, message, .. } => clients.send(id, message).await?,
///             Event::Disconnected { .. } => clients.shutdown(),
///             _ => {}
///         }
///     }
///     Ok(())
/// };
/// let client = async {
///     let mut conn = PipeClient::connect(&name).await?;
///     assert_eq!(conn.next().await.unwrap()?, "welcome");
///     conn.send("hello".into()).await?;
///     assert_eq!(conn.next().await.unwrap()?, "hello");
///     Ok::<_, asyncipc::Error>(())
/// };
/// tokio::try_join!(serving, client)?;
/// # Ok(()) }
/// ```
///
/// # Order
///
/// For each client, `Connected` comes first and `Disconnected` last, each once, and its messages
/// come in the order in which it sent them. `Sent` says that the system has taken a message, in the
/// order of sending. If `Disconnected` comes and a message has had no `Sent`, then it was not sent, or only
/// in part.
///
/// # Slow clients
///
/// Each client has a task and a queue of its own. A client that does not read fills its queue, and
/// [`Overflow`](super::Overflow) says what happens then; other clients are not affected. An
/// application that does not read the events holds the clients back: when 64 events are unread, the hub
/// reads at most one more message from each client, and accepts nobody. What the application has sent
/// still goes out.
///
/// # Ending
///
/// A client that ends its sending direction has left: its queue is still sent, and nothing more can
/// be sent to it.
///
/// [`HubHandle::shutdown`] ends it in order. So does an error after which no client can connect any more;
/// the error is logged (see [`PipeServer::accept`](crate::PipeServer::accept)). Dropping the hub ends all
/// connections at once: what is in the queues is lost, with a warning in the log, nobody can connect any
/// more, and the tasks end. To lose nothing, wait for [`HubHandle::flush_all`] before.
///
/// # Cancel safety
///
/// `next` loses nothing when cancelled.
#[derive(Debug)]
#[must_use = "nothing happens unless the events are read"]
pub struct PipeHub {
    events: mpsc::Receiver<Event>,
    handle: HubHandle,
    /// The server from which the accept loop accepts. `None` in the hub of a client.
    server: Option<SharedServer>,
    /// The accept loop, which owns the tasks of the clients.
    _task: AbortOnDropHandle<()>,
}

impl PipeHub {
    /// Runs `task` until it ends or the hub is dropped. It sends the events to `events`.
    pub(super) fn spawn(
        registry: Arc<Registry>,
        events: mpsc::Receiver<Event>,
        server: Option<SharedServer>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        // When the task ends in any way, also because its runtime ends, nothing more can be sent.
        let shutdown = registry.shutdown.on_drop();
        let task = async move {
            let _shutdown = shutdown;
            task.await;
        };
        PipeHub {
            events,
            server,
            handle: HubHandle::new(registry),
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// The pipe's name.
    pub fn name(&self) -> &PipeName {
        self.handle.name()
    }

    /// A handle that sends to the clients from anywhere.
    pub fn handle(&self) -> HubHandle {
        self.handle.clone()
    }
}

impl Stream for PipeHub {
    type Item = Event;

    /// The next event; `None` once the hub is shut down and all its clients have gone, or the runtime in
    /// which it was made has ended.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }
}

impl FusedStream for PipeHub {
    fn is_terminated(&self) -> bool {
        self.events.is_closed() && self.events.is_empty()
    }
}

impl Drop for PipeHub {
    fn drop(&mut self) {
        // The handles can no longer send.
        self.handle.shutdown();
        self.events.close();
        let mut messages = 0;
        while let Ok(event) = self.events.try_recv() {
            messages += usize::from(matches!(event, Event::Received { .. }));
        }
        if messages > 0 {
            let pipe = self.name();
            tracing::warn!(%pipe, messages, "a hub was dropped, and messages that it had received were not read");
        }
        if let Some(server) = &self.server {
            server.stop_listening();
        }
    }
}
