//! How a connection ends, and what still arrives when it does.
#![cfg_attr(
    not(any(windows, target_os = "linux")),
    allow(
        dead_code,
        unused_imports,
        reason = "elsewhere many tests are left out"
    )
)]

mod common;

use std::time::Duration;

use asyncipc::{
    DisconnectReason, Error, Event, MessageCodec, PipeClient, PipeConnection, PipeServer,
};
use bytes::{Bytes, BytesMut};
use common::{
    HOLDS, Log, PATIENCE, byte_pair, pair, pair_of, pairs, sample, stays_pending, transports,
    unique_name, within,
};
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Far more than a pipe holds.
const LARGE: usize = 1 << 20;

/// Everything until the clean end.
async fn collect(
    mut conn: impl StreamExt<Item = Result<bytes::BytesMut, Error>> + Unpin,
) -> Vec<Bytes> {
    let mut messages = vec![];
    while let Some(message) = within(conn.next()).await {
        messages.push(message.unwrap().freeze());
    }
    messages
}

/// A connection both ways around: first the client is the one that ends it, then the server.
async fn both_ways() -> [(PipeConnection, PipeConnection); 2] {
    let (client, server) = pair().await;
    let (other_client, other_server) = pair().await;
    [(client, server), (other_server, other_client)]
}

#[tokio::test]
async fn closing_or_dropping_one_end_is_a_clean_end_at_the_other() {
    for (ours, mut theirs) in both_ways().await {
        within(ours.close()).await.unwrap();
        assert!(within(theirs.next()).await.is_none());
    }
    for (ours, mut theirs) in both_ways().await {
        drop(ours);
        assert!(within(theirs.next()).await.is_none());
    }
}

#[tokio::test]
async fn the_last_messages_before_a_close_arrive() {
    for round in 0..100 {
        for (mut ours, theirs) in both_ways().await {
            let last = [sample(10, round), sample(0, 0), sample(HOLDS, round)];
            let sending = async {
                for message in &last[..2] {
                    ours.send(message.clone()).await.unwrap();
                }
                // Closing flushes what was fed.
                ours.feed(last[2].clone()).await.unwrap();
                ours.close().await.unwrap();
            };
            let (received, ()) = within(async { tokio::join!(collect(theirs), sending) }).await;
            assert!(received == last, "round {round}");
        }
    }
}

#[tokio::test]
async fn the_last_messages_before_a_drop_arrive() {
    for round in 0..150 {
        for (mut ours, theirs) in both_ways().await {
            let last = [sample(10, round), sample(0, 0), sample(HOLDS, round)];
            for message in &last {
                within(ours.send(message.clone())).await.unwrap();
            }
            drop(ours);
            // Read only when the sender is gone.
            assert!(collect(theirs).await == last, "round {round}");
        }
    }
}

#[tokio::test]
async fn a_last_message_larger_than_the_pipe_arrives() {
    for round in 0..20 {
        for close in [true, false] {
            for (mut ours, theirs) in both_ways().await {
                let message = sample(LARGE, round);
                let sending = async {
                    ours.send(message.clone()).await.unwrap();
                    if close {
                        ours.close().await.unwrap();
                    }
                };
                let (received, ()) = within(async { tokio::join!(collect(theirs), sending) }).await;
                assert!(received == [message], "round {round}, close: {close}");
            }
        }
    }
}

#[tokio::test]
async fn last_words_arrive_even_if_the_peers_own_words_were_not_read() {
    for close in [true, false] {
        for (mut ours, mut theirs) in both_ways().await {
            theirs.send("never read".into()).await.unwrap();
            ours.send("last words".into()).await.unwrap();
            if close {
                let (closed, received) =
                    within(async { tokio::join!(ours.close(), collect(theirs)) }).await;
                closed.unwrap();
                assert_eq!(received, ["last words"]);
            } else {
                drop(ours);
                assert_eq!(collect(theirs).await, ["last words"]);
            }
        }
    }
}

#[cfg(any(windows, target_os = "linux"))] // Others do not tell what the peer has read.
#[tokio::test]
async fn close_waits_until_the_peer_has_read_everything() {
    for size in [HOLDS, LARGE] {
        let (client, server) = byte_pair().await;
        for (ours, mut theirs) in [(client, server), {
            let (client, server) = byte_pair().await;
            (server, client)
        }] {
            let mut ours = PipeConnection::new(ours, MessageCodec::default());
            ours.feed(sample(size, 0)).await.unwrap();
            let mut closing = Box::pin(ours.close());
            assert!(
                stays_pending(&mut closing).await,
                "{size}: nothing was read"
            );

            let mut half = vec![0; size / 2];
            tokio::select! {
                biased;
                _ = &mut closing => panic!("{size}: half was read at most"),
                read = within(theirs.read_exact(&mut half)) => read.unwrap(),
            };
            assert!(stays_pending(&mut closing).await, "{size}: half was read");

            let mut rest = vec![];
            let (closed, read) =
                within(async { tokio::join!(closing, theirs.read_to_end(&mut rest)) }).await;
            closed.unwrap();
            read.unwrap();
            assert_eq!(half.len() + rest.len(), 4 + size);
        }
    }
}

#[cfg(any(windows, target_os = "linux"))] // Others do not tell what the peer has read.
#[tokio::test]
async fn close_gives_up_at_the_linger_deadline_and_the_peer_can_still_read() {
    let linger = Duration::from_millis(50);
    let name = unique_name("linger");
    let (server, client) = (PipeServer::builder(&name), PipeClient::builder(&name));
    for ours_is_client in [true, false] {
        let (client, server) = pair_of(
            &server.clone().linger(linger),
            &client.clone().linger(linger),
        )
        .await;
        let (mut ours, theirs) = if ours_is_client {
            (client, server)
        } else {
            (server, client)
        };
        ours.send(sample(HOLDS, 0)).await.unwrap();
        let error = within(ours.close()).await.unwrap_err();
        let Error::TimedOut { waited, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(waited, linger);
        assert_eq!(collect(theirs).await, [sample(HOLDS, 0)]);
    }
}

#[tokio::test]
async fn close_gives_up_at_the_linger_deadline_when_the_pipe_is_full() {
    let name = unique_name("full");
    let (mut ours, theirs) = pair_of(
        &PipeServer::builder(&name),
        &PipeClient::builder(&name).linger(Duration::from_millis(50)),
    )
    .await;
    ours.feed(sample(4 * LARGE, 0)).await.unwrap();
    let error = within(ours.close()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    drop(theirs);
}

#[cfg(any(windows, target_os = "linux"))] // Others do not tell what the peer has read.
#[tokio::test]
async fn close_fails_when_the_peer_leaves_during_it_without_reading() {
    for size in [HOLDS, LARGE] {
        for (mut ours, theirs) in both_ways().await {
            ours.feed(sample(size, 0)).await.unwrap();
            let mut closing = Box::pin(ours.close());
            assert!(stays_pending(&mut closing).await);
            drop(theirs);
            let error = within(closing).await.unwrap_err();
            assert!(matches!(error, Error::Closed { .. }), "{size}: {error}");
        }
    }
}

#[cfg(target_os = "linux")] // Others do not tell afterwards.
#[tokio::test]
async fn close_fails_when_the_peer_left_before_it_without_reading() {
    for look_first in [false, true] {
        for (mut ours, theirs) in both_ways().await {
            ours.send(sample(HOLDS, 0)).await.unwrap();
            drop(theirs);
            if look_first {
                assert!(within(ours.next()).await.is_none());
            }
            let error = within(ours.close()).await.unwrap_err();
            assert!(matches!(error, Error::Closed { .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn close_succeeds_when_the_peer_has_read_everything_and_left() {
    for (transport, mut ours, mut theirs) in pairs("left").await {
        ours.send("read".into()).await.unwrap();
        within(theirs.next()).await.unwrap().unwrap();
        drop(theirs);
        assert!(within(ours.next()).await.is_none());
        let closed = within(ours.close()).await;
        assert!(closed.is_ok(), "{transport}: {closed:?}");
    }
}

#[test]
fn what_was_closed_survives_the_end_of_the_runtime() {
    let name = unique_name("runtime");
    let message = sample(LARGE, 0);
    let reading = tokio::runtime::Runtime::new().unwrap();
    let mut server = {
        let _entered = reading.enter();
        PipeServer::bind(&name).unwrap()
    };
    let expected = message.clone();
    let writer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(within(async {
            let client = PipeClient::builder(&name).linger(PATIENCE);
            let mut client = client.connect().await.unwrap();
            client.send(message).await.unwrap();
            client.close().await.unwrap();
        }));
        drop(runtime);
    });
    reading.block_on(async {
        let conn = within(server.accept()).await.unwrap();
        assert!(collect(conn).await == [expected]);
    });
    writer.join().unwrap();
}

#[test]
fn dropping_outside_of_a_runtime_loses_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let [(mut ours, theirs), (mut other_ours, other_theirs)] = runtime.block_on(both_ways());
    runtime.block_on(async {
        ours.send(sample(HOLDS, 0)).await.unwrap();
        other_ours.send(sample(HOLDS, 1)).await.unwrap();
    });
    drop(ours);
    drop(other_ours);
    runtime.block_on(async {
        assert!(collect(theirs).await == [sample(HOLDS, 0)]);
        assert!(collect(other_theirs).await == [sample(HOLDS, 1)]);
    });
}

#[test]
fn a_connection_that_is_dropped_after_its_runtime_is_a_clean_end_at_its_peer() {
    let name = unique_name("outlives");
    let (ours, theirs) = (
        tokio::runtime::Runtime::new().unwrap(),
        tokio::runtime::Runtime::new().unwrap(),
    );
    let mut server = {
        let _entered = theirs.enter();
        PipeServer::bind(&name).unwrap()
    };
    let conn = ours.block_on(async {
        let mut client = PipeClient::connect(&name).await.unwrap();
        client.send("last words".into()).await.unwrap();
        client
    });
    drop(ours);
    drop(conn);
    theirs.block_on(async {
        let conn = within(server.accept()).await.unwrap();
        assert_eq!(collect(conn).await, ["last words"]);
    });
}

#[tokio::test]
async fn sending_to_a_peer_that_has_left_fails_with_closed() {
    for (mut ours, theirs) in both_ways().await {
        drop(theirs);
        let error = within(async {
            // The first ones may have been taken before the system noticed.
            loop {
                if let Err(error) = ours.send("anybody there?".into()).await {
                    break error;
                }
            }
        })
        .await;
        assert!(matches!(error, Error::Closed { .. }), "{error}");
        let again = ours.send("hello?".into()).await;
        assert!(matches!(again, Err(Error::Closed { .. })), "{again:?}");
    }
}

#[tokio::test]
async fn close_does_not_pretend_that_a_failed_send_has_arrived() {
    for (mut ours, theirs) in both_ways().await {
        drop(theirs);
        within(async { while ours.send("anybody there?".into()).await.is_ok() {} }).await;
        let error = within(ours.close()).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_blocked_send_fails_when_the_peer_leaves() {
    for (mut ours, theirs) in both_ways().await {
        let mut sending = Box::pin(ours.send(sample(4 * LARGE, 0)));
        assert!(stays_pending(&mut sending).await);
        drop(theirs);
        let error = within(sending).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_connection_can_be_closed_as_a_sink() {
    for (mut ours, theirs) in both_ways().await {
        ours.feed("last".into()).await.unwrap();
        let closing = async {
            SinkExt::<Bytes>::close(&mut ours).await.unwrap();
            let refused = ours.send("later".into()).await;
            assert!(matches!(refused, Err(Error::Closed { .. })), "{refused:?}");
            // Closing again is no error.
            SinkExt::<Bytes>::close(&mut ours).await.unwrap();
            drop(ours);
        };
        let (received, ()) = within(async { tokio::join!(collect(theirs), closing) }).await;
        assert_eq!(received, ["last"]);
    }
}

#[tokio::test]
async fn closing_the_sender_alone_ends_one_direction_where_the_platform_can() {
    for (ours, mut theirs) in both_ways().await {
        let (mut sender, mut receiver) = ours.split();
        sender.send("question".into()).await.unwrap();
        let (closed, question) =
            within(async { tokio::join!(sender.close(), theirs.next()) }).await;
        closed.unwrap();
        assert_eq!(question.unwrap().unwrap(), "question");
        if cfg!(unix) {
            assert!(within(theirs.next()).await.is_none());
        } else {
            assert!(stays_pending(&mut theirs.next()).await);
        }
        theirs.send("answer".into()).await.unwrap();
        assert_eq!(within(receiver.next()).await.unwrap().unwrap(), "answer");
        drop(receiver);
        assert!(within(theirs.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_cancelled_close_drops_the_connection_and_loses_nothing() {
    for (mut ours, theirs) in both_ways().await {
        ours.send(sample(HOLDS, 0)).await.unwrap();
        let mut closing = Box::pin(ours.close());
        let _ = (&mut closing).now_or_never();
        drop(closing);
        assert!(collect(theirs).await == [sample(HOLDS, 0)]);
    }
}

#[tokio::test]
async fn a_stream_of_bytes_is_closed_the_same_way() {
    for swap in [false, true] {
        let (mut ours, mut theirs) = byte_pair().await;
        if swap {
            std::mem::swap(&mut ours, &mut theirs);
        }
        ours.write_all(&sample(HOLDS, 0)).await.unwrap();
        let mut received = vec![];
        let (closed, read) =
            within(async { tokio::join!(ours.close(), theirs.read_to_end(&mut received)) }).await;
        closed.unwrap();
        read.unwrap();
        assert!(received == sample(HOLDS, 0));
    }
}

#[tokio::test]
async fn dropping_what_was_fed_and_never_flushed_is_logged() {
    let (log, _logging) = Log::begin();
    let lines = || log.text();

    let (mut flushed, theirs) = pair().await;
    flushed.send("heard".into()).await.unwrap();
    drop(flushed);
    assert_eq!(collect(theirs).await, ["heard"]);
    assert!(!lines().contains("never flushed"), "{}", lines());

    let (mut fed, theirs) = pair().await;
    fed.feed("unheard".into()).await.unwrap();
    // Another test's thread may have been the first at the same line of the log, just before our
    // subscriber was there, and have noted that nobody is interested.
    tracing::callsite::rebuild_interest_cache();
    drop(fed);
    assert!(collect(theirs).await.is_empty());
    assert!(lines().contains("WARN"), "{}", lines());
    assert!(lines().contains("never flushed"), "{}", lines());
}

#[tokio::test]
async fn the_end_comes_only_when_both_halves_are_dropped() {
    let (client, mut server) = pair().await;
    let (sender, receiver) = client.split();
    drop(sender);
    assert!(stays_pending(&mut server.next()).await);
    drop(receiver);
    assert!(within(server.next()).await.is_none());
}

#[tokio::test]
async fn closing_as_a_sink_gives_up_at_the_linger_deadline_too() {
    let name = unique_name("sink-linger");
    let (mut client, server) = pair_of(
        &PipeServer::builder(&name),
        &PipeClient::builder(&name).linger(Duration::from_millis(50)),
    )
    .await;
    client.feed(sample(LARGE, 0)).await.unwrap();
    let error = within(SinkExt::close(&mut client)).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    // And it does not claim success when asked again.
    let error = within(SinkExt::close(&mut client)).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    drop(server);
}

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
