use std::sync::Arc;

use tokio::time::Instant;

use super::conversation::Conversation;
use super::event::Event;
use super::life::Life;
use super::shared::Shared;
use crate::server::SharedServer;

/// Accepts connections until the endpoint is shut down, or until nobody can connect any more. Then takes the
/// endpoint through the states of its end, and returns when all tasks have ended.
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
    // Also after an error: an endpoint that nobody can reach accepts no messages for sending.
    shared.shutdown.shutdown();
    shared.life.advance(Life::ShuttingDown);
    // Programs that the system has connected already may have sent something.
    server.close().into_iter().for_each(converse);
    // Only now, when the name is free, are the others asked to send no more: if they were asked before,
    // they would connect to this endpoint again at once.
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
