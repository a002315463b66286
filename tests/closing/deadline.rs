//! Closing waits for the peer until the linger deadline, and says what became of the messages.

use std::time::Duration;

use asyncipc::{Error, MessageCodec, PipeClient, PipeConnection, PipeServer};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{HOLDS, byte_pair, pair_of, pairs, sample, stays_pending, unique_name, within};
use crate::{LARGE, both_ways, collect};

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
