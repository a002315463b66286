//! What was sent arrives, whichever way the connection ends.

use asyncipc::{PipeClient, PipeServer};
use futures::{FutureExt, SinkExt, StreamExt};

use crate::common::{HOLDS, Log, PATIENCE, pair, sample, stays_pending, unique_name, within};
use crate::{LARGE, both_ways, collect};

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
