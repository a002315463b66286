//! How a pipe of messages ends.

use std::time::Duration;

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{Error, PipeConnection};
use futures::{SinkExt, StreamExt};

use crate::common::{HOLDS, pair_of, sample, stays_pending, within};
use crate::{LARGE, both_ways, collect, ends, messages, poll_once, receive};

/// Sends until the other end is gone.
async fn send_to_the_end(conn: &mut PipeConnection) {
    let error = within(async {
        loop {
            if let Err(error) = conn.send("anybody there?".into()).await {
                break error;
            }
        }
    });
    let error = error.await;
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn a_dropped_server_end_stays_for_its_client_as_long_as_the_linger() {
    // Time advances in leaps, during which nothing waits. They are much longer than the test.
    async fn leap(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }
    for overlapped in [false, true] {
        let (mut server, client) = ends("lingers");
        if overlapped {
            server = server.overlapped_io();
        }
        let server = server.linger(Duration::from_secs(10_000));
        let (mut client, mut accepted) = pair_of(&server, &client).await;
        // More than the client's end reads ahead.
        accepted.send(sample(HOLDS, 0)).await.unwrap();
        drop(accepted);
        // The dropped end reads and throws away, so that the client can go on.
        for seconds in [0, 9_000] {
            leap(Duration::from_secs(seconds)).await;
            for _ in 0..100 {
                within(client.send("still there?".into())).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
        leap(Duration::from_secs(2_000)).await;
        send_to_the_end(&mut client).await;
        assert!(receive(&mut client).await == sample(HOLDS, 0));
        assert!(within(client.next()).await.is_none());
    }
}

#[tokio::test]
async fn close_waits_until_the_peer_has_read_every_message() {
    for size in [0, 1, 20_000, LARGE] {
        for (mut ours, mut theirs) in both_ways("close").await {
            ours.feed("first".into()).await.unwrap();
            ours.feed(sample(size, 0)).await.unwrap();
            let mut closing = Box::pin(ours.close());
            assert!(stays_pending(&mut closing).await, "nothing was read");
            tokio::select! {
                biased;
                _ = &mut closing => panic!("{size}: one of two was read at most"),
                first = receive(&mut theirs) => assert_eq!(first, "first"),
            }
            let (closed, rest) = within(async { tokio::join!(closing, collect(theirs)) }).await;
            closed.unwrap();
            assert!(rest == [sample(size, 0)]);
        }
    }
}

#[tokio::test]
async fn close_gives_up_at_the_linger_deadline_and_the_messages_stay_readable() {
    let linger = Duration::from_millis(50);
    let (server, client) = messages("linger");
    let (mut ours, theirs) = pair_of(&server, &client.linger(linger)).await;
    ours.send("unread".into()).await.unwrap();
    let error = within(ours.close()).await.unwrap_err();
    assert!(
        matches!(error, Error::TimedOut { waited, .. } if waited == linger),
        "{error:?}"
    );
    assert_eq!(collect(theirs).await, ["unread"]);
}

#[tokio::test]
async fn close_fails_when_the_client_leaves_without_reading() {
    let (builder, client) = messages("unread");
    let (theirs, mut ours) = pair_of(&builder, &client).await;
    ours.send("unread".into()).await.unwrap();
    let mut closing = Box::pin(ours.close());
    assert!(stays_pending(&mut closing).await);
    drop(theirs);
    let error = within(closing).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn sending_to_a_peer_that_has_left_fails_with_closed() {
    for (mut ours, theirs) in both_ways("left").await {
        drop(theirs);
        assert!(within(ours.next()).await.is_none());
        let error = within(ours.send("too late".into())).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_blocked_send_fails_when_the_client_leaves() {
    let (builder, client) = messages("blocked");
    let (theirs, mut ours) = pair_of(&builder, &client).await;
    let mut sending = Box::pin(ours.send(sample(4 << 20, 0)));
    assert!(stays_pending(&mut sending).await);
    drop(theirs);
    let error = within(sending).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn the_last_message_before_a_drop_arrives() {
    for size in [0, 1, 20_000, 4 << 20] {
        for (mut ours, mut theirs) in both_ways("last").await {
            ours.feed("first".into()).await.unwrap();
            ours.feed("second".into()).await.unwrap();
            {
                let mut sending = Box::pin(ours.send(sample(size, 0)));
                let _ = poll_once(sending.as_mut());
            }
            drop(ours);
            assert_eq!(receive(&mut theirs).await, "first");
            assert_eq!(receive(&mut theirs).await, "second");
            assert!(collect(theirs).await == [sample(size, 0)], "{size}");
        }
    }
}

#[tokio::test]
async fn the_last_messages_of_both_ends_arrive_although_both_are_dropped() {
    let (server, client) = messages("last-both");
    let (mut client, mut server) = pair_of(&server, &client).await;
    let sent = async { tokio::join!(stuck(&mut client), stuck(&mut server)) };
    within(sent).await;
    // Each waits for the other to read. An end that reads to the end gets everything.
    drop(client);
    assert!(collect(server).await == [sample(4 << 20, 0)]);
}

/// Begins to send more than the pipe holds.
async fn stuck(conn: &mut PipeConnection) {
    let mut sending = Box::pin(conn.send(sample(4 << 20, 0)));
    assert!(stays_pending(&mut sending).await);
}

#[tokio::test]
async fn an_empty_message_ends_one_direction_where_it_is_taken_so() {
    let (server, client) = messages("half-close");
    let (server, client) = (server.end_on_empty_message(), client.end_on_empty_message());
    let (client, server) = pair_of(&server, &client).await;
    let mut ends = [client, server];
    for _ in 0..2 {
        let [ours, theirs] = &mut ends;
        ours.feed("question".into()).await.unwrap();
        ours.close_write().await.unwrap();
        let error = ours.send("more".into()).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{error:?}");
        assert_eq!(receive(theirs).await, "question");
        assert!(within(theirs.next()).await.is_none());
        // The other direction goes on until it is closed itself.
        ends.reverse();
    }
    let [ours, theirs] = ends;
    within(async { tokio::try_join!(ours.close(), theirs.close()) })
        .await
        .unwrap();
}

#[tokio::test]
async fn the_end_of_one_direction_is_an_empty_message_to_everybody_else() {
    for (mut ours, mut theirs) in both_ways("half-close-plain").await {
        ours.close_write().await.unwrap();
        assert_eq!(receive(&mut theirs).await, "");
        theirs.send("still here".into()).await.unwrap();
        assert_eq!(receive(&mut ours).await, "still here");
        drop(ours);
        assert!(within(theirs.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_pipe_of_bytes_cannot_be_closed_by_half() {
    let (server, client) = ends("half-close-bytes");
    for (server, client) in [
        (server.clone(), client.clone()),
        (server.overlapped_io(), client.overlapped_io()),
    ] {
        let (mut ours, mut theirs) = pair_of(&server, &client).await;
        for conn in [&mut ours, &mut theirs] {
            let error = conn.close_write().await.unwrap_err();
            assert!(matches!(error, Error::ModeMismatch { .. }), "{error:?}");
        }
        // The connection still works.
        ours.send("still open".into()).await.unwrap();
        assert_eq!(receive(&mut theirs).await, "still open");
    }
}

#[tokio::test]
async fn an_empty_message_as_the_end_takes_a_pipe_of_messages() {
    let (server, client) = ends("empty-end-of-bytes");
    let server = server.end_on_empty_message().overlapped_io();
    let client = client.end_on_empty_message();
    for error in [
        server.bind().map(drop).unwrap_err(),
        within(client.connect()).await.map(drop).unwrap_err(),
    ] {
        let Error::InvalidOption { option, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(option, "end_on_empty_message");
    }
    let server = server.message_mode();
    pair_of(&server, &client.message_mode()).await;
}
