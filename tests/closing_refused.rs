//! What closing says of messages that the peer does not take because one is above its limit.
#![cfg(any(windows, target_os = "linux"))] // Others do not tell what the peer has read.

mod common;

use std::time::Duration;

use asyncipc::{ClientBuilder, Error, PipeConnection, ServerBuilder};
use common::{PATIENCE, pair_of, sample, stays_pending, transports, within};
use futures::{SinkExt, StreamExt};

/// Far more than a pipe holds.
const LARGE: usize = 1 << 20;

/// More than the peer takes.
const REFUSED: usize = 10 << 10;

/// As many as a pipe holds, and more than is read at a time.
const QUEUED: usize = 12;

/// Makes the pipe hold at least that on Windows, as a socket does on Linux.
fn roomy(server: ServerBuilder) -> ServerBuilder {
    #[cfg(windows)]
    let server = asyncipc::windows::ServerBuilderExt::buffer_sizes(server, 256 << 10, 256 << 10);
    server
}

/// Over each transport, and either way around: the end that sends, and the one that takes messages of up
/// to 100 bytes. It has read one, and the other end its answer if it `answers`.
async fn pairs(linger: Duration, answers: bool) -> Vec<(String, PipeConnection, PipeConnection)> {
    let mut pairs = vec![];
    for sender_is_client in [true, false] {
        for (transport, server, client) in transports("refused") {
            let (server, client): (ServerBuilder, ClientBuilder) = match sender_is_client {
                true => (server.max_message_size(100), client),
                false => (server, client.max_message_size(100)),
            };
            let (server, client) = (roomy(server.linger(linger)), client.linger(linger));
            let (client, server) = pair_of(&server, &client).await;
            let (mut ours, mut theirs) = match sender_is_client {
                true => (client, server),
                false => (server, client),
            };
            ours.send("hello".into()).await.unwrap();
            assert_eq!(within(theirs.next()).await.unwrap().unwrap(), "hello");
            if answers {
                theirs.send("answer".into()).await.unwrap();
                assert_eq!(within(ours.next()).await.unwrap().unwrap(), "answer");
            }
            let side = if sender_is_client { "client" } else { "server" };
            pairs.push((format!("{transport}, from the {side}"), ours, theirs));
        }
    }
    pairs
}

/// The same, with messages in the pipe of which the first was refused.
async fn refused(linger: Duration, answers: bool) -> Vec<(String, PipeConnection, PipeConnection)> {
    let mut pairs = pairs(linger, answers).await;
    for (_, ours, theirs) in &mut pairs {
        for n in 0..QUEUED {
            within(ours.send(sample(REFUSED, n))).await.unwrap();
        }
        let error = within(theirs.next()).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::MessageTooLarge { .. }), "{error}");
    }
    pairs
}

/// As [`assert_closed`], when the peer has left before.
#[track_caller]
fn assert_closed_afterwards(what: &str, closed: Result<(), Error>) {
    // Windows does not tell a server what a client that has left had read.
    if !(cfg!(windows) && what.contains("from the server") && closed.is_ok()) {
        assert_closed(what, closed);
    }
}

#[track_caller]
fn assert_closed(what: &str, closed: Result<(), Error>) {
    assert!(
        matches!(closed, Err(Error::Closed { .. })),
        "{what}: {closed:?}"
    );
}

#[tokio::test]
async fn closing_says_closed_when_the_peer_has_refused_a_message_and_was_dropped() {
    for (what, ours, theirs) in refused(PATIENCE, true).await {
        drop(theirs);
        assert_closed_afterwards(&what, within(ours.close()).await);
    }
}

/// The peer has sent nothing: otherwise it would take what comes until it knows that this was read.
#[tokio::test]
async fn closing_says_closed_when_the_peer_has_refused_a_message_and_closed() {
    for (what, ours, theirs) in refused(PATIENCE, false).await {
        let closed = within(theirs.close()).await;
        assert!(closed.is_ok(), "{what}: {closed:?}");
        assert_closed_afterwards(&what, within(ours.close()).await);
    }
}

#[tokio::test]
async fn closing_says_closed_when_the_peer_has_refused_a_message_and_closes_meanwhile() {
    for (what, ours, theirs) in refused(PATIENCE, false).await {
        let mut closing = Box::pin(ours.close());
        assert!(stays_pending(&mut closing).await, "{what}");
        let (ours, theirs) = within(async { tokio::join!(closing, theirs.close()) }).await;
        assert!(theirs.is_ok(), "{what}: {theirs:?}");
        assert_closed(&what, ours);
    }
}

#[tokio::test]
async fn closing_says_closed_when_the_peer_has_refused_a_message_and_is_dropped_meanwhile() {
    for (what, ours, theirs) in refused(PATIENCE, true).await {
        let mut closing = Box::pin(ours.close());
        assert!(stays_pending(&mut closing).await, "{what}");
        drop(theirs);
        assert_closed(&what, within(closing).await);
    }
}

#[tokio::test]
async fn closing_times_out_while_a_peer_that_has_refused_a_message_stays() {
    for (what, ours, mut theirs) in refused(Duration::from_millis(200), true).await {
        let closed = within(ours.close()).await;
        assert!(
            matches!(closed, Err(Error::TimedOut { .. })),
            "{what}: {closed:?}"
        );
        // Asking for more takes nothing.
        assert!(within(theirs.next()).await.is_none(), "{what}");
    }
}

#[tokio::test]
async fn a_peer_that_goes_on_asking_after_it_has_refused_a_message_takes_nothing_more() {
    for (what, ours, mut theirs) in refused(PATIENCE, true).await {
        let mut closing = Box::pin(ours.close());
        for _ in 0..3 {
            assert!(within(theirs.next()).await.is_none(), "{what}");
        }
        assert!(stays_pending(&mut closing).await, "{what}");
        drop(theirs);
        assert_closed(&what, within(closing).await);
    }
}

#[tokio::test]
async fn sending_says_closed_when_the_peer_has_refused_a_message_and_left() {
    for (what, mut ours, theirs) in refused(PATIENCE, false).await {
        within(theirs.close()).await.unwrap();
        let sent = within(async {
            // The first ones may be taken before the system notices.
            loop {
                let sent = ours.send("anybody there?".into()).await;
                if sent.is_err() {
                    break sent;
                }
            }
        })
        .await;
        assert_closed(&what, sent);
        assert_closed(&what, within(ours.close()).await);
    }
}

#[tokio::test]
async fn closing_says_closed_of_a_message_that_the_pipe_does_not_hold_and_the_peer_refuses() {
    for stays in [true, false] {
        let linger = if stays {
            Duration::from_millis(200)
        } else {
            PATIENCE
        };
        for (what, mut ours, mut theirs) in pairs(linger, true).await {
            ours.feed(sample(LARGE, 0)).await.unwrap();
            let there = async {
                let error = theirs.next().await.unwrap().unwrap_err();
                assert!(matches!(error, Error::MessageTooLarge { .. }), "{error}");
                stays.then_some(theirs)
            };
            let (closed, _theirs) = within(async { tokio::join!(ours.close(), there) }).await;
            match (stays, closed) {
                (true, Err(Error::TimedOut { .. })) => {}
                (true, closed) => panic!("{what}: {closed:?}"),
                (false, closed) => assert_closed(&what, closed),
            }
        }
    }
}
