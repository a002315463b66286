//! A sender for many tasks: what it can do without waiting, and as a sink.

mod common;

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use asyncipc::{ClientBuilder, Error, PipeConnection, ServerBuilder, SharedSender};
use bytes::Bytes;
use common::{fill_sender, pair, pair_of, sample, shared, stays_pending, transports, within};
use futures::{Sink, SinkExt, StreamExt};

/// A sender and its peer for each transport.
async fn each() -> Vec<(&'static str, SharedSender, PipeConnection)> {
    let mut each = vec![];
    for (transport, server, client) in transports("shared") {
        let (client, server) = pair_of(&server, &client).await;
        each.push((transport, client.split().0.into_shared(), server));
    }
    each
}

/// As `transports`, where an empty message ends one direction in message mode.
fn half_closing_transports(what: &str) -> Vec<(&'static str, ServerBuilder, ClientBuilder)> {
    let transports = transports(what).into_iter();
    #[cfg(windows)]
    let transports = transports.map(|(transport, server, client)| {
        use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
        match transport {
            "messages" => (
                transport,
                server.end_on_empty_message(),
                client.end_on_empty_message(),
            ),
            _ => (transport, server, client),
        }
    });
    transports.collect()
}

/// Whether one direction of this transport can be ended alone.
fn half_closes(transport: &str) -> bool {
    cfg!(unix) || transport == "messages"
}

async fn ready(sink: &mut SharedSender) {
    within(poll_fn(|cx| Pin::new(&mut *sink).poll_ready(cx)))
        .await
        .unwrap();
}

/// The compiler's way to a sink's methods, past the sender's own of the same names.
async fn send_by_sink(sink: &mut (impl Sink<Bytes, Error = Error> + Unpin), message: Bytes) {
    within(SinkExt::send(sink, message)).await.unwrap();
}

#[tokio::test]
async fn a_message_for_which_there_is_no_room_is_refused_and_not_sent() {
    for (transport, sender, mut server) in each().await {
        let message = sample(10_000, 0);
        let sent = fill_sender(&sender, &message).await;
        let refused = sender.try_send("refused".into()).unwrap_err();
        let id = sender.id();
        assert!(
            matches!(refused, Error::QueueFull { id: full, .. } if full == id),
            "{transport}: {refused:?}"
        );
        for _ in 0..sent {
            assert_eq!(within(server.next()).await.unwrap().unwrap(), message);
        }
        within(sender.flush()).await.unwrap();
        sender.try_send("taken".into()).unwrap();
        assert_eq!(within(server.next()).await.unwrap().unwrap(), "taken");
    }
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_by_name() {
    let (sender, mut server) = shared().await;
    let too_large = Bytes::from(vec![0; (16 << 20) + 1]);
    let mut sink = sender.clone();
    ready(&mut sink).await;
    for error in [
        sender.try_send(too_large.clone()).unwrap_err(),
        sink.start_send_unpin(too_large).unwrap_err(),
    ] {
        assert!(matches!(error, Error::MessageTooLarge { .. }), "{error:?}");
    }
    sender.try_send("goes on".into()).unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "goes on");
}

#[tokio::test]
async fn it_knows_its_peer_and_whether_that_is_there() {
    for (transport, sender, server) in each().await {
        let process = sender.peer().unwrap().process_id;
        assert!([Some(std::process::id()), None].contains(&process));
        assert!(!sender.is_closed(), "{transport}");
        drop(server);
        within(async {
            while !sender.is_closed() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn it_is_closed_once_a_clone_has_closed_it() {
    let (sender, _server) = shared().await;
    let other = sender.clone();
    assert!(!other.is_closed());
    within(sender.close()).await.unwrap();
    assert!(other.is_closed());
}

#[tokio::test]
async fn ending_its_direction_sends_what_was_taken_and_leaves_the_other_direction_open() {
    for (transport, server, client) in half_closing_transports("half") {
        let (client, mut server) = pair_of(&server, &client).await;
        let (sender, mut receiver) = client.split();
        let sender = sender.into_shared();
        sender.send("last".into()).await.unwrap();
        let ended = within(sender.close_write()).await;
        assert_eq!(within(server.next()).await.unwrap().unwrap(), "last");
        if !half_closes(transport) {
            let error = ended.unwrap_err();
            assert!(matches!(error, Error::ModeMismatch { .. }), "{error:?}");
            sender.send("goes on".into()).await.unwrap();
            assert_eq!(within(server.next()).await.unwrap().unwrap(), "goes on");
            continue;
        }
        ended.unwrap();
        assert!(within(server.next()).await.is_none(), "{transport}");
        let error = sender.send("too late".into()).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Closed {
                    by_this_end: true,
                    ..
                }
            ),
            "{error:?}"
        );
        // Again, and while the other direction is open.
        within(sender.close_write()).await.unwrap();
        server.send("answer".into()).await.unwrap();
        assert_eq!(within(receiver.next()).await.unwrap().unwrap(), "answer");
        within(sender.close()).await.unwrap();
    }
}

#[tokio::test]
async fn two_clones_may_end_the_direction_and_close_at_once() {
    for (transport, server, client) in half_closing_transports("both") {
        let linger = common::PATIENCE;
        let (server, client) = (server.linger(linger), client.linger(linger));
        for (is_flushed, closes_first) in
            [(true, false), (true, true), (false, false), (false, true)]
        {
            let case = format!("{transport}, flushed: {is_flushed}, closes first: {closes_first}");
            let (client, mut server) = pair_of(&server, &client).await;
            let (sender, receiver) = client.split();
            let (sender, closer) = {
                let sender = sender.into_shared();
                (sender.clone(), sender)
            };
            let ours = async {
                sender.send("last".into()).await.unwrap();
                if is_flushed {
                    sender.flush().await.unwrap();
                }
                let (ended, closed) = match closes_first {
                    true => {
                        let (closed, ended) = tokio::join!(closer.close(), sender.close_write());
                        (ended, closed)
                    }
                    false => tokio::join!(sender.close_write(), closer.close()),
                };
                drop((sender, closer, receiver));
                (ended, closed)
            };
            let theirs = async {
                let mut messages = vec![];
                while let Some(message) = server.next().await {
                    messages.push(message.unwrap());
                }
                messages
            };
            let ((ended, closed), messages) = within(async { tokio::join!(ours, theirs) }).await;
            assert_eq!(messages, ["last"], "{case}");
            closed.unwrap();
            match ended {
                Ok(()) => assert!(half_closes(transport), "{case}"),
                Err(Error::ModeMismatch { .. }) => assert!(!half_closes(transport), "{case}"),
                // Closing has come first.
                Err(Error::Closed { by_this_end, .. }) => assert!(by_this_end, "{case}"),
                Err(error) => panic!("{case}: {error:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_only_a_sink_has_taken_counts_as_lost_at_the_linger_deadline() {
    for (transport, server, client) in transports("lost") {
        let client = client.linger(Duration::from_millis(50));
        let (client, _server) = pair_of(&server, &client).await;
        let (sender, _receiver) = client.split();
        let sender = sender.into_shared();
        let mut sink = sender.clone();
        ready(&mut sink).await;
        fill_sender(&sender, &sample(10_000, 0)).await;
        sink.start_send_unpin("lost".into()).unwrap();
        let error = within(sender.close()).await.unwrap_err();
        assert!(
            matches!(&error, Error::TimedOut { reason, .. } if reason.ends_with("the rest is lost")),
            "{transport}: {error:?}"
        );
    }
}

#[tokio::test]
async fn what_many_sinks_send_arrives_and_that_of_each_in_order() {
    for (transport, sender, mut server) in each().await {
        let (sinks, messages) = (8, 50);
        for sink in 0..sinks {
            let mut clone = sender.clone();
            tokio::spawn(async move {
                for n in 0..messages {
                    let padding = if n % 10 == 0 { 10_000 } else { n };
                    let text = format!("{sink} {n} {}", "x".repeat(padding));
                    if n % 7 == 0 {
                        send_by_sink(&mut clone, text.into()).await;
                    } else {
                        SinkExt::feed(&mut clone, text.into()).await.unwrap();
                    }
                }
                within(SinkExt::flush(&mut clone)).await.unwrap();
            });
        }
        drop(sender);
        let mut next = vec![0; sinks];
        while let Some(message) = within(server.next()).await {
            let message = String::from_utf8(message.unwrap().to_vec()).unwrap();
            let mut numbers = message.split(' ');
            let mut number = || numbers.next().unwrap().parse::<usize>().unwrap();
            let (sink, n) = (number(), number());
            assert_eq!(n, next[sink], "{transport}");
            next[sink] += 1;
        }
        assert_eq!(next, vec![messages; sinks], "{transport}");
    }
}

#[tokio::test]
async fn a_sink_that_is_ready_has_a_place_whatever_others_send() {
    for (transport, sender, mut server) in each().await {
        let (mut one, mut other) = (sender.clone(), sender.clone());
        ready(&mut one).await;
        ready(&mut other).await;
        let message = sample(10_000, 0);
        let sent = fill_sender(&sender, &message).await;
        // Larger than what the batch copies, and small.
        let large = sample(100_000, 1);
        one.start_send_unpin(large.clone()).unwrap();
        other.start_send_unpin("small".into()).unwrap();
        // The place was for one message, and a new clone has none.
        let mut without = one.clone();
        for sink in [&mut one, &mut without] {
            let error = sink.start_send_unpin("refused".into()).unwrap_err();
            assert!(
                matches!(error, Error::QueueFull { .. }),
                "{transport}: {error:?}"
            );
        }
        let mut waiting = Box::pin(poll_fn(|cx| Pin::new(&mut without).poll_ready(cx)));
        assert!(stays_pending(&mut waiting).await);
        let reading = async {
            for _ in 0..sent {
                assert_eq!(server.next().await.unwrap().unwrap(), message);
            }
            assert_eq!(server.next().await.unwrap().unwrap(), large);
            assert_eq!(server.next().await.unwrap().unwrap(), "small");
        };
        let flushing = SinkExt::flush(&mut one);
        let (flushed, now, ()) = within(async { tokio::join!(flushing, waiting, reading) }).await;
        flushed.unwrap();
        now.unwrap();
    }
}

#[tokio::test]
async fn a_sink_that_is_closed_has_sent_everything_and_closes_all_clones() {
    for (transport, server, client) in transports("sink") {
        let linger = common::PATIENCE;
        let (client, mut server) = pair_of(&server.linger(linger), &client.linger(linger)).await;
        let (sender, receiver) = client.split();
        let sender = sender.into_shared();
        let mut sink = sender.clone();
        SinkExt::feed(&mut sink, "last".into()).await.unwrap();
        let reading = async { server.next().await.unwrap().unwrap() };
        let closing = SinkExt::close(&mut sink);
        let (closed, last) = within(async { tokio::join!(closing, reading) }).await;
        closed.unwrap();
        assert_eq!(last, "last", "{transport}");
        assert!(sender.is_closed());
        drop((sender, sink, receiver));
        assert!(within(server.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_sink_gets_room_although_the_batch_was_full_from_the_start() {
    let (client, mut server) = pair().await;
    let (mut sender, _receiver) = client.split();
    let large = sample(100_000, 0);
    sender.feed(large.clone()).await.unwrap();
    let mut sink = sender.into_shared();
    let reading = async { server.next().await.unwrap().unwrap() };
    let ((), read) = within(async { tokio::join!(ready(&mut sink), reading) }).await;
    assert_eq!(read, large);
}

#[tokio::test]
async fn a_sink_whose_closing_was_given_up_keeps_no_other_clone_from_closing() {
    for (transport, server, client) in transports("given-up") {
        let linger = common::PATIENCE;
        let (client, mut server) = pair_of(&server.linger(linger), &client.linger(linger)).await;
        let (sender, _receiver) = client.split();
        let sender = sender.into_shared();
        let mut sink = sender.clone();
        let message = sample(common::HOLDS, 0);
        sender.send(message.clone()).await.unwrap();
        // The future is dropped. The sink is not, and nobody polls it any more.
        assert!(stays_pending(&mut SinkExt::close(&mut sink)).await);
        let closing = tokio::spawn(async move { sender.close().await });
        assert_eq!(within(server.next()).await.unwrap().unwrap(), message);
        let closed = within(closing).await.unwrap();
        assert!(closed.is_ok(), "{transport}: {closed:?}");
        drop(sink);
    }
}

#[tokio::test]
async fn a_sink_whose_closing_was_given_up_keeps_no_clone_from_ending_the_direction() {
    let (sender, mut server) = shared().await;
    if cfg!(windows) {
        println!("skipped: a pipe of bytes cannot be closed by half");
        return;
    }
    let mut sink = sender.clone();
    sender.send("last".into()).await.unwrap();
    assert!(stays_pending(&mut SinkExt::close(&mut sink)).await);
    within(sender.close_write()).await.unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "last");
    assert!(within(server.next()).await.is_none());
}
