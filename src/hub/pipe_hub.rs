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
/// For programs that handle events in one place. Where each client is a conversation of its own,
/// [`PipeServer::serve`](crate::PipeServer::serve) is simpler. [`run`](Self::run) calls a
/// [`PipeDelegate`](super::PipeDelegate) with the same events. Made from a single
/// [`PipeConnection`](crate::PipeConnection), it is the same for a client.
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
/// order of sending. A message that has no `Sent` when `Disconnected` comes was not sent, or not
/// entirely.
///
/// # Slow clients
///
/// Each client has a task and a queue of its own. One that does not read fills its queue, and
/// [`Overflow`](super::Overflow) says what happens then; other clients are not affected. An
/// application that does not read the events holds the clients back: once a few events are unread,
/// nothing is read from the clients, and nobody is accepted. What the application has sent still goes
/// out.
///
/// # Ending
///
/// A client that ends its sending direction has left: its queue is still sent, and nothing more can
/// be sent to it.
///
/// [`HubHandle::shutdown`] ends it in order; so does an error after which no client can come any more,
/// which is logged (see [`PipeServer::accept`](crate::PipeServer::accept)). Dropping the hub ends all connections at once, and
/// what is in the queues is lost, which is logged as a warning. Nobody can connect any more, and the
/// tasks end. To lose nothing, wait for [`HubHandle::flush_all`] before.
///
/// # Cancel safety
///
/// `next` loses nothing when cancelled.
#[derive(Debug)]
#[must_use = "events have to be read for anything to happen"]
pub struct PipeHub {
    events: mpsc::Receiver<Event>,
    handle: HubHandle,
    /// That of the accept loop. `None` if it is the hub of a client.
    server: Option<SharedServer>,
    /// Everything else: the accept loop, which has the tasks of the clients.
    _task: AbortOnDropHandle<()>,
}

impl PipeHub {
    /// Runs the task until it ends or the hub is dropped. `task` puts the events into the other end
    /// of `events`.
    pub(super) fn spawn(
        registry: Arc<Registry>,
        events: mpsc::Receiver<Event>,
        server: Option<SharedServer>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        // However the task ends, also with its runtime: nothing can be sent any more.
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

    /// Sends to the clients, from anywhere.
    pub fn handle(&self) -> HubHandle {
        self.handle.clone()
    }
}

impl Stream for PipeHub {
    type Item = Event;

    /// What happens next; `None` once the hub is shut down and all its clients are gone, or the
    /// runtime in which it was made has ended.
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
        // The handles can send to nobody any more.
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
