//! Two ends that close or send at the same time do not wait for each other.

use asyncipc::hub::{DisconnectReason, Event};
use asyncipc::{Error, PipeConnection};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::LARGE;
use crate::common::{HOLDS, byte_pair, pair_of, pairs, sample, stays_pending, transports, within};

#[tokio::test]
async fn two_ends_that_close_at_once_with_messages_unread_both_succeed() {
    for size in [1, HOLDS] {
        for (transport, mut ours, mut theirs) in pairs("at-once").await {
            ours.send(sample(size, 0)).await.unwrap();
            theirs.send(sample(size, 1)).await.unwrap();
            let (ours, theirs) = within(async { tokio::join!(ours.close(), theirs.close()) }).await;
            assert!(
                ours.is_ok() && theirs.is_ok(),
                "{transport}, {size}: {ours:?}, {theirs:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ends_that_close_in_two_threads_both_succeed() {
    for _ in 0..50 {
        for (transport, mut ours, mut theirs) in pairs("threads").await {
            ours.send("unread".into()).await.unwrap();
            theirs.send("unread too".into()).await.unwrap();
            let there = tokio::spawn(theirs.close());
            let ours = within(ours.close()).await;
            let theirs = within(there).await.unwrap();
            assert!(
                ours.is_ok() && theirs.is_ok(),
                "{transport}: {ours:?}, {theirs:?}"
            );
        }
    }
}

#[tokio::test]
async fn two_streams_of_bytes_that_close_at_once_both_succeed() {
    for (transport, ours, theirs) in pairs("streams").await {
        if transport == "messages" {
            continue;
        }
        let mut ours = ours.into_stream().await.unwrap();
        let mut theirs = theirs.into_stream().await.unwrap();
        ours.write_all(&sample(HOLDS, 0)).await.unwrap();
        theirs.write_all(&sample(HOLDS, 1)).await.unwrap();
        let (ours, theirs) = within(async { tokio::join!(ours.close(), theirs.close()) }).await;
        assert!(
            ours.is_ok() && theirs.is_ok(),
            "{transport}: {ours:?}, {theirs:?}"
        );
    }
}

#[tokio::test]
async fn two_ends_that_close_with_more_than_the_pipe_holds_do_not_wait_for_each_other() {
    for (transport, mut ours, mut theirs) in pairs("more").await {
        ours.feed(sample(LARGE, 0)).await.unwrap();
        theirs.feed(sample(LARGE, 1)).await.unwrap();
        let (ours, theirs) = within(async { tokio::join!(ours.close(), theirs.close()) }).await;
        // The first to be done leaves, perhaps before it has everything of the other.
        let said = format!("{transport}: {ours:?}, {theirs:?}");
        assert!(ours.is_ok() || theirs.is_ok(), "{said}");
        for closed in [ours, theirs] {
            assert!(
                matches!(closed, Ok(()) | Err(Error::Closed { .. })),
                "{said}"
            );
        }
    }
}

/// Sends much before it reads anything, as a peer may that does not know that we are closing.
async fn send_first_and_then_read(mut theirs: PipeConnection) -> BytesMut {
    for n in 0..4 {
        theirs.send(sample(LARGE, n)).await.unwrap();
    }
    theirs.next().await.unwrap().unwrap()
}

#[cfg(any(windows, target_os = "linux"))] // Others do not wait for it.
#[tokio::test]
async fn a_closing_end_does_not_hold_up_a_peer_that_is_still_sending() {
    for fed in [false, true] {
        for (transport, mut ours, theirs) in pairs("sending").await {
            // What was fed is more than the pipe holds: then closing has to write first.
            let last = sample(if fed { LARGE } else { HOLDS }, 9);
            match fed {
                true => ours.feed(last.clone()).await.unwrap(),
                false => ours.send(last.clone()).await.unwrap(),
            }
            let there = send_first_and_then_read(theirs);
            let (closed, read) = within(async { tokio::join!(ours.close(), there) }).await;
            assert!(closed.is_ok(), "{transport}: {closed:?}");
            assert!(read == last, "{transport}");
        }
    }
}

#[cfg(any(windows, target_os = "linux"))] // Others do not wait for it.
#[tokio::test]
async fn a_closing_stream_of_bytes_does_not_hold_up_a_peer_that_is_still_sending() {
    for swap in [false, true] {
        let (mut ours, mut theirs) = byte_pair().await;
        if swap {
            std::mem::swap(&mut ours, &mut theirs);
        }
        ours.write_all(&sample(HOLDS, 0)).await.unwrap();
        let there = async {
            theirs.write_all(&sample(LARGE, 1)).await.unwrap();
            let mut read = vec![0; HOLDS];
            theirs.read_exact(&mut read).await.unwrap();
            read
        };
        let (closed, read) = within(async { tokio::join!(ours.close(), there) }).await;
        closed.unwrap();
        assert!(read == sample(HOLDS, 0));
    }
}

#[cfg(any(windows, target_os = "linux"))] // Others do not wait for it.
#[tokio::test]
async fn from_when_the_receiver_is_dropped_a_closing_sender_holds_up_nobody() {
    for shared in [false, true] {
        for (transport, ours, theirs) in pairs("meanwhile").await {
            let (mut sender, receiver) = ours.split();
            let last = sample(HOLDS, 9);
            let mut closing = if shared {
                let sender = sender.into_shared();
                sender.send(last.clone()).await.unwrap();
                async move { sender.close().await }.boxed()
            } else {
                sender.send(last.clone()).await.unwrap();
                sender.close().boxed()
            };
            let mut there = Box::pin(send_first_and_then_read(theirs));
            let both = async { tokio::join!(&mut closing, &mut there) };
            assert!(stays_pending(&mut Box::pin(both)).await, "{transport}");
            drop(receiver);
            let (closed, read) = within(async { tokio::join!(closing, there) }).await;
            assert!(closed.is_ok(), "{transport}, {shared}: {closed:?}");
            assert!(read == last, "{transport}");
        }
    }
}

#[cfg(any(windows, target_os = "linux"))] // Others do not wait for it.
#[tokio::test]
async fn nothing_is_thrown_away_as_long_as_there_is_a_receiver() {
    for (transport, ours, mut theirs) in pairs("kept").await {
        let (mut sender, mut receiver) = ours.split();
        sender.send(sample(HOLDS, 0)).await.unwrap();
        for n in 0..3 {
            theirs.send(sample(1000, n)).await.unwrap();
        }
        let mut closing = Box::pin(sender.close());
        assert!(stays_pending(&mut closing).await, "{transport}");
        for n in 0..3 {
            let message = within(receiver.next()).await.unwrap().unwrap();
            assert!(message == sample(1000, n), "{transport}");
        }
        let (closed, read) = within(async { tokio::join!(closing, theirs.next()) }).await;
        assert!(closed.is_ok(), "{transport}: {closed:?}");
        assert!(read.unwrap().unwrap() == sample(HOLDS, 0), "{transport}");

        // Nor does closing as a sink, after which the connection is still there.
        let mut ours = receiver;
        theirs.send("still read".into()).await.unwrap();
        assert_eq!(within(ours.next()).await.unwrap().unwrap(), "still read");
    }
    for (transport, mut ours, mut theirs) in pairs("kept-sink").await {
        ours.send(sample(HOLDS, 0)).await.unwrap();
        theirs.send("kept".into()).await.unwrap();
        {
            let mut closing = Box::pin(SinkExt::<Bytes>::close(&mut ours));
            assert!(stays_pending(&mut closing).await, "{transport}");
        }
        assert_eq!(within(ours.next()).await.unwrap().unwrap(), "kept");
    }
}

#[cfg(any(windows, target_os = "linux"))] // Others do not wait for it.
#[tokio::test]
async fn an_end_that_cannot_receive_any_more_holds_up_nobody_while_it_closes() {
    for (transport, server, client) in transports("failed") {
        let (mut ours, theirs) = pair_of(&server, &client.max_message_size(LARGE / 2)).await;
        let there = tokio::spawn(send_first_and_then_read(theirs));
        let error = within(ours.next()).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::MessageTooLarge { .. }), "{error}");
        ours.send(sample(HOLDS, 9)).await.unwrap();
        // As a sink: the connection is kept.
        let closed = within(SinkExt::<Bytes>::close(&mut ours)).await;
        assert!(closed.is_ok(), "{transport}: {closed:?}");
        let read = within(there).await.unwrap();
        assert!(read == sample(HOLDS, 9), "{transport}");
    }
}

#[tokio::test]
async fn nothing_is_thrown_away_before_closing_although_the_receiver_is_gone() {
    for (transport, ours, theirs) in pairs("one-way").await {
        let (mut sender, receiver) = ours.split();
        drop(receiver);
        let (mut their_sender, mut their_receiver) = theirs.split();
        let mut there = Box::pin(their_sender.send(sample(LARGE, 0)));
        for n in 0..100 {
            sender.send(sample(100, n)).await.unwrap();
            let received = within(their_receiver.next()).await.unwrap().unwrap();
            assert!(received == sample(100, n), "{transport}");
        }
        assert!(stays_pending(&mut there).await, "{transport}");
        let sender = sender.into_shared();
        for n in 0..100 {
            sender.send(sample(100, n)).await.unwrap();
            sender.flush().await.unwrap();
            let received = within(their_receiver.next()).await.unwrap().unwrap();
            assert!(received == sample(100, n), "{transport}");
        }
        assert!(stays_pending(&mut there).await, "{transport}");
    }
}

#[cfg(any(windows, target_os = "linux"))] // Others do not wait for it.
#[tokio::test]
async fn a_hub_that_drains_does_not_hold_up_a_client_that_is_still_sending() {
    for (transport, server, client) in transports("hub") {
        let mut hub = server.bind().unwrap().into_hub();
        let handle = hub.handle();
        let serving = async {
            let mut reason = None;
            while let Some(event) = hub.next().await {
                match event {
                    Event::Connected { id, .. } => {
                        // In the queue, and more than the pipe holds.
                        handle.send(id, sample(LARGE, 9)).await.unwrap();
                        handle.shutdown();
                    }
                    Event::Disconnected { reason: it, .. } => reason = Some(it),
                    _ => {}
                }
            }
            reason
        };
        let there = async { send_first_and_then_read(client.connect().await.unwrap()).await };
        let (reason, read) = within(async { tokio::join!(serving, there) }).await;
        assert!(
            matches!(reason, Some(DisconnectReason::ShutDown)),
            "{transport}: {reason:?}"
        );
        assert!(read == sample(LARGE, 9), "{transport}");
    }
}
