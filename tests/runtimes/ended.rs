//! A connection whose runtime has ended.

use asyncipc::{Error, PipeClient, PipeServer};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};

#[cfg(windows)]
use crate::common::{PATIENCE, pair_of};
use crate::common::{pair, sample, stays_pending, transports, unique_name, within};
use crate::{LARGE, block_on, many, of_one_thread, with_threads};

#[test]
fn a_write_that_would_wait_is_an_error_when_the_connections_runtime_has_ended() {
    let others = with_threads();
    // With and without others that take the places of those that are watched both ways.
    for held in [vec![], others.block_on(many())] {
        let made_in = of_one_thread();
        let (mut ours, _theirs) = made_in.block_on(pair());
        drop(made_in);
        let error = others
            .block_on(within(ours.send(sample(LARGE, 5))))
            .unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        drop(held);
    }
}

#[test]
fn a_write_that_waits_ends_with_the_connections_runtime() {
    let others = with_threads();
    for held in [vec![], others.block_on(many())] {
        let made_in = of_one_thread();
        let (mut ours, _theirs) = made_in.block_on(pair());
        let sending = others.spawn(async move { ours.send(sample(LARGE, 5)).await });
        // It waits by now, or will find out at once.
        others.block_on(tokio::task::yield_now());
        drop(made_in);
        let error = others.block_on(within(sending)).unwrap().unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        drop(held);
    }
}

#[test]
fn a_shared_sender_says_that_the_connections_runtime_has_ended() {
    let others = with_threads();
    for used_before in [false, true] {
        let made_in = of_one_thread();
        let (sender, _receiver, _theirs) = made_in.block_on(async {
            let (ours, theirs) = pair().await;
            let (sender, receiver) = ours.split();
            (sender.into_shared(), receiver, theirs)
        });
        if used_before {
            made_in.block_on(async {
                sender.send(Bytes::from("while it lives")).await.unwrap();
                sender.flush().await.unwrap();
            });
        }
        drop(made_in);
        let error = others
            .block_on(within(sender.send("too late".into())))
            .unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}

#[test]
fn what_a_shared_sender_has_taken_is_an_error_of_flush_when_the_runtime_has_ended() {
    let others = with_threads();
    let made_in = of_one_thread();
    let (sender, _receiver, _theirs) = made_in.block_on(async {
        let (ours, theirs) = pair().await;
        let (sender, receiver) = ours.split();
        (sender.into_shared(), receiver, theirs)
    });
    // Nobody writes it: the runtime stands still.
    block_on(sender.send("never".into())).unwrap();
    let flushing = {
        let sender = sender.clone();
        others.spawn(async move { sender.flush().await })
    };
    others.block_on(tokio::task::yield_now());
    drop(made_in);
    let error = others.block_on(within(flushing)).unwrap().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let error = others.block_on(within(sender.flush())).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn a_connection_can_be_closed_after_its_runtime_has_ended() {
    let others = with_threads();
    let (made_in, reading) = (of_one_thread(), with_threads());
    let name = unique_name("closed-later");
    let mut server = {
        let _entered = reading.enter();
        PipeServer::bind(&name).unwrap()
    };
    let ours = made_in.block_on(async {
        let mut client = PipeClient::connect(&name).await.unwrap();
        client.send("last words".into()).await.unwrap();
        client
    });
    drop(made_in);
    let peer = reading.spawn(async move {
        let mut conn = server.accept().await.unwrap();
        conn.next().await.unwrap().unwrap()
    });
    others.block_on(within(ours.close())).unwrap();
    assert_eq!(reading.block_on(within(peer)).unwrap(), "last words");
}

#[test]
fn an_accepted_connection_outlives_the_runtime_that_accepted_it() {
    let bound_in = with_threads();
    for (transport, server, client) in transports("outlives") {
        let mut server = bound_in.block_on(async { server.bind().unwrap() });
        let mut theirs = bound_in.block_on(within(client.connect())).unwrap();
        let mut ours = of_one_thread().block_on(within(server.accept())).unwrap();
        let received = of_one_thread().block_on(async {
            let mut receiving = Box::pin(ours.next());
            assert!(stays_pending(&mut receiving).await, "{transport}");
            theirs.send("hello".into()).await.unwrap();
            within(receiving).await
        });
        assert_eq!(received.unwrap().unwrap(), "hello", "{transport}");
    }
}

#[cfg(windows)]
#[test]
fn a_server_end_that_is_dropped_outside_of_any_runtime_stays_for_its_client() {
    let made_in = with_threads();
    for (transport, server, client) in transports("stays") {
        let server = server.linger(PATIENCE);
        let (mut client, mut accepted) = made_in.block_on(pair_of(&server, &client));
        // More than the client's end reads ahead.
        made_in
            .block_on(within(accepted.send(sample(crate::common::HOLDS, 0))))
            .unwrap();
        drop(accepted);
        made_in.block_on(async {
            for _ in 0..100 {
                let sent = within(client.send("still there?".into())).await;
                assert!(sent.is_ok(), "{transport}: {sent:?}");
                tokio::task::yield_now().await;
            }
            let received = within(client.next()).await.unwrap().unwrap();
            assert!(received == sample(crate::common::HOLDS, 0), "{transport}");
        });
    }
}
