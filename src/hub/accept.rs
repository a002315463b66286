use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::HubClient;
use super::event::Event;
use super::registry::Registry;
use crate::server::SharedServer;

/// Accepts clients until the server is shut down. Ends when the tasks of all clients have ended.
pub(super) async fn accept(
    server: SharedServer,
    registry: Arc<Registry>,
    events: mpsc::Sender<Event>,
) {
    // Aborted when this future is dropped.
    let mut clients = JoinSet::new();
    let _ = events.send(Event::Listening).await;
    loop {
        // A client is accepted only when there is room for its first event.
        let permit = tokio::select! {
            biased;
            _ = registry.shutdown.requested() => break,
            permit = events.reserve() => permit,
        };
        let Ok(permit) = permit else { break };
        let conn = match server.accept().await {
            Ok(conn) => conn,
            Err(error) => {
                if !registry.shutdown.is_shut_down() {
                    tracing::error!(pipe = %registry.name, %error, "shutting down");
                    registry.shutdown.shutdown();
                }
                break;
            }
        };
        let (sender, receiver) = conn.split();
        let (connected, client) = HubClient::enter(&registry, sender, receiver, None, &events);
        permit.send(connected);
        clients.spawn(client.run());
        // Removes the tasks that have ended meanwhile.
        while clients.try_join_next().is_some() {}
    }
    server.stop_listening();
    tracing::debug!(pipe = %registry.name, clients = clients.len(), "draining");
    while clients.join_next().await.is_some() {}
}
