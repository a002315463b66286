//! All clients of a server in one object, as events and as callbacks.

#[path = "../common/mod.rs"]
mod common;

mod delegate;
mod ending;
mod events;
mod limits;
mod queues;
mod stats;

use asyncipc::hub::{DisconnectReason, Event, HubHandle, Overflow};
use asyncipc::{ConnectionId, Error, PipeClient, PipeConnection, PipeHub, PipeServer};
use bytes::Bytes;
use common::{PATIENCE, sample, stays_pending, unique_name, within};
use futures::StreamExt;

/// More than any platform's pipe holds.
const LARGE: usize = 4 << 20;

/// A hub that listens, and its name.
async fn listening(queue: usize, overflow: Overflow) -> (PipeHub, String) {
    let name = unique_name("hub");
    let server = PipeServer::builder(&name).drain_timeout(PATIENCE);
    let mut hub = PipeHub::builder()
        .queue(queue)
        .overflow(overflow)
        .serve(server.linger(PATIENCE).bind().unwrap());
    assert!(matches!(next(&mut hub).await, Event::Listening));
    (hub, name)
}

/// A further client, with its number.
async fn join(hub: &mut PipeHub, name: &str) -> (PipeConnection, ConnectionId) {
    let client = within(PipeClient::connect(name)).await.unwrap();
    match next(hub).await {
        Event::Connected { id, .. } => (client, id),
        other => panic!("{other:?}"),
    }
}

async fn next(hub: &mut PipeHub) -> Event {
    within(hub.next()).await.expect("the hub has ended")
}

async fn received(client: &mut PipeConnection) -> Bytes {
    within(client.next()).await.unwrap().unwrap().freeze()
}

/// The reason for which this client left, after events that do not matter.
async fn left(hub: &mut PipeHub, client: ConnectionId) -> DisconnectReason {
    loop {
        match next(hub).await {
            Event::Disconnected { id, reason, .. } if id == client => return reason,
            Event::Sent { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Sends large messages until the queue is full, and says how many it took.
async fn fill(handle: &HubHandle, id: ConnectionId) -> usize {
    let mut sent = 0;
    let mut sending = Box::pin(async {
        loop {
            match handle.try_send(id, sample(LARGE, sent)) {
                Ok(()) => sent += 1,
                Err(Error::QueueFull { id: full, .. }) => assert_eq!(full, id),
                Err(error) => panic!("{error}"),
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(stays_pending(&mut sending).await);
    drop(sending);
    sent
}
