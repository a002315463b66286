//! Queues, and what becomes of messages while the other program is not there or does not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use asyncipc::PipeServer;
use asyncipc::endpoint::{EndpointError, Event};
use futures::StreamExt;
use serde_json::json;

use super::{LARGE, Raw, SOON, bind, collecting, event, heard, patient, undelivered_until_closed};
use crate::common::{stays_pending, unique_name, within};

#[tokio::test]
async fn what_is_sent_before_the_other_side_is_there_is_delivered_in_order_once_it_is() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("early-{it}")));
    let from = bind(patient(&a)).await;
    for n in 0..50 {
        from.handle().try_send(&b, "count", n).unwrap();
    }
    let handle = from.handle();
    let mut request = Box::pin(handle.request(&b, "last", ()));
    assert!(stays_pending(&mut request).await);
    let (to, mut hears) = collecting(&b, "count").await;
    to.handle().on("last", async |_| Ok("replied"));
    for n in 0..50 {
        assert_eq!(heard(&mut hears).await, n);
    }
    // Its handler may have been set after it came.
    match within(request).await {
        Ok(reply) => assert_eq!(reply, "replied"),
        Err(error) => assert!(matches!(error, EndpointError::Refused { .. }), "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_comes_twice_when_the_other_side_is_started_again() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("restart-{it}")));
    let from = bind(patient(&a)).await;
    let handle = from.handle();
    let messages = 3000;
    let to = b.clone();
    let sending = tokio::spawn(async move {
        for n in 0..messages {
            handle.send(&to, "count", n).await.unwrap();
        }
    });
    let mut next = 0;
    for stop_at in [100, 1000, 1001, 2000, messages] {
        let (mut endpoint, mut hears) = collecting(&b, "count").await;
        while next < stop_at {
            assert_eq!(heard(&mut hears).await, next);
            next += 1;
        }
        endpoint.handle().shutdown();
        assert!(undelivered_until_closed(&mut endpoint).await.is_empty());
        drop(endpoint);
        // The handlers are gone, so nothing comes but what they had sent before the end.
        while let Some(message) = within(hears.recv()).await {
            assert_eq!(message.data, next);
            next += 1;
        }
        if next == messages {
            break;
        }
    }
    assert_eq!(next, messages);
    within(sending).await.unwrap();
    let mut from = from;
    assert!(stays_pending(&mut from.next()).await);
}

#[tokio::test]
async fn a_queue_is_bounded_and_whoever_finds_it_full_is_told() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("full-{it}")));
    let from = bind(patient(&a).queue(3)).await;
    let handle = from.handle();
    let mut sent = 0;
    // Three wait, and one was taken out of the queue.
    let error = loop {
        match handle.try_send(&b, "count", sent) {
            Ok(()) => sent += 1,
            Err(_) if sent < 4 => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(sent, 4);
    assert!(
        matches!(&error, EndpointError::QueueFull { to, messages: 3, .. } if *to == b),
        "{error}"
    );
    // Other programs have queues of their own.
    handle.try_send(&a, "count", 0).unwrap();

    let mut cancelled = Box::pin(handle.send(&b, "count", "cancelled"));
    assert!(stays_pending(&mut cancelled).await);
    drop(cancelled);
    let mut waiting = Box::pin(handle.send(&b, "count", sent));
    assert!(stays_pending(&mut waiting).await);
    let (_to, mut hears) = collecting(&b, "count").await;
    within(waiting).await.unwrap();
    for n in 0..=sent {
        assert_eq!(heard(&mut hears).await, n);
    }
}

#[tokio::test]
async fn everyone_who_waits_for_room_gets_it_in_turn() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("turns-{it}")));
    let _other = tokio::spawn(bind(patient(&b).on("count", async |_| Ok(()))).await.run());
    let endpoint = bind(patient(&a).queue(2)).await;
    let served = Arc::new(AtomicUsize::new(0));
    let senders = (0..8).map(|_| {
        let (handle, b, served) = (endpoint.handle(), b.clone(), served.clone());
        tokio::spawn(async move {
            // A sender that had its turns goes on until all have had theirs.
            for sent in 1.. {
                handle.send(&b, "count", ()).await.unwrap();
                if sent == 20 {
                    served.fetch_add(1, Ordering::Relaxed);
                }
                if served.load(Ordering::Relaxed) == 8 {
                    break;
                }
            }
        })
    });
    let sent = futures::future::join_all(senders.collect::<Vec<_>>());
    for sender in within(sent).await {
        sender.unwrap();
    }
}

#[tokio::test]
async fn sending_does_not_wait_for_room_for_ever() {
    let [a, nobody] = ["a", "nobody"].map(|it| unique_name(&format!("room-{it}")));
    let from = bind(patient(&a).queue(1).give_up_after(SOON)).await;
    let handle = from.handle();
    // Nobody reads the events here, so what is given up stays when there are many of them.
    let sending = async {
        loop {
            if let Err(error) = handle.send(&nobody, "count", ()).await {
                break error;
            }
        }
    };
    let error = within(sending).await;
    assert!(
        matches!(error, EndpointError::QueueFull { messages: 1, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn what_cannot_be_delivered_comes_back_in_order_with_the_reason() {
    let [a, nobody] = ["a", "nobody"].map(|it| unique_name(&format!("give-up-{it}")));
    let mut from = bind(patient(&a).give_up_after(SOON)).await;
    let handle = from.handle();
    for n in 0..10 {
        handle.send(&nobody, "count", [n]).await.unwrap();
    }
    for n in 0..10 {
        match event(&mut from).await {
            Event::Undelivered {
                to,
                envelope,
                error,
                ..
            } => {
                assert_eq!(to, nobody);
                assert_eq!((envelope.action.as_str(), &envelope.from), ("count", &a));
                assert_eq!(envelope.data, json!([n]));
                assert!(
                    matches!(&error, EndpointError::Undelivered { waited, .. } if *waited >= SOON),
                    "{error:?}"
                );
                // On a busy machine, there may have been no attempt so soon.
                let text = error.to_string();
                let reasons = ["no server listens on", "its turn did not come"];
                assert!(reasons.iter().any(|it| text.contains(it)), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    let error = within(handle.request(&nobody, "count", 0)).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, EndpointError::Undelivered { .. }),
        "{error:?}"
    );
    // The requester got the error, and there is no event.
    assert!(stays_pending(&mut from.next()).await);
}

#[tokio::test]
async fn a_program_that_does_not_read_gets_the_message_later_or_its_sender_gets_it_back() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("stuck-{it}")));
    let mut server = PipeServer::bind(&b).unwrap();
    let mut from = bind(patient(&a).give_up_after(20 * SOON)).await;
    let large = "x".repeat(LARGE);
    from.handle().send(&b, "large", &large).await.unwrap();
    let _stuck = within(server.accept()).await.unwrap();
    match event(&mut from).await {
        Event::Undelivered {
            envelope, error, ..
        } => {
            assert!(envelope.data == large);
            assert!(error.to_string().contains("it does not read"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // The next message does not follow half of this one.
    from.handle().send(&b, "small", ()).await.unwrap();
    let mut reads = Raw::accept(&mut server).await;
    assert_eq!(reads.hears().await["action"], "small");
}

#[tokio::test]
async fn an_idle_endpoint_notices_that_the_other_side_has_left_and_keeps_nothing_for_it() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("idle-{it}")));
    let from = bind(patient(&a)).await;
    // Before the count: on Windows, listening has a task of its own.
    let mut server = PipeServer::bind(&b).unwrap();
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    from.handle().send(&b, "hello", ()).await.unwrap();
    let mut to = Raw::accept(&mut server).await;
    assert_eq!(to.hears().await["action"], "hello");
    assert!(tasks.num_alive_tasks() > before);
    drop(to);
    within(async {
        while tasks.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    from.handle().send(&b, "again", ()).await.unwrap();
    let mut to = Raw::accept(&mut server).await;
    assert_eq!(to.hears().await["action"], "again");
}
