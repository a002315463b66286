use std::sync::Arc;

use tokio::time::Instant;

use super::conversation::Conversation;
use super::event::Event;
use super::life::Life;
use super::shared::Shared;
use crate::server::SharedServer;

/// Accepts connections until the endpoint is shut down, or until nobody can connect any more. Moves the
/// endpoint's life on, and ends when all tasks have ended.
pub(super) async fn accept(server: SharedServer, shared: Arc<Shared>) {
    shared.emit(Event::Ready).await;
    let converse = |conn| shared.spawn(Conversation::accepted(shared.clone(), conn).run());
    let accept_all = async {
        loop {
            match server.accept().await {
                Ok(conn) => converse(conn),
                Err(error) => return error,
            }
        }
    };
    let failed = tokio::select! {
        biased;
        () = shared.shutdown.requested() => None,
        error = accept_all => Some(error),
    };
    // Also after an error: an endpoint that nobody can reach takes nothing for sending.
    shared.shutdown.shutdown();
    shared.life.advance(Life::ShuttingDown);
    // Those that the system has connected already may have sent something.
    server.close().into_iter().for_each(converse);
    // The name is free now. Those who are asked to send no more would come back at once if they were
    // asked before.
    let since = Instant::now();
    shared.life.advance(Life::Draining { since });
    tracing::debug!(endpoint = %shared.name, tasks = shared.tasks.len(), "draining");
    shared.tasks.close();
    shared.tasks.wait().await;
    if let Some(error) = failed {
        shared.emit(Event::Error(error.into())).await;
    }
    shared.emit(Event::Closed).await;
}
