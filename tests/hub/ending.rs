//! Clients that leave or are disconnected, and the end of the hub.

use std::time::Duration;

use asyncipc::hub::{DisconnectReason, Event, Overflow};
use asyncipc::{Error, PipeClient, PipeServer};
use futures::{SinkExt, StreamExt};

use crate::common::{pair, sample, stays_pending, unique_name, within};
use crate::{LARGE, join, left, listening, next, received};

#[tokio::test]
async fn disconnecting_sends_what_waits_before_and_nothing_after() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let (mut client, id) = join(&mut hub, &name).await;
    let handle = hub.handle();
    // Neither has gone out when it is disconnected.
    handle.try_send(id, sample(LARGE, 0)).unwrap();
    handle.try_send(id, "goodbye".into()).unwrap();
    handle.disconnect(id).unwrap();
    let error = handle.try_send(id, "too late".into()).unwrap_err();
    assert!(matches!(error, Error::UnknownClient { id: it, .. } if it == id));
    let error = handle.disconnect(id).unwrap_err();
    assert!(
        matches!(error, Error::UnknownClient { id: it, .. } if it == id),
        "{error}"
    );
    assert_eq!(received(&mut client).await, sample(LARGE, 0));
    assert_eq!(received(&mut client).await, "goodbye");
    assert!(within(client.next()).await.is_none());
    for expected in [LARGE, 7] {
        let event = next(&mut hub).await;
        assert!(
            matches!(event, Event::Sent { len, .. } if len == expected),
            "{event:?}"
        );
    }
    let reason = left(&mut hub, id).await;
    assert!(matches!(reason, DisconnectReason::Disconnected), "{reason}");
    // The server goes on.
    join(&mut hub, &name).await;
}

#[tokio::test]
async fn what_a_client_says_before_it_leaves_is_received_although_it_cannot_be_sent_to() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let (mut client, id) = join(&mut hub, &name).await;
    client.send("goodbye".into()).await.unwrap();
    drop(client);
    // It may be known that it has left, or not yet.
    let _ = hub.handle().try_send(id, "stay".into());
    let message = loop {
        match next(&mut hub).await {
            Event::Received { message, .. } => break message,
            Event::Sent { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(message, "goodbye");
    let reason = left(&mut hub, id).await;
    assert!(matches!(reason, DisconnectReason::Left), "{reason}");
    let error = hub.handle().send(id, "gone".into()).await.unwrap_err();
    assert!(matches!(error, Error::UnknownClient { .. }), "{error}");
}

#[tokio::test]
async fn shutting_down_sends_what_waits_ends_every_client_and_then_the_stream() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let (mut one, _) = join(&mut hub, &name).await;
    let (mut two, _) = join(&mut hub, &name).await;
    let handle = hub.handle();
    handle.broadcast(sample(LARGE, 0)).unwrap();
    handle.broadcast("goodbye".into()).unwrap();
    handle.shutdown();
    let error = handle.broadcast("too late".into()).unwrap_err();
    assert!(matches!(error, Error::ShutDown { .. }), "{error}");
    for client in [&mut one, &mut two] {
        assert_eq!(received(client).await, sample(LARGE, 0));
        assert_eq!(received(client).await, "goodbye");
        assert!(within(client.next()).await.is_none());
    }
    let (mut sent, mut gone) = (0, 0);
    while let Some(event) = within(hub.next()).await {
        match event {
            Event::Sent { .. } => sent += 1,
            Event::Disconnected { reason, .. } => {
                assert!(matches!(reason, DisconnectReason::ShutDown), "{reason}");
                gone += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((sent, gone), (4, 2));
    let error = PipeClient::connect(&name).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn shutting_down_waits_for_a_client_that_does_not_read_until_the_drain_timeout() {
    let name = unique_name("drain");
    let server = PipeServer::builder(&name).drain_timeout(Duration::from_millis(20));
    let mut hub = server.bind().unwrap().into_hub();
    assert!(matches!(next(&mut hub).await, Event::Listening));
    let (_client, id) = join(&mut hub, &name).await;
    let handle = hub.handle();
    handle.send(id, sample(LARGE, 0)).await.unwrap();
    handle.shutdown();
    // No `Sent`: it was not.
    let event = next(&mut hub).await;
    assert!(
        matches!(
            event,
            Event::Disconnected {
                reason: DisconnectReason::ShutDown,
                ..
            }
        ),
        "{event:?}"
    );
    assert!(within(hub.next()).await.is_none());
}

#[tokio::test]
async fn the_servers_own_handle_shuts_the_hub_down() {
    let server = PipeServer::bind(unique_name("handle")).unwrap();
    let shutdown = server.shutdown_handle();
    let mut hub = server.into_hub();
    assert!(matches!(next(&mut hub).await, Event::Listening));
    shutdown.shutdown();
    assert!(within(hub.next()).await.is_none());
}

#[tokio::test]
async fn dropping_the_hub_ends_all_connections_at_once_and_leaves_no_task() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let (mut one, id) = join(&mut hub, &name).await;
    let (mut two, _) = join(&mut hub, &name).await;
    let handle = hub.handle();
    let tasks = tokio::runtime::Handle::current().metrics();
    assert!(tasks.num_alive_tasks() >= 3);
    // One on its way, and one that waits in the queue, for which nobody waits any more.
    handle.try_send(id, sample(LARGE, 0)).unwrap();
    handle.try_send(id, sample(LARGE, 1)).unwrap();
    assert!(stays_pending(&mut hub.next()).await);
    drop(hub);
    let mut messages = 0;
    while let Some(Ok(_)) = within(one.next()).await {
        messages += 1;
    }
    assert!(messages < 2);
    assert!(within(two.next()).await.is_none());
    within(async {
        while tasks.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(handle.clients().is_empty());
    let error = handle.send(id, "anybody?".into()).await.unwrap_err();
    assert!(matches!(error, Error::ShutDown { .. }), "{error}");
}

#[tokio::test]
async fn the_name_is_free_when_the_hub_was_dropped() {
    let name = unique_name("hub");
    for _ in 0..5 {
        let mut hub = PipeServer::bind(&name).unwrap().into_hub();
        assert!(matches!(next(&mut hub).await, Event::Listening));
        drop(hub);
    }
}

#[tokio::test]
async fn a_shutdown_handle_of_the_hub_shuts_it_down_and_knows_when_it_is() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let (mut client, id) = join(&mut hub, &name).await;
    let shutdown = hub.handle().shutdown_handle();
    let other = shutdown.clone();
    let mut requested = Box::pin(other.requested());
    assert!(stays_pending(&mut requested).await);
    assert!(!shutdown.is_shut_down());
    shutdown.shutdown();
    within(requested).await;
    assert!(other.is_shut_down());
    assert!(within(client.next()).await.is_none());
    let reason = left(&mut hub, id).await;
    assert!(matches!(reason, DisconnectReason::ShutDown), "{reason}");
    assert!(within(hub.next()).await.is_none());
}

#[tokio::test]
async fn the_hub_of_a_client_is_shut_down_when_it_has_ended_by_itself_or_was_dropped() {
    let (client, server) = pair().await;
    let mut hub = client.into_hub();
    let ended = hub.handle().shutdown_handle();
    assert!(!ended.is_shut_down());
    drop(server);
    while within(hub.next()).await.is_some() {}
    within(ended.requested()).await;
    assert!(ended.is_shut_down());

    let (client, _server) = pair().await;
    let hub = client.into_hub();
    let dropped = hub.handle().shutdown_handle();
    assert!(!dropped.is_shut_down());
    drop(hub);
    assert!(dropped.is_shut_down());
}
