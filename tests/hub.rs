//! All clients of a server in one object, as events and as callbacks.

mod common;

use std::time::Duration;

use asyncipc::{
    DisconnectReason, Error, Event, HubHandle, Overflow, Peer, PipeClient, PipeConnection,
    PipeDelegate, PipeHub, PipeServer,
};
use bytes::Bytes;
use common::{PATIENCE, pair, sample, stays_pending, unique_name, within};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;

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
async fn join(hub: &mut PipeHub, name: &str) -> (PipeConnection, u64) {
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
async fn left(hub: &mut PipeHub, client: u64) -> DisconnectReason {
    loop {
        match next(hub).await {
            Event::Disconnected { id, reason, .. } if id == client => return reason,
            Event::Sent { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Sends large messages until the queue is full, and says how many it took.
async fn fill(handle: &HubHandle, id: u64) -> usize {
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
async fn a_client_that_does_not_read_delays_nobody_and_a_broadcast_says_who_missed_it() {
    let (mut hub, name) = listening(2, Overflow::Wait).await;
    let (mut slow, slow_id) = join(&mut hub, &name).await;
    let (mut quick, quick_id) = join(&mut hub, &name).await;
    let handle = hub.handle();
    // Two in the queue, and one on its way.
    let sent = fill(&handle, slow_id).await;
    assert_eq!(sent, 3);
    for n in 0..10 {
        assert_eq!(handle.broadcast("news".into()).unwrap(), [slow_id]);
        assert_eq!(received(&mut quick).await, "news");
        quick.send(n.to_string().into()).await.unwrap();
        let mut told = [false; 2];
        while told != [true; 2] {
            match next(&mut hub).await {
                Event::Sent { id, .. } if id == quick_id => told[0] = true,
                Event::Received { id, message, .. } if id == quick_id => {
                    assert_eq!(message, n.to_string());
                    told[1] = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    for n in 0..sent {
        assert_eq!(received(&mut slow).await, sample(LARGE, n));
    }
}

#[tokio::test]
async fn sending_waits_for_room_and_goes_on_when_the_client_reads() {
    let (mut hub, name) = listening(2, Overflow::Wait).await;
    let (mut client, id) = join(&mut hub, &name).await;
    let handle = hub.handle();
    let sent = fill(&handle, id).await;
    let mut cancelled = Box::pin(handle.send(id, "cancelled".into()));
    assert!(stays_pending(&mut cancelled).await);
    drop(cancelled);
    // Nobody reads the events here, and it goes on all the same.
    let sending = handle.send(id, "last".into());
    let reading = async {
        for n in 0..sent {
            assert_eq!(received(&mut client).await, sample(LARGE, n));
        }
        assert_eq!(received(&mut client).await, "last");
    };
    let (result, ()) = within(async { tokio::join!(sending, reading) }).await;
    result.unwrap();
}

#[tokio::test]
async fn with_the_other_policy_a_client_whose_queue_is_full_is_put_out_and_others_stay() {
    let (mut hub, name) = listening(2, Overflow::Disconnect).await;
    let (_slow, slow_id) = join(&mut hub, &name).await;
    let (mut quick, quick_id) = join(&mut hub, &name).await;
    let handle = hub.handle();
    let error = loop {
        if let Err(error) = within(handle.send(slow_id, sample(LARGE, 0))).await {
            break error;
        }
    };
    assert!(matches!(error, Error::QueueFull { id, .. } if id == slow_id));
    assert_eq!(handle.clients(), [quick_id]);
    let reason = left(&mut hub, slow_id).await;
    assert!(matches!(reason, DisconnectReason::Overflow), "{reason}");
    handle.send(quick_id, "you stay".into()).await.unwrap();
    assert_eq!(received(&mut quick).await, "you stay");
}

#[tokio::test]
async fn a_broadcast_puts_out_those_whose_queue_is_full_with_the_other_policy() {
    let (mut hub, name) = listening(1, Overflow::Disconnect).await;
    let (_slow, id) = join(&mut hub, &name).await;
    let handle = hub.handle();
    let full = loop {
        let full = handle.broadcast(sample(LARGE, 0)).unwrap();
        if !full.is_empty() {
            break full;
        }
    };
    assert_eq!(full, [id]);
    let reason = left(&mut hub, id).await;
    assert!(matches!(reason, DisconnectReason::Overflow), "{reason}");
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
async fn a_client_that_breaks_the_rules_fails_with_the_rule() {
    let name = unique_name("rules");
    let server = PipeServer::builder(&name).max_message_size(100);
    let mut hub = server.bind().unwrap().into_hub();
    assert!(matches!(next(&mut hub).await, Event::Listening));
    let (mut client, id) = join(&mut hub, &name).await;
    // What it does after that is of no interest.
    let _ = client.send(sample(101, 0)).await;
    let reason = left(&mut hub, id).await;
    assert!(
        matches!(
            reason,
            DisconnectReason::Failed(Error::MessageTooLarge { size: 101, .. })
        ),
        "{reason}"
    );
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_and_others_go_on() {
    let name = unique_name("limit");
    let server = PipeServer::builder(&name).max_message_size(100);
    let mut hub = server.bind().unwrap().into_hub();
    assert!(matches!(next(&mut hub).await, Event::Listening));
    let (mut client, id) = join(&mut hub, &name).await;
    let handle = hub.handle();
    let errors = [
        handle.send(id, sample(101, 0)).await.unwrap_err(),
        handle.try_send(id, sample(101, 0)).unwrap_err(),
        handle.broadcast(sample(101, 0)).unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(error, Error::MessageTooLarge { size: 101, .. }),
            "{error}"
        );
    }
    handle.send(id, "short".into()).await.unwrap();
    assert_eq!(received(&mut client).await, "short");
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
async fn a_message_above_the_limit_is_refused_although_nobody_is_there() {
    let hub = PipeServer::builder(unique_name("hub")).max_message_size(3);
    let hub = hub.bind().unwrap().into_hub();
    let error = hub.handle().broadcast("four".into()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::MessageTooLarge {
                size: 4,
                max: 3,
                ..
            }
        ),
        "{error}"
    );
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

/// Writes down what is called.
struct Diary {
    calls: Vec<String>,
    greeting: &'static str,
    /// Says when a message has come.
    heard: mpsc::UnboundedSender<HubHandle>,
}

impl Diary {
    fn new(greeting: &'static str) -> (Self, mpsc::UnboundedReceiver<HubHandle>) {
        let (heard, hears) = mpsc::unbounded_channel();
        let calls = Vec::new();
        (
            Diary {
                calls,
                greeting,
                heard,
            },
            hears,
        )
    }
}

impl PipeDelegate for Diary {
    fn on_create(&mut self, _hub: &HubHandle) {
        self.calls.push("create".into());
    }

    fn on_connected(&mut self, hub: &HubHandle, id: u64, _peer: Peer) {
        self.calls.push("connected".into());
        hub.try_send(id, self.greeting.into()).unwrap();
    }

    fn on_send(&mut self, _hub: &HubHandle, _id: u64, messages: usize, len: usize) {
        self.calls.push(format!("sent {messages} {len}"));
    }

    fn on_recv(&mut self, hub: &HubHandle, _id: u64, message: Bytes) {
        self.calls.push(format!("received {message:?}"));
        self.heard.send(hub.clone()).unwrap();
    }

    fn on_disconnected(&mut self, hub: &HubHandle, _id: u64, reason: DisconnectReason) {
        self.calls.push(format!("disconnected: {reason}"));
        hub.shutdown();
    }
}

#[tokio::test]
async fn a_server_and_a_client_call_their_delegates_with_every_event_in_order() {
    let name = unique_name("delegate");
    let server = PipeServer::bind(&name).unwrap().into_hub();
    let client = within(PipeClient::connect(&name)).await.unwrap().into_hub();
    let (servers, mut server_hears) = Diary::new("from the server");
    let (clients, mut client_hears) = Diary::new("hello");
    let conversation = async {
        tokio::join!(server.run(servers), client.run(clients), async {
            server_hears.recv().await.unwrap();
            client_hears.recv().await.unwrap().shutdown();
        })
    };
    let (server, client, ()) = within(conversation).await;
    for (mut calls, sent, received, gone) in [
        (server.calls, 15, "received b\"hello\"", "it left"),
        (
            client.calls,
            5,
            "received b\"from the server\"",
            "the hub was shut down",
        ),
    ] {
        // Which of these two comes first is up to the other side.
        calls[2..4].sort_unstable();
        assert_eq!(
            calls,
            [
                "create".into(),
                "connected".into(),
                received.to_string(),
                format!("sent 1 {sent}"),
                format!("disconnected: {gone}"),
            ]
        );
    }
}

#[tokio::test]
async fn a_delegate_needs_no_callback_at_all() {
    struct Silent;
    impl PipeDelegate for Silent {}
    let (client, mut server) = pair().await;
    let id = client.id();
    let hub = client.into_hub();
    hub.handle().try_send(id, "hello".into()).unwrap();
    let running = tokio::spawn(hub.run(Silent));
    assert_eq!(received(&mut server).await, "hello");
    server.send("nobody hears".into()).await.unwrap();
    server.close().await.unwrap();
    within(running).await.unwrap();
}
