//! Clients that do not read, and what becomes of the messages for them.

use asyncipc::hub::{DisconnectReason, Event, Overflow};
use asyncipc::{Error, PipeHub};
use futures::SinkExt;

use crate::common::{pair, sample, stays_pending, within};
use crate::{LARGE, fill, join, left, listening, next, received};

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
async fn one_builder_makes_any_number_of_hubs() {
    let builder = PipeHub::builder().queue(1);
    for _ in 0..2 {
        let (client, _server) = pair().await;
        let id = client.id();
        let hub = builder.connected(client);
        // One in the queue, and one on its way.
        assert_eq!(fill(&hub.handle(), id).await, 2);
    }
}
