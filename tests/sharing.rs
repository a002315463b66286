//! One sender for many tasks.

mod common;

use std::time::Duration;

use asyncipc::{ClientBuilder, Error, PipeClient, PipeServer};
use bytes::Bytes;
use common::{
    Log, PATIENCE, fill_sender, pair, pair_of, sample, shared, stays_pending, transports,
    unique_name, within,
};
#[cfg(target_os = "linux")]
use common::{itself, role, run_as};
use futures::future::join_all;
use futures::{SinkExt, StreamExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_messages_of_many_tasks_arrive_and_those_of_each_in_order() {
    let (sender, mut server) = shared().await;
    let tasks = 16;
    let each = 500;
    for task in 0..tasks {
        let sender = sender.clone();
        tokio::spawn(async move {
            for n in 0..each {
                // Some larger than what is copied, so that both kinds mix.
                let padding = if n % 50 == 0 { 10_000 } else { n % 100 };
                let text = format!("{task} {n} {}", "x".repeat(padding));
                sender.send(text.into()).await.unwrap();
            }
        });
    }
    drop(sender);
    let mut next = vec![0; tasks];
    while let Some(message) = within(server.next()).await {
        let message = String::from_utf8(message.unwrap().to_vec()).unwrap();
        let mut parts = message.split(' ');
        let mut number = || parts.next().unwrap().parse::<usize>().unwrap();
        let (task, n) = (number(), number());
        assert_eq!(n, next[task]);
        next[task] += 1;
    }
    assert_eq!(next, vec![each; tasks]);
}

#[tokio::test]
async fn a_message_goes_out_without_a_flush() {
    let (sender, mut server) = shared().await;
    sender.send("hello".into()).await.unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "hello");
}

#[tokio::test]
async fn what_was_fed_before_goes_out_as_well() {
    let (client, mut server) = pair().await;
    let (mut sender, _receiver) = client.split();
    sender.feed("first".into()).await.unwrap();
    let sender = sender.into_shared();
    sender.send("second".into()).await.unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "first");
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "second");
}

#[tokio::test]
async fn whoever_waits_for_an_answer_has_sent_the_question() {
    let (client, mut server) = pair().await;
    let (sender, mut receiver) = client.split();
    let sender = sender.into_shared();
    let serving = async {
        for _ in 0..100 {
            let message = server.next().await.unwrap().unwrap();
            server.send(message.freeze()).await.unwrap();
        }
    };
    let asking = async {
        for n in 0..100 {
            let question = Bytes::from(format!("question {n}"));
            sender.send(question.clone()).await.unwrap();
            assert_eq!(receiver.next().await.unwrap().unwrap(), question);
        }
    };
    within(async { tokio::join!(serving, asking) }).await;
}

#[tokio::test]
async fn senders_wait_while_the_peer_does_not_read_and_all_goes_on_when_it_does() {
    let (sender, mut server) = shared().await;
    let message = sample(10_000, 0);
    let sent = fill_sender(&sender, &message).await;
    // What the system holds, and the batch.
    assert!((1..1000).contains(&sent), "{sent}");
    let waiting = join_all((0..10).map(|_| sender.send(message.clone())));
    let reading = async {
        for _ in 0..sent + 10 {
            assert_eq!(server.next().await.unwrap().unwrap(), message);
        }
    };
    let (results, ()) = within(async { tokio::join!(waiting, reading) }).await;
    assert!(results.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_cancelled_send_has_sent_nothing() {
    let (sender, mut server) = shared().await;
    let message = sample(10_000, 0);
    // The one that had to wait is dropped.
    let sent = fill_sender(&sender, &message).await;
    let sending = sender.send("last".into());
    let reading = async {
        for _ in 0..sent {
            assert_eq!(server.next().await.unwrap().unwrap(), message);
        }
        assert_eq!(server.next().await.unwrap().unwrap(), "last");
    };
    let (sent, ()) = within(async { tokio::join!(sending, reading) }).await;
    sent.unwrap();
}

#[tokio::test]
async fn what_was_sent_goes_out_after_all_senders_are_gone_and_then_the_stream_ends() {
    let (sender, mut server) = shared().await;
    let message = sample(10_000, 0);
    let sent = fill_sender(&sender, &message).await;
    drop(sender);
    for _ in 0..sent {
        assert_eq!(within(server.next()).await.unwrap().unwrap(), message);
    }
    assert!(within(server.next()).await.is_none());
}

#[tokio::test]
async fn flushing_waits_until_the_system_has_everything() {
    let (sender, mut server) = shared().await;
    let message = sample(10_000, 0);
    let sent = fill_sender(&sender, &message).await;
    let mut flushing = Box::pin(sender.flush());
    assert!(stays_pending(&mut flushing).await);
    let reading = async {
        for _ in 0..sent {
            assert_eq!(server.next().await.unwrap().unwrap(), message);
        }
    };
    let (flushed, ()) = within(async { tokio::join!(flushing, reading) }).await;
    flushed.unwrap();
}

#[tokio::test]
async fn closing_waits_for_the_peer_and_ends_it_for_all_clones() {
    let name = unique_name("closing");
    let server = PipeServer::builder(&name).linger(PATIENCE);
    let client = PipeClient::builder(&name).linger(PATIENCE);
    let (client, mut server) = pair_of(&server, &client).await;
    let sender = client.split().0.into_shared();
    let other = sender.clone();
    sender.send("last".into()).await.unwrap();
    let reading = async { server.next().await.unwrap().unwrap() };
    let (closed, last) = within(async { tokio::join!(sender.close(), reading) }).await;
    closed.unwrap();
    assert_eq!(last, "last");
    let error = other.send("too late".into()).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

#[tokio::test]
async fn whoever_cannot_send_is_told_which_end_was_closed() {
    let (sender, _server) = shared().await;
    within(sender.close()).await.unwrap();
    let error = sender.send("too late".into()).await.unwrap_err();
    assert!(error.to_string().starts_with("this end of "), "{error}");

    let (sender, server) = shared().await;
    drop(server);
    let sending = async {
        loop {
            if let Err(error) = sender.send("hello".into()).await {
                break error;
            }
        }
    };
    let error = within(sending).await;
    assert!(error.to_string().starts_with("the peer of "), "{error}");
    within(sender.close()).await.unwrap_err();
    // That came first.
    let error = sender.send("hello".into()).await.unwrap_err();
    assert!(error.to_string().starts_with("the peer of "), "{error}");
}

#[tokio::test]
async fn closing_ends_at_the_linger_deadline() {
    let name = unique_name("linger");
    let server = PipeServer::builder(&name);
    let client = PipeClient::builder(&name).linger(Duration::from_millis(20));
    let (client, _server) = pair_of(&server, &client).await;
    let sender = client.split().0.into_shared();
    // More than the pipe holds.
    sender.send(sample(300_000, 0)).await.unwrap();
    let error = within(sender.close()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    let error = sender.send("too late".into()).await.unwrap_err();
    assert!(error.to_string().starts_with("this end of "), "{error}");
}

#[tokio::test]
async fn what_was_sent_goes_out_when_closing_was_cancelled() {
    let (sender, mut server) = shared().await;
    let message = sample(10_000, 0);
    let sent = fill_sender(&sender, &message).await;
    assert!(stays_pending(&mut Box::pin(sender.close())).await);
    let error = sender.send("too late".into()).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    drop(sender);
    for _ in 0..sent {
        assert_eq!(within(server.next()).await.unwrap().unwrap(), message);
    }
    assert!(within(server.next()).await.is_none());
}

#[tokio::test]
async fn sending_goes_on_when_the_runtime_of_the_first_send_has_ended() {
    let (client, mut server) = pair().await;
    let (sender, _receiver) = client.split();
    let sender = sender.into_shared();
    let first = sender.clone();
    let elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(first.send("first".into()))
    });
    elsewhere.join().unwrap().unwrap();
    sender.send("second".into()).await.unwrap();
    within(sender.flush()).await.unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "first");
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "second");
}

#[tokio::test]
async fn the_first_send_can_be_outside_of_a_runtime() {
    let (sender, mut server) = shared().await;
    let first = sender.clone();
    let outside = std::thread::spawn(move || {
        let sent = futures::FutureExt::now_or_never(first.send("outside".into()));
        sent.unwrap().unwrap();
    });
    outside.join().unwrap();
    sender.send("inside".into()).await.unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "outside");
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "inside");
}

#[tokio::test]
async fn that_the_peer_has_left_reaches_every_sender() {
    let (sender, server) = shared().await;
    drop(server);
    let tasks = (0..4).map(|_| {
        let sender = sender.clone();
        async move {
            loop {
                if let Err(error) = sender.send("anybody?".into()).await {
                    return error;
                }
            }
        }
    });
    for error in within(join_all(tasks)).await {
        assert!(matches!(error, Error::Closed { .. }), "{error}");
    }
    let error = sender.flush().await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_and_others_go_on() {
    let name = unique_name("limit");
    let server = PipeServer::builder(&name);
    let client = PipeClient::builder(&name).max_message_size(100);
    let (client, mut server) = pair_of(&server, &client).await;
    let sender = client.split().0.into_shared();
    let error = sender.send(sample(101, 0)).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::MessageTooLarge {
                size: 101,
                max: 100,
                ..
            }
        ),
        "{error}"
    );
    sender.send("short".into()).await.unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "short");
    assert_eq!(sender.stats().messages_sent, 1);
}

/// Fails unless the only place of this server is free again for another client.
async fn the_next_is_let_in(server: &mut PipeServer, client: &ClientBuilder) {
    let talking = async {
        let mut conn = client.connect().await.unwrap();
        assert_eq!(conn.next().await.unwrap().unwrap(), "welcome");
    };
    let serving = async {
        let mut conn = server.accept().await.unwrap();
        conn.send("welcome".into()).await.unwrap();
        conn.close().await.unwrap();
    };
    within(async { tokio::join!(talking, serving) }).await;
}

#[tokio::test]
async fn a_slow_reader_whose_close_timed_out_leaves_its_place_to_the_next() {
    for (transport, server, client) in transports("given-up") {
        let server = server.linger(Duration::from_millis(50)).max_connections(1);
        let mut server = server.bind().unwrap();
        let (slow, accepted) =
            within(async { tokio::join!(client.connect(), server.accept()) }).await;
        let (sender, receiver) = accepted.unwrap().split();
        let sender = sender.into_shared();
        let other = sender.clone();
        // More than the pipe holds.
        sender.send(sample(4 << 20, 0)).await.unwrap();
        let error = within(sender.close()).await.unwrap_err();
        assert!(
            matches!(error, Error::TimedOut { .. }),
            "{transport}: {error}"
        );
        let error = other.send("too late".into()).await.unwrap_err();
        assert!(
            matches!(error, Error::Closed { .. }),
            "{transport}: {error}"
        );
        drop((sender, receiver, other));
        the_next_is_let_in(&mut server, &client).await;
        drop(slow);
    }
}

#[tokio::test]
async fn what_was_taken_for_a_peer_that_never_reads_is_given_up_after_the_linger_time() {
    for (transport, server, client) in transports("never-reads") {
        let (log, _logging) = Log::begin();
        tracing::callsite::rebuild_interest_cache();
        let server = server.linger(Duration::from_millis(50)).max_connections(1);
        let mut server = server.bind().unwrap();
        let (slow, accepted) =
            within(async { tokio::join!(client.connect(), server.accept()) }).await;
        let (sender, receiver) = accepted.unwrap().split();
        let sender = sender.into_shared();
        sender.send(sample(4 << 20, 0)).await.unwrap();
        drop((sender, receiver));
        the_next_is_let_in(&mut server, &client).await;
        // Where the system has the whole of it, it goes on by itself.
        if !["overlapped I/O", "messages"].contains(&transport) {
            let log = log.text();
            for word in ["WARN", "bytes", "lost"] {
                assert!(log.contains(word), "{transport}: {log}");
            }
        }
        drop(slow);
    }
}

#[tokio::test]
async fn what_was_taken_goes_out_as_long_as_the_peer_reads_within_the_linger_time() {
    let (sender, mut server) = shared().await;
    let message = sample(4 << 20, 0);
    sender.send(message.clone()).await.unwrap();
    assert!(stays_pending(&mut Box::pin(sender.flush())).await);
    drop(sender);
    tokio::task::yield_now().await;
    assert!(within(server.next()).await.unwrap().unwrap() == message);
    assert!(within(server.next()).await.is_none());
}

#[cfg(target_os = "linux")] // Where one can count them.
#[tokio::test]
async fn a_shared_sender_that_has_given_up_keeps_no_descriptor() {
    let test = "a_shared_sender_that_has_given_up_keeps_no_descriptor";
    if role().is_none() {
        // Other tests open and close descriptors at the same time.
        return run_as("process", &mut itself(test));
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let name = unique_name("descriptors");
    let server = PipeServer::builder(&name).linger(Duration::from_millis(20));
    let mut server = server.bind().unwrap();
    let client = PipeClient::builder(&name);
    let mut slow = vec![];
    for close in [true, false] {
        for _ in 0..5 {
            let (conn, accepted) =
                within(async { tokio::join!(client.connect(), server.accept()) }).await;
            slow.push(conn.unwrap());
            let before = open();
            let (sender, receiver) = accepted.unwrap().split();
            let sender = sender.into_shared();
            sender.send(sample(4 << 20, 0)).await.unwrap();
            if close {
                within(sender.close()).await.unwrap_err();
            }
            drop((sender, receiver));
            within(async {
                while open() >= before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
        }
    }
}
