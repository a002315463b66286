//! What a server has done, read from its hub.

use asyncipc::hub::{DisconnectReason, Event};
use asyncipc::{PipeServer, ServerStats};
use futures::SinkExt;

use crate::common::{pair, unique_name, within};
use crate::{join, left, next, received};

/// Clients so far, clients now, and the messages and bytes that were received and sent.
fn figures(stats: ServerStats) -> [u64; 6] {
    let traffic = stats.traffic;
    [
        stats.clients,
        stats.connected,
        traffic.messages_received,
        traffic.bytes_received,
        traffic.messages_sent,
        traffic.bytes_sent,
    ]
}

#[tokio::test]
async fn what_a_server_has_done_can_be_read_while_it_is_a_hub_and_afterwards() {
    let name = unique_name("stats");
    let server = PipeServer::bind(&name).unwrap();
    let stats = server.stats_handle();
    let mut hub = server.into_hub();
    let handle = hub.handle();
    assert!(matches!(next(&mut hub).await, Event::Listening));
    assert_eq!(figures(handle.stats()), [0; 6]);

    let (mut client, id) = join(&mut hub, &name).await;
    handle.send(id, "welcome".into()).await.unwrap();
    assert_eq!(received(&mut client).await, "welcome");
    client.send("hello".into()).await.unwrap();
    while !matches!(next(&mut hub).await, Event::Received { .. }) {}
    assert_eq!(figures(handle.stats()), [1, 1, 1, 5, 1, 7]);
    assert_eq!(stats.stats(), handle.stats());

    drop(client);
    let reason = left(&mut hub, id).await;
    assert!(matches!(reason, DisconnectReason::Left), "{reason}");
    assert_eq!(figures(handle.stats()), [1, 0, 1, 5, 1, 7]);
    drop(hub);
    assert_eq!(figures(handle.stats()), [1, 0, 1, 5, 1, 7]);
    assert_eq!(stats.stats(), handle.stats());
}

#[tokio::test]
async fn in_the_hub_of_a_client_the_server_counts_as_the_only_client() {
    let (client, mut server) = pair().await;
    let id = client.id();
    let mut hub = client.into_hub();
    let handle = hub.handle();
    assert_eq!(figures(handle.stats()), [1, 1, 0, 0, 0, 0]);
    handle.send(id, "hello".into()).await.unwrap();
    assert_eq!(received(&mut server).await, "hello");
    within(server.send("welcome".into())).await.unwrap();
    while !matches!(next(&mut hub).await, Event::Received { .. }) {}
    assert_eq!(figures(handle.stats()), [1, 1, 1, 7, 1, 5]);
    drop(server);
    left(&mut hub, id).await;
    assert_eq!(figures(handle.stats()), [1, 0, 1, 7, 1, 5]);
}
