//! Programs that send to each other, and ask each other, from within their handlers.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use asyncipc::endpoint::{EndpointBuilder, EndpointError, Event};
use asyncipc::{BoxError, Endpoint};
use common::{PATIENCE, under_wine, unique_name, within};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::sync::{Semaphore, mpsc};

fn names(n: usize) -> Vec<String> {
    (0..n)
        .map(|i| unique_name(&format!("circle-{i}")))
        .collect()
}

/// A builder with time limits that no busy machine reaches: they are not what is tested here.
fn patient(name: &str) -> EndpointBuilder {
    Endpoint::builder(name)
        .give_up_after(Duration::MAX)
        .request_timeout(Duration::MAX)
        .drain_timeout(PATIENCE)
}

/// Reads the events of an endpoint. None of them may report a loss.
fn watch(mut endpoint: Endpoint) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(event) = endpoint.next().await {
            assert!(matches!(event, Event::Ready | Event::Closed), "{event:?}");
        }
    })
}

/// The handler of a ping answers with a pong, from the first ping on.
fn pinger(name: &str, next: &str, heard: mpsc::UnboundedSender<u64>) -> Endpoint {
    let next = next.to_string();
    let bound = patient(name).bind_with(|handle| {
        let own = handle.clone();
        handle.on("ping", move |message| {
            let (own, next) = (own.clone(), next.clone());
            async move { Ok(own.send(&next, "pong", message.data).await?) }
        });
        handle.on("pong", move |message| {
            let heard = heard.clone();
            async move { Ok(heard.send(message.parse()?)?) }
        });
    });
    bound.unwrap()
}

/// Every program of a ring sends so many pings to the next one. That one sends a pong to the program
/// behind it, or in a ring of two to the sender.
async fn pings_in_a_ring_of(n: usize, pings: u64) {
    let names = names(n);
    let (mut senders, mut all_heard, mut watches) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n {
        let (heard, hears) = mpsc::unbounded_channel();
        let endpoint = pinger(&names[i], &names[(i + 1) % n], heard);
        let (handle, to) = (endpoint.handle(), names[(i + 1) % n].clone());
        watches.push(watch(endpoint));
        all_heard.push(hears);
        senders.push(tokio::spawn(async move {
            for ping in 0..pings {
                within(handle.send(&to, "ping", ping)).await.unwrap();
            }
            handle
        }));
    }
    let mut handles = Vec::new();
    for sender in senders {
        handles.push(sender.await.unwrap());
    }
    for hears in &mut all_heard {
        for ping in 0..pings {
            assert_eq!(within(hears.recv()).await, Some(ping));
        }
    }
    for handle in handles {
        handle.shutdown();
    }
    for watch in watches {
        within(watch).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_whose_handlers_send_to_each_other_lose_nothing() {
    for n in 2..=5 {
        // Under Wine, one process moves every message.
        let pings = if under_wine() && n > 2 { 500 } else { 2000 };
        pings_in_a_ring_of(n, pings).await;
    }
}

#[tokio::test]
async fn programs_whose_handlers_send_to_each_other_lose_nothing_on_one_thread() {
    for n in [2, 3] {
        pings_in_a_ring_of(n, 2000).await;
    }
}

#[tokio::test]
async fn a_handler_that_sends_more_than_is_taken_is_told_at_once_and_others_wait() {
    let [own, absent] = [unique_name("flood"), unique_name("absent")];
    let (tell, mut told) = mpsc::unbounded_channel();
    let to = absent.clone();
    let bound = Endpoint::builder(&own)
        .queue(2)
        .handler_queue(6)
        .give_up_after(PATIENCE)
        .bind_with(|handle| {
            let own = handle.clone();
            handle.on("flood", move |_| {
                let (own, to, tell) = (own.clone(), to.clone(), tell.clone());
                async move {
                    let mut sent = 0;
                    let error = loop {
                        match own.send(&to, "drop", sent).await {
                            Ok(()) => sent += 1,
                            Err(error) => break error,
                        }
                    };
                    let tried = own.try_send(&to, "drop", sent).is_err();
                    // A task that a handler spawns is not the handler's own future, so it waits for room.
                    let waits = tokio::spawn(async move {
                        let sending = own.send(&to, "drop", "later");
                        tokio::time::timeout(Duration::from_millis(20), sending).await
                    });
                    let waits = waits.await?.is_err();
                    Ok::<_, BoxError>(tell.send((sent, tried, waits, error))?)
                }
            });
        });
    let endpoint = bound.unwrap();
    let handle = endpoint.handle();
    let _running = tokio::spawn(endpoint.run());
    handle.send(&own, "flood", ()).await.unwrap();
    let (sent, tried, waits, error) = within(told.recv()).await.unwrap();
    // Six wait, and one may have been taken out of the queue.
    assert!((6..=7).contains(&sent), "{sent}");
    assert!(tried && waits);
    assert!(
        matches!(&error, EndpointError::QueueFull { to, messages: 6, .. } if *to == absent),
        "{error}"
    );
    // What handlers have sent counts against senders outside of handlers, too.
    let error = handle.try_send(&absent, "drop", ()).unwrap_err();
    assert!(
        matches!(error, EndpointError::QueueFull { messages: 2, .. }),
        "{error}"
    );
}

/// Each program asks the next one of a ring for a smaller number, down to zero. Returns how many requests
/// succeeded, and how many failed.
async fn requests_in_a_ring_of(
    n: usize,
    requests: u64,
    builder: impl Fn(&str) -> EndpointBuilder,
) -> (usize, usize) {
    let names = names(n);
    let mut handles = Vec::new();
    for i in 0..n {
        let next = names[(i + 1) % n].clone();
        let bound = builder(&names[i]).bind_with(|handle| {
            let own = handle.clone();
            handle.on("sum", move |message| {
                let (own, next) = (own.clone(), next.clone());
                async move {
                    let n: u64 = message.parse()?;
                    if n == 0 {
                        return Ok::<_, BoxError>(0);
                    }
                    let less = own.request(&next, "sum", n - 1).await?;
                    Ok(n + less.as_u64().ok_or("no number")?)
                }
            });
        });
        let endpoint = bound.unwrap();
        handles.push(endpoint.handle());
        tokio::spawn(endpoint.run());
    }
    let asking = handles.iter().enumerate().flat_map(|(i, handle)| {
        let next = &names[(i + 1) % n];
        (0..requests).map(move |_| async move { handle.request(next, "sum", 6).await })
    });
    let mut outcomes: FuturesUnordered<_> = asking.collect();
    let (mut ok, mut failed) = (0, 0);
    while let Some(outcome) = within(outcomes.next()).await {
        match outcome {
            Ok(sum) => {
                assert_eq!(sum, 21);
                ok += 1;
            }
            Err(_) => failed += 1,
        }
    }
    (ok, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_can_ask_each_other_in_turn_more_often_than_there_are_handlers() {
    for n in 2..=5 {
        let outcomes = requests_in_a_ring_of(n, 150, patient).await;
        assert_eq!(outcomes, (150 * n, 0), "in a ring of {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_in_turn_than_may_wait_are_errors_soon() {
    for n in 2..=5 {
        let small = |name: &str| patient(name).handlers(1).queue(1);
        let (ok, failed) = requests_in_a_ring_of(n, 100, small).await;
        assert_eq!(ok + failed, 100 * n);
    }
}

#[tokio::test]
async fn a_handler_that_cannot_ask_is_told_which_bound_is_in_its_way() {
    type Bound = fn(EndpointBuilder) -> EndpointBuilder;
    let bounds: [(Bound, _); 2] = [
        (|it| it.waiting_handlers(1), "waiting_handlers allows 1"),
        (|it| it.bytes_in_hand(10), "bytes_in_hand allows 160"),
    ];
    for (bound, text) in bounds {
        let [asking, asked, absent] = ["asking", "asked", "absent"].map(unique_name);
        let builder = bound(patient(&asked));
        let asked_too = builder.bind_with(|handle| {
            let own = handle.clone();
            handle.on("ask", move |message| {
                let (own, absent) = (own.clone(), absent.clone());
                async move { Ok(own.request(&absent, "never", message.data).await?) }
            });
        });
        let _asked = tokio::spawn(asked_too.unwrap().run());
        let asking = patient(&asking).bind().unwrap();
        let handle = asking.handle();
        let _asking = tokio::spawn(asking.run());
        // The first one waits for a program that never comes.
        let ask = || handle.request(&asked, "ask", "x".repeat(200));
        let mut all = FuturesUnordered::from_iter([ask(), ask()]);
        let error = within(all.next()).await.unwrap().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_can_ask_each_other_in_turn_with_more_bytes_than_may_be_in_hand() {
    for n in 2..=3 {
        let small = |name: &str| patient(name).bytes_in_hand(3000);
        let outcomes = requests_in_a_ring_of(n, 50, small).await;
        assert_eq!(outcomes, (50 * n, 0), "in a ring of {n}");
        let tiny = |name: &str| patient(name).bytes_in_hand(1);
        let (ok, failed) = requests_in_a_ring_of(n, 50, tiny).await;
        assert_eq!(ok + failed, 50 * n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_handler_asks_does_not_keep_what_is_asked_in_turn_from_being_read() {
    let names = names(2);
    let (done, mut is_done) = mpsc::unbounded_channel();
    let mut handles = Vec::new();
    for i in 0..2 {
        let (next, done) = (names[1 - i].clone(), done.clone());
        let bound = patient(&names[i]).bind_with(|handle| {
            let (own, to) = (handle.clone(), next.clone());
            handle.on("twice", move |message| {
                let (own, to) = (own.clone(), to.clone());
                async move { Ok(own.request(&to, "half", message.data).await?) }
            });
            handle.on("half", async |message| Ok(message.parse::<u64>()? / 2));
            let own = handle.clone();
            handle.on("start", move |message| {
                let (own, next, done) = (own.clone(), next.clone(), done.clone());
                async move { Ok(done.send(own.request(&next, "twice", message.data).await?)?) }
            });
        });
        let endpoint = bound.unwrap();
        handles.push(endpoint.handle());
        tokio::spawn(endpoint.run());
    }
    let sending = (0..300_u64).map(|n| handles[0].send(&names[1], "start", n));
    for sent in within(join_all(sending)).await {
        sent.unwrap();
    }
    for _ in 0..300 {
        within(is_done.recv()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_answer_each_other_with_large_replies_do_not_stop() {
    let names = names(2);
    let mut handles = Vec::new();
    for name in &names {
        let builder = patient(name)
            .handlers(2)
            .on("large", async |_| Ok("x".repeat(1_000_000)));
        let endpoint = builder.bind().unwrap();
        handles.push(endpoint.handle());
        tokio::spawn(endpoint.run());
    }
    let asking = (0..40).map(|n| {
        let (handle, to) = (&handles[n % 2], &names[1 - n % 2]);
        async move { handle.request(to, "large", ()).await.unwrap() }
    });
    let mut replies: FuturesUnordered<_> = asking.collect();
    while let Some(reply) = within(replies.next()).await {
        assert_eq!(reply.as_str().unwrap().len(), 1_000_000);
    }
}

#[tokio::test]
async fn a_handler_that_waits_for_something_else_counts_among_the_handlers() {
    let [asking, asked] = [unique_name("asking"), unique_name("asked")];
    let gate = Arc::new(Semaphore::new(0));
    let (begun, opens) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    let count = begun.clone();
    let builder = patient(&asked).handlers(2).on("wait", move |_| {
        let (opens, count) = (opens.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            opens.acquire().await?.forget();
            Ok(())
        }
    });
    let _asked = tokio::spawn(builder.bind().unwrap().run());
    let asking = patient(&asking).bind().unwrap();
    let handle = asking.handle();
    let _asking = tokio::spawn(asking.run());
    let mut all = join_all((0..10).map(|_| handle.request(&asked, "wait", ())));
    assert!(common::stays_pending(&mut all).await);
    assert_eq!(begun.load(Ordering::Relaxed), 2);
    gate.add_permits(10);
    assert!(within(all).await.iter().all(Result::is_ok));
}
