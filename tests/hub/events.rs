//! What happens to the clients, and in which order the application hears of it.

use std::time::Duration;

use asyncipc::PipeClient;
use asyncipc::hub::{DisconnectReason, Event, Overflow};
use futures::{SinkExt, StreamExt};

use crate::common::{pair, sample, stays_pending, within};
use crate::{LARGE, join, left, listening, next, received};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connected_comes_first_then_the_messages_in_order_and_disconnected_last() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let clients = 8;
    let messages = 200;
    for _ in 0..clients {
        let name = name.clone();
        tokio::spawn(async move {
            let mut client = PipeClient::connect(name).await.unwrap();
            for n in 0..messages {
                client.send(n.to_string().into()).await.unwrap();
            }
            client.close().await.unwrap();
        });
    }
    let mut expected = std::collections::HashMap::new();
    let mut gone = 0;
    while gone < clients {
        match next(&mut hub).await {
            Event::Connected { id, .. } => assert_eq!(expected.insert(id, 0), None),
            Event::Received { id, message, .. } => {
                let n = expected.get_mut(&id).unwrap();
                assert_eq!(message, n.to_string());
                *n += 1;
            }
            Event::Disconnected { id, reason, .. } => {
                assert_eq!(expected.remove(&id), Some(messages));
                assert!(matches!(reason, DisconnectReason::Left), "{reason}");
                gone += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(hub.handle().clients().is_empty());
}

#[tokio::test]
async fn a_message_reaches_the_client_that_it_is_for_and_each_is_told_as_sent() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let (mut one, first) = join(&mut hub, &name).await;
    let (mut two, second) = join(&mut hub, &name).await;
    let handle = hub.handle();
    assert_eq!(handle.clients(), [first, second]);
    handle.send(second, "two".into()).await.unwrap();
    handle.try_send(second, "three".into()).unwrap();
    handle.send(first, "first".into()).await.unwrap();
    assert_eq!(received(&mut two).await, "two");
    assert_eq!(received(&mut two).await, "three");
    assert_eq!(received(&mut one).await, "first");
    let mut lengths = [vec![], vec![]];
    for _ in 0..3 {
        match next(&mut hub).await {
            Event::Sent {
                id,
                messages: 1,
                len,
                ..
            } => lengths[usize::from(id == second)].push(len),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lengths, [vec![5], vec![3, 5]]);
}

#[tokio::test]
async fn a_broadcast_reaches_everybody() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(join(&mut hub, &name).await.0);
    }
    assert!(hub.handle().broadcast("news".into()).unwrap().is_empty());
    for client in &mut clients {
        assert_eq!(received(client).await, "news");
    }
}

#[tokio::test]
async fn sent_is_told_when_the_system_has_taken_the_message_and_not_before() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let (mut client, id) = join(&mut hub, &name).await;
    hub.handle().send(id, sample(LARGE, 0)).await.unwrap();
    assert!(stays_pending(&mut hub.next()).await);
    assert_eq!(received(&mut client).await, sample(LARGE, 0));
    let event = next(&mut hub).await;
    assert!(matches!(event, Event::Sent { len: LARGE, .. }), "{event:?}");
}

#[tokio::test]
async fn messages_that_were_sent_while_nobody_read_the_events_are_told_together() {
    let (mut hub, name) = listening(4, Overflow::Wait).await;
    let (mut client, id) = join(&mut hub, &name).await;
    let handle = hub.handle();
    let count = 2000;
    let sending = async {
        for n in 0..count {
            handle.send(id, sample(n % 100, n)).await.unwrap();
        }
    };
    let reading = async {
        for n in 0..count {
            assert_eq!(received(&mut client).await, sample(n % 100, n));
        }
    };
    within(async { tokio::join!(sending, reading) }).await;
    let (mut told, mut bytes, mut events) = (0, 0, 0);
    while told < count {
        match next(&mut hub).await {
            Event::Sent { messages, len, .. } => {
                told += messages;
                bytes += len;
                events += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, count);
    assert_eq!(bytes, (0..count).map(|n| n % 100).sum::<usize>());
    assert!(events < 200, "{events}");
}

#[tokio::test]
async fn an_application_that_does_not_read_the_events_holds_the_clients_back() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let (client, id) = join(&mut hub, &name).await;
    let (mut sender, _receiver) = client.split();
    let message = sample(10_000, 0);
    let mut sent = 0;
    let mut sending = Box::pin(async {
        loop {
            sender.send(message.clone()).await.unwrap();
            sent += 1;
        }
    });
    assert!(stays_pending(&mut sending).await);
    drop(sending);
    assert!((1..1000).contains(&sent), "{sent}");
    let reading = async {
        for _ in 0..sent {
            match next(&mut hub).await {
                Event::Received {
                    id: from,
                    message: received,
                    ..
                } => assert_eq!((from, received), (id, message.clone())),
                other => panic!("{other:?}"),
            }
        }
    };
    // The rest of the one that had to wait.
    let flushing = sender.flush();
    let (flushed, ()) = within(async { tokio::join!(flushing, reading) }).await;
    flushed.unwrap();
}

#[tokio::test]
async fn nobody_is_let_in_while_the_events_are_not_read() {
    let (mut hub, name) = listening(64, Overflow::Wait).await;
    let all = 200;
    let mut connecting = tokio::task::JoinSet::new();
    for _ in 0..all {
        let client = PipeClient::builder(&name).timeout(Duration::MAX);
        connecting.spawn(client.connect());
    }
    assert!(stays_pending(&mut futures::future::pending::<()>()).await);
    let let_in = hub.handle().clients().len();
    assert!((1..all).contains(&let_in), "{let_in}");
    for _ in 0..all {
        let event = next(&mut hub).await;
        assert!(matches!(event, Event::Connected { .. }), "{event:?}");
        // Those that were waiting come in.
        tokio::task::yield_now().await;
    }
    for client in within(connecting.join_all()).await {
        client.unwrap();
    }
}

#[tokio::test]
async fn a_client_has_the_same_events() {
    let (client, mut server) = pair().await;
    let id = client.id();
    let mut hub = client.into_hub();
    let handle = hub.handle();
    // At once, before any event.
    handle.send(id, "hello".into()).await.unwrap();
    let event = next(&mut hub).await;
    assert!(
        matches!(event, Event::Connected { id: it, .. } if it == id),
        "{event:?}"
    );
    let event = next(&mut hub).await;
    assert!(matches!(event, Event::Sent { len: 5, .. }), "{event:?}");
    assert_eq!(received(&mut server).await, "hello");
    server.send("welcome".into()).await.unwrap();
    drop(server);
    match next(&mut hub).await {
        Event::Received { message, .. } => assert_eq!(message, "welcome"),
        other => panic!("{other:?}"),
    }
    let reason = left(&mut hub, id).await;
    assert!(matches!(reason, DisconnectReason::Left), "{reason}");
    assert!(within(hub.next()).await.is_none());
}
