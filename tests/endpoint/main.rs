//! Messages between programs that know each other by name.

#[path = "../common/mod.rs"]
mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use asyncipc::{
    BoxError, Endpoint, EndpointBuilder, EndpointError, EndpointEvent, Envelope, Error, PipeClient,
    PipeConnection, PipeName, PipeServer, PipeStream,
};
use bytes::Bytes;
use common::{Log, PATIENCE, skipped, stays_pending, unique_name, within};
use futures::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::{Notify, Semaphore};

/// What becomes too late, where a test waits for that.
const SOON: Duration = Duration::from_millis(20);

/// More than any platform's pipe holds.
const LARGE: usize = 4 << 20;

fn patient(name: &str) -> EndpointBuilder {
    Endpoint::builder(name)
        .max_message_size(16 << 20)
        .bytes_in_hand(64 << 20)
        .give_up_after(PATIENCE)
        .request_timeout(PATIENCE)
        .drain_timeout(PATIENCE)
        .backoff(Duration::from_millis(1), SOON)
}

/// An endpoint of a name that is free, or soon will be: on Windows a name is taken until the last
/// connection has ended.
async fn bind(builder: EndpointBuilder) -> Endpoint {
    let binding = async {
        loop {
            match builder.clone().bind() {
                Err(Error::AddressInUse { .. }) => tokio::task::yield_now().await,
                bound => return bound.unwrap(),
            }
        }
    };
    let mut endpoint = within(binding).await;
    assert!(matches!(event(&mut endpoint).await, EndpointEvent::Ready));
    endpoint
}

/// A program that handles `action` by handing its messages to the test.
async fn collecting(name: &str, action: &str) -> (Endpoint, UnboundedReceiver<Envelope>) {
    let (heard, hears) = mpsc::unbounded_channel();
    let builder = patient(name).on(action, move |message| {
        let heard = heard.clone();
        async move { Ok(heard.send(message)?) }
    });
    (bind(builder).await, hears)
}

/// What a handler does that never ends.
async fn for_ever() -> Result<(), BoxError> {
    std::future::pending().await
}

async fn event(endpoint: &mut Endpoint) -> EndpointEvent {
    within(endpoint.next())
        .await
        .expect("the endpoint has ended")
}

async fn message(endpoint: &mut Endpoint) -> Envelope {
    match event(endpoint).await {
        EndpointEvent::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

async fn error(endpoint: &mut Endpoint) -> EndpointError {
    match event(endpoint).await {
        EndpointEvent::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

/// Reads events to the end: what was not delivered, which must be all but the last.
async fn undelivered_until_closed(endpoint: &mut Endpoint) -> Vec<(String, Envelope)> {
    let mut undelivered = Vec::new();
    loop {
        match event(endpoint).await {
            EndpointEvent::Undelivered { to, envelope, .. } => undelivered.push((to, envelope)),
            EndpointEvent::Closed => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(within(endpoint.next()).await.is_none());
    undelivered
}

async fn heard(hears: &mut UnboundedReceiver<Envelope>) -> Value {
    within(hears.recv()).await.unwrap().data
}

/// A program that knows the frames and the JSON and nothing else.
struct Raw(PipeConnection);

impl Raw {
    async fn connect(name: &str) -> Self {
        Raw(within(PipeClient::connect(name)).await.unwrap())
    }

    async fn accept(server: &mut PipeServer) -> Self {
        Raw(within(server.accept()).await.unwrap())
    }

    async fn says(&mut self, json: impl ToString) {
        let json = json.to_string().into_bytes();
        within(self.0.send(Bytes::from(json))).await.unwrap();
    }

    async fn hears(&mut self) -> Value {
        let message = within(self.0.next()).await.expect("it has ended").unwrap();
        serde_json::from_slice(&message).unwrap()
    }
}

#[tokio::test]
async fn a_message_goes_to_the_handlers_for_its_action_and_its_sender_or_else_to_the_stream() {
    let [a, b, c] = ["a", "b", "c"].map(|it| unique_name(&format!("handlers-{it}")));
    let calls = mpsc::unbounded_channel();
    let note = |what: &'static str| {
        let calls = calls.0.clone();
        move |message: Envelope| {
            let calls = calls.clone();
            async move { Ok(calls.send((what, message.action, message.from, message.data))?) }
        }
    };
    let builder = patient(&c)
        .on("open", note("action"))
        .on_from(&a, note("sender"));
    let mut to = bind(builder).await;
    let (from_a, from_b) = (bind(patient(&a)).await, bind(patient(&b)).await);
    let mut calls = calls.1;
    let mut next = async || within(calls.recv()).await.unwrap();

    from_a.handle().send(&c, "open", 1).await.unwrap();
    let expected = |what, action: &str, from: &str, data: Value| {
        (what, action.to_string(), from.to_string(), data)
    };
    assert_eq!(next().await, expected("action", "open", &a, json!(1)));
    assert_eq!(next().await, expected("sender", "open", &a, json!(1)));
    from_a.handle().send(&c, "close", "x").await.unwrap();
    assert_eq!(next().await, expected("sender", "close", &a, json!("x")));
    from_b.handle().send(&c, "open", [1, 2]).await.unwrap();
    assert_eq!(next().await, expected("action", "open", &b, json!([1, 2])));

    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Thing {
        size: u64,
        name: String,
    }
    let thing = Thing {
        size: 3,
        name: "\u{1F980}".into(),
    };
    from_b.handle().send(&c, "close", &thing).await.unwrap();
    let rest = message(&mut to).await;
    assert_eq!((rest.action.as_str(), &rest.from), ("close", &b));
    assert_eq!(rest.parse::<Thing>().unwrap(), thing);
    assert!(rest.parse::<Vec<u8>>().is_err());
    assert!(!rest.wants_reply());
    // Nothing was in the stream that a handler had.
    assert!(stays_pending(&mut to.next()).await);
}

#[tokio::test]
async fn a_handler_can_come_later_and_takes_the_place_of_the_one_before() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("later-{it}")));
    let (from, mut to) = (bind(patient(&a)).await, bind(patient(&b)).await);
    let handle = from.handle();
    handle.send(&b, "open", 0).await.unwrap();
    assert_eq!(message(&mut to).await.data, 0);
    to.handle().on("open", async |_| Ok("first"));
    assert_eq!(handle.request(&b, "open", 1).await.unwrap(), "first");
    to.handle().on("open", async |_| Ok("second"));
    assert_eq!(handle.request(&b, "open", 2).await.unwrap(), "second");
    // It answers only what there is no handler of the action for.
    to.handle().on_from(&a, async |_| Ok("by sender"));
    assert_eq!(handle.request(&b, "open", 3).await.unwrap(), "second");
    assert_eq!(handle.request(&b, "other", 3).await.unwrap(), "by sender");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_need_the_handle_miss_nothing_and_keep_nothing_alive() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("prepare-{it}")));
    let from = bind(patient(&a)).await;
    from.handle()
        .on("double", async |message| Ok(2 * message.parse::<u64>()?));
    let handle = from.handle();
    let (asks, to) = (a.clone(), b.clone());
    // It waits for the other side to be there, and comes first.
    let request = tokio::spawn(async move { handle.request(&to, "quadruple", 5).await });
    let kept = Arc::new(());
    let (state, is_kept) = (kept.clone(), Arc::downgrade(&kept));
    drop(kept);
    let bound = patient(&b).bind_with(|handle| {
        let own = handle.clone();
        handle.on("quadruple", move |message| {
            let (own, asks, _state) = (own.clone(), asks.clone(), state.clone());
            async move {
                let double = own.request(&asks, "double", message.data).await?;
                Ok(own.request(&asks, "double", double).await?)
            }
        });
    });
    let endpoint = bound.unwrap();
    assert_eq!(within(request).await.unwrap().unwrap(), 20);
    drop(endpoint);
    within(async {
        while is_kept.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_each_sender_are_handled_one_at_a_time_and_in_the_order_of_sending() {
    let to = unique_name("order");
    let (calls, mut hears) = mpsc::unbounded_channel();
    let busy = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let builder = patient(&to).on("count", move |message| {
        let (calls, busy) = (calls.clone(), busy.clone());
        async move {
            assert!(busy.lock().unwrap().insert(message.from.clone()));
            let n: usize = message.parse()?;
            for _ in 0..n * 7 % 5 {
                tokio::task::yield_now().await;
            }
            busy.lock().unwrap().remove(&message.from);
            Ok(calls.send((message.from, n))?)
        }
    });
    let _to = bind(builder).await;
    let (senders, messages) = (4, 200);
    for sender in 0..senders {
        let to = to.clone();
        let from = bind(patient(&unique_name(&format!("order-{sender}")))).await;
        tokio::spawn(async move {
            for n in 0..messages {
                from.handle().send(&to, "count", n).await.unwrap();
            }
            from.handle().shutdown();
            from.run().await;
        });
    }
    let mut expected = std::collections::HashMap::new();
    for _ in 0..senders * messages {
        let (from, n) = within(hears.recv()).await.unwrap();
        let next = expected.entry(from).or_insert(0);
        assert_eq!(n, *next);
        *next += 1;
    }
}

#[tokio::test]
async fn a_request_is_answered_with_what_its_handler_returns_in_both_directions() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("request-{it}")));
    let double = async |message: Envelope| {
        assert!(message.wants_reply());
        Ok(2 * message.parse::<u64>()?)
    };
    let one = bind(patient(&a).on("double", double)).await;
    let two = bind(patient(&b).on("double", double)).await;
    let requests = (0..200).map(|n| {
        let (handle, to) = match n % 2 {
            0 => (one.handle(), &b),
            _ => (two.handle(), &a),
        };
        async move { (n, handle.request(to, "double", n).await.unwrap()) }
    });
    for (n, doubled) in within(futures::future::join_all(requests)).await {
        assert_eq!(doubled, 2 * n);
    }
    // To itself, too.
    assert_eq!(one.handle().request(&a, "double", 3).await.unwrap(), 6);
}

#[tokio::test]
async fn a_request_is_refused_when_its_handler_fails_or_panics_or_is_not_there() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("refuse-{it}")));
    let from = bind(patient(&a)).await;
    let builder = patient(&b)
        .max_message_size(1000)
        .on("fail", async |_| Err::<(), _>("no disk".into()))
        .on("panic", async |message| {
            assert!(message.data.is_null(), "it is not null");
            Ok(())
        })
        .on("large", async |_| Ok("x".repeat(1000)))
        .on("unfit", async |_| {
            Ok(std::collections::HashMap::from([((), 1)]))
        });
    let mut to = bind(builder).await;
    for (action, expected) in [
        ("fail", "no disk"),
        ("panic", "it panicked: it is not null"),
        ("large", "above the limit of 1000 bytes"),
        ("unfit", "key must be a string"),
        ("nothing", "there is no handler for it"),
    ] {
        let error = within(from.handle().request(&b, action, 1))
            .await
            .unwrap_err();
        let EndpointError::Refused { to, reason, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*to, b);
        assert!(reason.contains(expected), "{error}");
        assert!(error.to_string().contains(action), "{error}");
    }
    // Those who asked know: the other side need not hear of it.
    assert!(stays_pending(&mut to.next()).await);
}

#[tokio::test]
async fn a_handler_that_fails_or_panics_ends_its_message_alone_and_is_told() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("fail-{it}")));
    let from = bind(patient(&a)).await;
    let mut to = bind(patient(&b).on("divide", async |message| {
        let divisor: u32 = message.parse()?;
        assert!(divisor < 10, "{divisor} is too much");
        1_u32.checked_div(divisor).ok_or("by zero")?;
        Ok(())
    }))
    .await;
    for data in [json!(0), json!("text"), json!(10)] {
        from.handle().send(&b, "divide", data).await.unwrap();
    }
    from.handle().send(&b, "rest", ()).await.unwrap();
    for expected in ["by zero", "invalid type", "it panicked: 10 is too much"] {
        let error = error(&mut to).await;
        assert!(matches!(&error, EndpointError::Handler { from, .. } if *from == a));
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(message(&mut to).await.action, "rest");
}

#[tokio::test]
async fn two_programs_can_ask_each_other_from_within_their_handlers() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("nested-{it}")));
    let (one, two) = (bind(patient(&a)).await, bind(patient(&b)).await);
    // Each asks the other for a smaller number, down to zero: also while handling a message,
    // behind which others wait.
    for (endpoint, other) in [(&one, b.clone()), (&two, a.clone())] {
        let handle = endpoint.handle();
        let sum = move |message: Envelope| {
            let (handle, other) = (handle.clone(), other.clone());
            async move {
                let n: u64 = message.parse()?;
                if n == 0 {
                    return Ok::<_, BoxError>(0);
                }
                let less = handle.request(&other, "sum", n - 1).await?;
                Ok(n + less.as_u64().ok_or("no number")?)
            }
        };
        endpoint.handle().on("sum", sum);
    }
    let sum = within(one.handle().request(&b, "sum", 10)).await.unwrap();
    assert_eq!(sum, 55);

    let (done, mut is_done) = mpsc::unbounded_channel();
    let handle = two.handle();
    let asks = a.clone();
    two.handle().on("start", move |_| {
        let (handle, asks, done) = (handle.clone(), asks.clone(), done.clone());
        async move { Ok(done.send(handle.request(&asks, "sum", 10).await?)?) }
    });
    for _ in 0..3 {
        one.handle().send(&b, "start", ()).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(within(is_done.recv()).await.unwrap(), 55);
    }
}

#[tokio::test]
async fn a_request_begins_after_the_messages_before_it_and_does_not_wait_for_a_slow_one() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("overtake-{it}")));
    let from = bind(patient(&a)).await;
    let value = Arc::new(AtomicUsize::new(0));
    let released = Arc::new(Notify::new());
    let (set, get, wait) = (value.clone(), value.clone(), released.clone());
    let builder = patient(&b)
        .on("set", move |message| {
            let set = set.clone();
            async move {
                set.store(message.parse()?, Ordering::Relaxed);
                Ok(())
            }
        })
        .on("get", move |_| {
            let get = get.clone();
            async move { Ok(get.load(Ordering::Relaxed)) }
        })
        .on("wait", move |_| {
            let wait = wait.clone();
            async move {
                wait.notified().await;
                Ok(())
            }
        });
    let _to = bind(builder).await;
    let handle = from.handle();
    for n in 1..100 {
        handle.send(&b, "set", n).await.unwrap();
        assert_eq!(within(handle.request(&b, "get", ())).await.unwrap(), n);
    }
    handle.send(&b, "wait", ()).await.unwrap();
    handle.send(&b, "set", 1000).await.unwrap();
    assert_eq!(within(handle.request(&b, "get", ())).await.unwrap(), 99);
    released.notify_one();
    within(async { while handle.request(&b, "get", ()).await.unwrap() != 1000 {} }).await;
}

#[tokio::test]
async fn a_request_that_is_not_answered_ends_at_its_deadline_and_says_what_is_known() {
    let [a, b, nobody] = ["a", "b", "nobody"].map(|it| unique_name(&format!("deadline-{it}")));
    let from = bind(patient(&a).request_timeout(SOON)).await;
    let _to = bind(patient(&b).on("wait", async |_| for_ever().await)).await;
    for (to, known) in [(&b, "it has not answered"), (&nobody, "no server listens")] {
        // On a busy machine, little is known so soon.
        let asking = async {
            loop {
                let error = from.handle().request(to, "wait", ()).await.unwrap_err();
                let text = error.to_string();
                assert!(
                    matches!(error, EndpointError::NoReply { waited, .. } if waited >= SOON),
                    "{text}"
                );
                assert!(text.contains(to), "{text}");
                if text.contains(known) {
                    break;
                }
            }
        };
        within(asking).await;
    }
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_any_more_is_not_sent() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("cancelled-{it}")));
    let from = bind(patient(&a)).await;
    let handle = from.handle();
    handle.send(&b, "first", ()).await.unwrap();
    let mut request = Box::pin(handle.request(&b, "second", ()));
    assert!(stays_pending(&mut request).await);
    drop(request);
    handle.send(&b, "third", ()).await.unwrap();
    let mut server = PipeServer::bind(&b).unwrap();
    let mut to = Raw::accept(&mut server).await;
    assert_eq!(to.hears().await["action"], "first");
    assert_eq!(to.hears().await["action"], "third");
}

#[tokio::test]
async fn what_is_sent_before_the_other_side_is_there_is_delivered_in_order_once_it_is() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("early-{it}")));
    let from = bind(patient(&a)).await;
    for n in 0..50 {
        from.handle().try_send(&b, "count", n).unwrap();
    }
    let handle = from.handle();
    let mut request = Box::pin(handle.request(&b, "last", ()));
    assert!(stays_pending(&mut request).await);
    let (to, mut hears) = collecting(&b, "count").await;
    to.handle().on("last", async |_| Ok("replied"));
    for n in 0..50 {
        assert_eq!(heard(&mut hears).await, n);
    }
    // The handler for it may not have been there yet.
    match within(request).await {
        Ok(reply) => assert_eq!(reply, "replied"),
        Err(error) => assert!(matches!(error, EndpointError::Refused { .. }), "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_comes_twice_when_the_other_side_is_started_again() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("restart-{it}")));
    let from = bind(patient(&a)).await;
    let handle = from.handle();
    let messages = 3000;
    let to = b.clone();
    let sending = tokio::spawn(async move {
        for n in 0..messages {
            handle.send(&to, "count", n).await.unwrap();
        }
    });
    let mut next = 0;
    for stop_at in [100, 1000, 1001, 2000, messages] {
        let (mut endpoint, mut hears) = collecting(&b, "count").await;
        while next < stop_at {
            assert_eq!(heard(&mut hears).await, next);
            next += 1;
        }
        endpoint.handle().shutdown();
        assert!(undelivered_until_closed(&mut endpoint).await.is_empty());
        drop(endpoint);
        // The handlers are gone: what they had heard before the end is all there is.
        while let Some(message) = within(hears.recv()).await {
            assert_eq!(message.data, next);
            next += 1;
        }
        if next == messages {
            break;
        }
    }
    assert_eq!(next, messages);
    within(sending).await.unwrap();
    let mut from = from;
    assert!(stays_pending(&mut from.next()).await);
}

#[tokio::test]
async fn a_queue_is_bounded_and_whoever_finds_it_full_is_told() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("full-{it}")));
    let from = bind(patient(&a).queue(3)).await;
    let handle = from.handle();
    let mut sent = 0;
    // Three wait, and one is in hand, once it was taken.
    let error = loop {
        match handle.try_send(&b, "count", sent) {
            Ok(()) => sent += 1,
            Err(_) if sent < 4 => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(sent, 4);
    assert!(
        matches!(&error, EndpointError::QueueFull { to, messages: 3, .. } if *to == b),
        "{error}"
    );
    // Others have queues of their own.
    handle.try_send(&a, "count", 0).unwrap();

    let mut cancelled = Box::pin(handle.send(&b, "count", "cancelled"));
    assert!(stays_pending(&mut cancelled).await);
    drop(cancelled);
    let mut waiting = Box::pin(handle.send(&b, "count", sent));
    assert!(stays_pending(&mut waiting).await);
    let (_to, mut hears) = collecting(&b, "count").await;
    within(waiting).await.unwrap();
    for n in 0..=sent {
        assert_eq!(heard(&mut hears).await, n);
    }
}

#[tokio::test]
async fn everyone_who_waits_for_room_gets_it_in_turn() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("turns-{it}")));
    let _other = tokio::spawn(bind(patient(&b).on("count", async |_| Ok(()))).await.run());
    let endpoint = bind(patient(&a).queue(2)).await;
    let served = Arc::new(AtomicUsize::new(0));
    let senders = (0..8).map(|_| {
        let (handle, b, served) = (endpoint.handle(), b.clone(), served.clone());
        tokio::spawn(async move {
            // Those who had their turns go on until everyone has had them.
            for sent in 1.. {
                handle.send(&b, "count", ()).await.unwrap();
                if sent == 20 {
                    served.fetch_add(1, Ordering::Relaxed);
                }
                if served.load(Ordering::Relaxed) == 8 {
                    break;
                }
            }
        })
    });
    let sent = futures::future::join_all(senders.collect::<Vec<_>>());
    for sender in within(sent).await {
        sender.unwrap();
    }
}

#[tokio::test]
async fn sending_does_not_wait_for_room_for_ever() {
    let [a, nobody] = ["a", "nobody"].map(|it| unique_name(&format!("room-{it}")));
    let from = bind(patient(&a).queue(1).give_up_after(SOON)).await;
    let handle = from.handle();
    // Nobody reads the events here: what is given up stays in hand when there are many.
    let sending = async {
        loop {
            if let Err(error) = handle.send(&nobody, "count", ()).await {
                break error;
            }
        }
    };
    let error = within(sending).await;
    assert!(
        matches!(error, EndpointError::QueueFull { messages: 1, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn what_cannot_be_delivered_comes_back_in_order_with_the_reason() {
    let [a, nobody] = ["a", "nobody"].map(|it| unique_name(&format!("give-up-{it}")));
    let mut from = bind(patient(&a).give_up_after(SOON)).await;
    let handle = from.handle();
    for n in 0..10 {
        handle.send(&nobody, "count", [n]).await.unwrap();
    }
    for n in 0..10 {
        match event(&mut from).await {
            EndpointEvent::Undelivered {
                to,
                envelope,
                error,
                ..
            } => {
                assert_eq!(to, nobody);
                assert_eq!((envelope.action.as_str(), &envelope.from), ("count", &a));
                assert_eq!(envelope.data, json!([n]));
                assert!(
                    matches!(&error, EndpointError::Undelivered { waited, .. } if *waited >= SOON),
                    "{error:?}"
                );
                // On a busy machine, there may have been no attempt so soon.
                let text = error.to_string();
                let reasons = ["no server listens on", "its turn did not come"];
                assert!(reasons.iter().any(|it| text.contains(it)), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    let error = within(handle.request(&nobody, "count", 0)).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, EndpointError::Undelivered { .. }),
        "{error:?}"
    );
    // It was told to whoever asked, and to nobody else.
    assert!(stays_pending(&mut from.next()).await);
}

#[tokio::test]
async fn a_program_that_does_not_read_gets_the_message_later_or_its_sender_gets_it_back() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("stuck-{it}")));
    let mut server = PipeServer::bind(&b).unwrap();
    let mut from = bind(patient(&a).give_up_after(20 * SOON)).await;
    let large = "x".repeat(LARGE);
    from.handle().send(&b, "large", &large).await.unwrap();
    let _stuck = within(server.accept()).await.unwrap();
    match event(&mut from).await {
        EndpointEvent::Undelivered {
            envelope, error, ..
        } => {
            assert!(envelope.data == large);
            assert!(error.to_string().contains("it does not read"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // The next one does not go out behind half a message.
    from.handle().send(&b, "small", ()).await.unwrap();
    let mut reads = Raw::accept(&mut server).await;
    assert_eq!(reads.hears().await["action"], "small");
}

#[tokio::test]
async fn a_message_of_which_only_a_part_came_before_a_crash_is_sent_again() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("part-{it}")));
    let from = bind(patient(&a)).await;
    let handle = from.handle();
    let large = "x".repeat(LARGE);
    handle.send(&b, "first", &large).await.unwrap();
    handle.send(&b, "second", 2).await.unwrap();
    let mut request = Box::pin(handle.request(&b, "third", 3));
    assert!(stays_pending(&mut request).await);
    let mut listener = PipeServer::builder(&b).bind_bytes().unwrap();
    for part in [1, 4, 100, LARGE / 2] {
        let mut crashes: PipeStream = within(listener.accept()).await.unwrap();
        within(crashes.read_exact(&mut vec![0; part]))
            .await
            .unwrap();
    }
    drop(listener);
    let mut server = bind_server(&b).await;
    let mut to = Raw::accept(&mut server).await;
    let first = to.hears().await;
    assert_eq!(first["action"], "first");
    assert!(first["data"] == large);
    assert_eq!(to.hears().await["action"], "second");
    let third = to.hears().await;
    assert_eq!(third["action"], "third");
    to.says(json!({"reply": third["id"], "data": "here"})).await;
    assert_eq!(within(request).await.unwrap(), "here");
}

/// As [`bind`], for a server.
async fn bind_server(name: &str) -> PipeServer {
    let binding = async {
        loop {
            match PipeServer::bind(name) {
                Err(Error::AddressInUse { .. }) => tokio::task::yield_now().await,
                bound => return bound.unwrap(),
            }
        }
    };
    within(binding).await
}

/// A connection of this crate that is dropped goes on reading for a while. A crash does not.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_crashed_program_had_not_read_is_lost_and_linux_says_so() {
    use std::io::Read;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crashes.sock");
    let to = path.to_str().unwrap();
    let mut from = bind(patient(&unique_name("unread"))).await;
    let handle = from.handle();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    handle.send(to, "first", "x".repeat(1000)).await.unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.read_exact(&mut [0; 4]).unwrap();
        stream
    });
    // All of it is with the system then.
    let crashes = within(reading).await.unwrap();
    assert!(stays_pending(&mut from.next()).await);
    drop(crashes);
    let error = error(&mut from).await;
    assert!(
        matches!(&error, EndpointError::Unread { to: it, .. } if it == to),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    let mut server = PipeServer::bind(to).unwrap();
    handle.send(to, "second", ()).await.unwrap();
    let mut to = Raw::accept(&mut server).await;
    assert_eq!(to.hears().await["action"], "second");
}

#[tokio::test]
async fn a_request_is_not_sent_again_when_its_connection_ends_before_the_reply() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("unanswered-{it}")));
    let from = bind(patient(&a)).await;
    let mut server = PipeServer::bind(&b).unwrap();
    let handle = from.handle();
    let asking = handle.request(&b, "open", ());
    let leaving = async {
        let mut to = Raw::accept(&mut server).await;
        assert_eq!(to.hears().await["action"], "open");
    };
    let (asked, ()) = within(async { tokio::join!(asking, leaving) }).await;
    let error = asked.unwrap_err();
    assert!(
        matches!(&error, EndpointError::Unanswered { to, action, .. } if *to == b && action == "open"),
        "{error:?}"
    );
    handle.send(&b, "next", ()).await.unwrap();
    let mut to = Raw::accept(&mut server).await;
    assert_eq!(to.hears().await["action"], "next");
}

#[tokio::test]
async fn a_request_without_a_reply_says_which_side_has_ended() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("ended-{it}")));
    let mut server = PipeServer::bind(&b).unwrap();
    for (shuts_down, leaves, expected) in [
        (false, false, "this endpoint has ended"),
        (true, false, "this endpoint has ended"),
        (false, true, "it left before it replied"),
    ] {
        let from = bind(patient(&a).drain_timeout(SOON)).await;
        let handle = from.handle();
        let mut request = Box::pin(handle.request_within(Duration::MAX, &b, "open", ()));
        assert!(stays_pending(&mut request).await);
        let mut to = Raw::accept(&mut server).await;
        assert_eq!(to.hears().await["action"], "open");
        assert!(stays_pending(&mut request).await);
        let _from = match (shuts_down, leaves) {
            (true, _) => {
                handle.shutdown();
                Some(from)
            }
            (_, true) => {
                drop(to);
                Some(from)
            }
            _ => {
                drop(from);
                None
            }
        };
        let error = within(request).await.unwrap_err();
        assert!(
            matches!(&error, EndpointError::Unanswered { to, .. } if *to == b),
            "{error:?}"
        );
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

#[tokio::test]
async fn an_idle_endpoint_notices_that_the_other_side_has_left_and_keeps_nothing_for_it() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("idle-{it}")));
    let from = bind(patient(&a)).await;
    // On Windows, listening has a task of its own.
    let mut server = PipeServer::bind(&b).unwrap();
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    from.handle().send(&b, "hello", ()).await.unwrap();
    let mut to = Raw::accept(&mut server).await;
    assert_eq!(to.hears().await["action"], "hello");
    assert!(tasks.num_alive_tasks() > before);
    drop(to);
    within(async {
        while tasks.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    from.handle().send(&b, "again", ()).await.unwrap();
    let mut to = Raw::accept(&mut server).await;
    assert_eq!(to.hears().await["action"], "again");
}

#[tokio::test]
async fn a_plain_client_sends_and_asks_on_one_connection() {
    let name = unique_name("plain-client");
    let mut endpoint = bind(patient(&name).on("add", async |message| {
        let (a, b): (i32, i32) = message.parse()?;
        Ok(a + b)
    }))
    .await;
    let mut client = Raw::connect(&name).await;
    client
        .says(json!({"action": "hello", "from": "raw", "data": {"x": [1]}, "unknown": 1}))
        .await;
    let hello = message(&mut endpoint).await;
    assert_eq!(
        (hello.action.as_str(), hello.from.as_str()),
        ("hello", "raw")
    );
    assert_eq!(hello.data, json!({"x": [1]}));
    client
        .says(json!({"action": "add", "from": "raw", "data": [2, 3], "id": 0}))
        .await;
    let reply = json!({"action": "add", "from": name, "data": 5, "reply": 0});
    assert_eq!(client.hears().await, reply);
    client
        .says(json!({"action": "sub", "from": "raw", "id": 9}))
        .await;
    let reply =
        json!({"action": "sub", "from": name, "error": "there is no handler for it", "reply": 9});
    assert_eq!(client.hears().await, reply);
}

#[tokio::test]
async fn a_plain_server_answers_and_sends_on_the_connection_that_was_made_to_it() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("plain-server-{it}")));
    let mut from = bind(patient(&a).on("version", async |_| Ok("1.0"))).await;
    let mut server = PipeServer::bind(&b).unwrap();
    let handle = from.handle();
    let asking = handle.request(&b, "open", "x");
    let answering = async {
        let mut to = Raw::accept(&mut server).await;
        let request = to.hears().await;
        assert_eq!(request["from"], json!(a));
        assert_eq!(request["data"], "x");
        // Something else first, in both kinds, and a reply to nothing.
        to.says(json!({"action": "news", "from": "raw"})).await;
        to.says(json!({"reply": u64::MAX, "data": "nobody asked"}))
            .await;
        to.says(json!({"action": "version", "from": "raw", "id": 7}))
            .await;
        let reply = to.hears().await;
        assert_eq!(
            reply,
            json!({"action": "version", "from": a, "data": "1.0", "reply": 7})
        );
        to.says(json!({"reply": request["id"], "data": [true]}))
            .await;
        to
    };
    let (asked, mut to) = within(async { tokio::join!(asking, answering) }).await;
    assert_eq!(asked.unwrap(), json!([true]));
    assert_eq!(message(&mut from).await.action, "news");

    let asking = handle.request(&b, "close", ());
    let refusing = async {
        let request = to.hears().await;
        to.says(json!({"reply": request["id"], "error": "not now"}))
            .await;
    };
    let (asked, ()) = within(async { tokio::join!(asking, refusing) }).await;
    let error = asked.unwrap_err();
    assert!(
        matches!(&error, EndpointError::Refused { reason, .. } if reason == "not now"),
        "{error}"
    );
}

#[tokio::test]
async fn a_message_that_is_no_envelope_is_told_and_its_connection_goes_on() {
    let name = unique_name("malformed");
    let mut endpoint = bind(patient(&name).on("ping", async |_| Ok("pong"))).await;
    let mut client = Raw::connect(&name).await;
    for (bad, expected) in [
        ("", "not a JSON object"),
        ("hello", "not a JSON object"),
        ("[1, 2]", "not a JSON object"),
        ("{\"action\": ", "EOF while parsing"),
        ("{\"from\": \"raw\"}", "`action` is missing"),
        ("{\"action\": \"a\"}", "`from` is missing"),
        (
            "{\"action\": 1, \"from\": \"raw\"}",
            "invalid type: integer",
        ),
    ] {
        client.says(bad).await;
        let error = error(&mut endpoint).await;
        let EndpointError::BadEnvelope { process_id, .. } = error else {
            panic!("{error:?}");
        };
        if cfg!(any(windows, target_os = "linux")) {
            assert_eq!(process_id, Some(std::process::id()));
        }
        assert!(error.to_string().contains(expected), "{bad}: {error}");
    }
    // Whoever waits for a reply gets one.
    client
        .says(json!({"action": ["ping"], "from": "raw", "id": 5}))
        .await;
    let reply = client.hears().await;
    assert_eq!(reply["reply"], 5);
    assert!(reply["error"].as_str().unwrap().contains("not an envelope"));
    client
        .says(json!({"action": "ping", "from": "raw", "id": 6}))
        .await;
    assert_eq!(client.hears().await["data"], "pong");
}

#[tokio::test]
async fn a_frame_that_ends_early_ends_its_connection_alone() {
    let name = unique_name("frames");
    let builder = patient(&name).max_message_size(100);
    let mut endpoint = bind(builder.on("ping", async |_| Ok("pong"))).await;
    let mut other = Raw::connect(&name).await;
    for (bytes, expected) in [
        (&[0, 0, 0, 10, b'{'][..], "ended inside a message"),
        // That it is above the limit is told, and that it ends early is no news then.
        (
            &[0, 0, 0, 101][..],
            "a message of 101 bytes is above the limit",
        ),
        (&[0, 0, 0, 101, b'{'][..], "101 bytes is above the limit"),
        (&[0, 0][..], "ended inside a message"),
    ] {
        let client = PipeClient::builder(&name);
        let mut client = within(client.connect_bytes()).await.unwrap();
        within(client.write_all(bytes)).await.unwrap();
        within(client.flush()).await.unwrap();
        drop(client);
        let error = error(&mut endpoint).await;
        assert!(error.to_string().contains(expected), "{error}");
    }
    other
        .says(json!({"action": "ping", "from": "raw", "id": 1}))
        .await;
    assert_eq!(other.hears().await["data"], "pong");
    assert!(stays_pending(&mut endpoint.next()).await);
}

#[tokio::test]
async fn a_message_above_the_limit_is_left_out_and_told_and_its_connection_goes_on() {
    let name = unique_name("too-large");
    let builder = patient(&name).max_message_size(1000);
    let mut endpoint = bind(builder.on("ping", async |_| Ok("pong"))).await;
    let mut client = Raw::connect(&name).await;
    for size in [1001, 5000, 100_000, LARGE] {
        // What is before it and behind it goes out in one with it. What is left out looks like
        // frames.
        let ping = |id| json!({"action": "ping", "from": "raw", "id": id}).to_string();
        let frames = [
            Bytes::from(ping(1)),
            Bytes::from(vec![0; size]),
            Bytes::from(ping(2)),
        ];
        for frame in frames {
            within(client.0.feed(frame)).await.unwrap();
        }
        within(client.0.flush()).await.unwrap();
        let error = error(&mut endpoint).await;
        let text = format!("a message of {size} bytes is above the limit of 1000 bytes");
        assert!(error.to_string().starts_with(&text), "{error}");
        let EndpointError::TooLarge { process_id, .. } = error else {
            panic!("{error:?}");
        };
        if cfg!(any(windows, target_os = "linux")) {
            assert_eq!(process_id, Some(std::process::id()));
        }
        let mut replies = 0;
        for _ in 0..3 {
            let heard = client.hears().await;
            if heard.get("reply").is_some() {
                assert_eq!(heard["data"], "pong");
                replies += 1;
            } else {
                let rejection = json!({"from": name, "error": text, "size": size});
                assert_eq!(heard, rejection);
            }
        }
        assert_eq!(replies, 2);
    }
    assert!(stays_pending(&mut endpoint.next()).await);
}

#[tokio::test]
async fn whoever_sends_what_is_above_the_limit_of_the_other_side_is_told_and_the_rest_arrives() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("rejected-{it}")));
    let mut from = bind(patient(&a)).await;
    let handle = from.handle();
    let mut to = bind(patient(&b).max_message_size(1000)).await;
    to.handle()
        .on("size", async |message| Ok(message.parse::<&str>()?.len()));
    for size in [1000, LARGE] {
        let large = "x".repeat(size);
        handle.send(&b, "count", 1).await.unwrap();
        handle.send(&b, "count", &large).await.unwrap();
        handle.send(&b, "count", 2).await.unwrap();
        assert_eq!(message(&mut to).await.data, 1);
        let told = error(&mut to).await;
        assert!(
            matches!(told, EndpointError::TooLarge { max: 1000, .. }),
            "{told}"
        );
        assert_eq!(message(&mut to).await.data, 2);
        let told = error(&mut from).await;
        assert!(
            matches!(&told, EndpointError::Rejected { to, .. } if *to == b),
            "{told}"
        );
        let text = told.to_string();
        assert!(text.ends_with("is above the limit of 1000 bytes"), "{text}");

        // Of requests, those who asked are told, while others are on their way.
        let asking = [&large[..], "x", &large, "xx"].map(|it| handle.request(&b, "size", it));
        let [first, one, third, two] =
            <[_; 4]>::try_from(within(futures::future::join_all(asking)).await).unwrap();
        assert_eq!((one.unwrap(), two.unwrap()), (1.into(), 2.into()));
        for refused in [first, third] {
            let refused = refused.unwrap_err();
            assert!(
                matches!(&refused, EndpointError::Refused { to, .. } if *to == b),
                "{refused}"
            );
            let text = refused.to_string();
            assert!(text.ends_with("is above the limit of 1000 bytes"), "{text}");
            let told = error(&mut to).await;
            assert!(matches!(told, EndpointError::TooLarge { .. }), "{told}");
        }
    }
    // Each was told once.
    assert!(stays_pending(&mut to.next()).await);
    assert!(stays_pending(&mut from.next()).await);
}

#[tokio::test]
async fn a_reply_above_the_limit_fails_its_request_at_once() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("large-reply-{it}")));
    let mut from = bind(patient(&a).max_message_size(1000)).await;
    let handle = from.handle();
    let repeat = async |message: Envelope| Ok("x".repeat(message.parse()?));
    let mut to = bind(patient(&b).on("repeat", repeat)).await;
    let asking = handle.request_within(Duration::MAX, &b, "repeat", 1000);
    let missed = within(asking).await.unwrap_err();
    assert!(
        matches!(&missed, EndpointError::Unanswered { to, .. } if *to == b),
        "{missed}"
    );
    assert!(
        missed.to_string().contains("may have been the reply"),
        "{missed}"
    );
    let told = error(&mut from).await;
    assert!(matches!(told, EndpointError::TooLarge { .. }), "{told}");
    let told = error(&mut to).await;
    assert!(
        matches!(&told, EndpointError::Rejected { to, .. } if *to == a),
        "{told}"
    );
    let reply = within(handle.request(&b, "repeat", 3)).await.unwrap();
    assert_eq!(reply, "xxx");
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_at_once_with_the_reason() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("refused-{it}")));
    let from = bind(patient(&a).max_message_size(1000)).await;
    let handle = from.handle();
    let mut deep = json!(0);
    for _ in 0..127 {
        deep = json!([deep]);
    }
    let long = "x".repeat(1000);
    for (to, data, expected) in [
        ("a/b", json!(1), "invalid pipe name \"a/b\""),
        ("", json!(1), "a name is not empty"),
        (&b, json!(long), "above the limit of 1000 bytes"),
        (&b, deep, "nested more than 126 deep"),
    ] {
        let errors = [
            handle.send(to, "open", &data).await.unwrap_err(),
            handle.try_send(to, "open", &data).unwrap_err(),
            handle.request(to, "open", &data).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    let unfit = std::collections::HashMap::from([((), 1)]);
    let error = handle.send(&b, "open", unfit).await.unwrap_err();
    assert!(matches!(&error, EndpointError::Data { action, .. } if action == "open"));
    for bad in ["", "a/b"] {
        let error = Endpoint::bind(bad).unwrap_err();
        assert!(matches!(error, Error::InvalidName(_)), "{error}");
    }
}

#[tokio::test]
async fn no_more_than_so_many_messages_of_a_connection_are_in_hand() {
    let name = unique_name("handlers");
    let gate = Arc::new(Semaphore::new(0));
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opens, count, peak) = (gate.clone(), now.clone(), most.clone());
    let builder = patient(&name).handlers(3).on("wait", move |_| {
        let (opens, count, peak) = (opens.clone(), count.clone(), peak.clone());
        async move {
            let n = count.fetch_add(1, Ordering::Relaxed) + 1;
            peak.fetch_max(n, Ordering::Relaxed);
            opens.acquire().await?.forget();
            Ok(count.fetch_sub(1, Ordering::Relaxed))
        }
    });
    let _endpoint = bind(builder).await;
    let mut client = Raw::connect(&name).await;
    for id in 0..10 {
        client
            .says(json!({"action": "wait", "from": "raw", "id": id}))
            .await;
    }
    within(async {
        while now.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(stays_pending(&mut Box::pin(client.hears())).await);
    gate.add_permits(10);
    let mut replies = Vec::new();
    for _ in 0..10 {
        replies.push(client.hears().await["reply"].as_u64().unwrap());
    }
    replies.sort_unstable();
    assert_eq!(replies, Vec::from_iter(0..10));
    assert_eq!(most.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn no_more_than_so_many_bytes_of_a_connection_are_in_hand_and_replies_come_all_the_same() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("bytes-{it}")));
    let gate = Arc::new(Semaphore::new(0));
    let begun = Arc::new(AtomicUsize::new(0));
    let (opens, count) = (gate.clone(), begun.clone());
    let builder = patient(&a)
        .max_message_size(100_000)
        .bytes_in_hand(10_000)
        .on("wait", move |message| {
            let (opens, count) = (opens.clone(), count.clone());
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                opens.acquire().await?.forget();
                Ok(message.data)
            }
        });
    let endpoint = bind(builder).await;
    let _other = bind(patient(&b).on("ping", async |_| Ok("x".repeat(50_000)))).await;
    // The second one comes while fewer bytes are in hand than may be. A longer one is read alone.
    // Three of them fit into a Windows pipe, where they wait.
    for (data, at_a_time) in [("x".repeat(6_000), 2), ("x".repeat(20_000), 1)] {
        let mut client = Raw::connect(&a).await;
        begun.store(0, Ordering::Relaxed);
        for id in 0..4 {
            client
                .says(json!({"action": "wait", "from": "raw", "id": id, "data": data}))
                .await;
        }
        within(async {
            while begun.load(Ordering::Relaxed) < at_a_time {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(stays_pending(&mut Box::pin(client.hears())).await);
        assert_eq!(begun.load(Ordering::Relaxed), at_a_time);
        let pong = within(endpoint.handle().request(&b, "ping", ())).await;
        assert_eq!(pong.unwrap().as_str().unwrap().len(), 50_000);
        gate.add_permits(4);
        for _ in 0..4 {
            assert_eq!(client.hears().await["data"], data);
        }
    }
}

#[tokio::test]
async fn messages_that_are_no_envelopes_and_rejections_count_among_the_bytes_in_hand() {
    let text = "x".repeat(20_000);
    for json in [
        json!({"from": "raw", "error": text}),
        json!({"from": "raw", "action": text, "id": text}),
    ] {
        let builder = patient(&unique_name("bytes-in-events")).handlers(10_000);
        // Nobody reads its events.
        let endpoint = bind(builder.bytes_in_hand(50_000)).await;
        let mut client = Raw::connect(endpoint.name()).await;
        let mut taken = 0;
        loop {
            let mut said = Box::pin(client.says(&json));
            if stays_pending(&mut said).await {
                break;
            }
            taken += 1;
            assert!(taken < 1_000, "{taken} were taken");
        }
    }
}

#[tokio::test]
async fn what_comes_from_someone_who_has_asked_to_end_the_connection_is_bounded_as_well() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("flood-{it}")));
    let mut server = PipeServer::bind(&b).unwrap();
    let builder = patient(&a).bytes_in_hand(50_000);
    let endpoint = bind(builder.on("wait", async |_| for_ever().await)).await;
    endpoint.handle().send(&b, "hello", ()).await.unwrap();
    let mut other = Raw::accept(&mut server).await;
    other.hears().await;
    other.says(json!({"from": "raw", "closing": true})).await;
    if cfg!(windows) {
        return skipped("pipes have no end of one direction");
    }
    // It sends nothing more.
    assert!(within(other.0.next()).await.is_none());
    let json = json!({"from": "raw", "action": "wait", "data": "x".repeat(20_000)});
    for taken in 0.. {
        assert!(taken < 1_000, "{taken} were taken");
        let mut said = Box::pin(other.says(&json));
        if stays_pending(&mut said).await {
            break;
        }
    }
}

#[tokio::test]
async fn what_is_wrong_behind_the_wish_to_end_a_connection_is_told_and_the_rest_is_read() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("behind-{it}")));
    let mut server = PipeServer::bind(&b).unwrap();
    let mut endpoint = bind(patient(&a).max_message_size(1_000)).await;
    endpoint.handle().send(&b, "hello", ()).await.unwrap();
    let mut other = Raw::accept(&mut server).await;
    other.hears().await;
    other.says(json!({"from": "raw", "closing": true})).await;
    if cfg!(windows) {
        return skipped("pipes have no end of one direction");
    }
    assert!(within(other.0.next()).await.is_none());
    let long = json!({"action": "long", "from": "raw", "data": "x".repeat(2_000)});
    other.says(long).await;
    other.says(json!({"action": "last", "from": "raw"})).await;
    let told = error(&mut endpoint).await;
    assert!(matches!(told, EndpointError::TooLarge { .. }), "{told:?}");
    assert_eq!(message(&mut endpoint).await.action, "last");
}

#[tokio::test]
async fn a_connection_ends_when_nobody_waits_for_its_last_reply_any_more() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("last-{it}")));
    let mut server = PipeServer::bind(&b).unwrap();
    let endpoint = bind(patient(&a)).await;
    let (handle, to) = (endpoint.handle(), b.clone());
    let asking = tokio::spawn(async move {
        handle
            .request_within(Duration::MAX, &to, "wait", ())
            .await
            .unwrap();
    });
    let mut other = Raw::accept(&mut server).await;
    assert_eq!(other.hears().await["action"], "wait");
    other.says(json!({"from": "raw", "closing": true})).await;
    assert!(stays_pending(&mut other.0.next()).await);
    asking.abort();
    assert!(within(other.0.next()).await.is_none());
}

#[tokio::test]
async fn only_messages_count_among_those_that_were_not_handled() {
    let name = unique_name("unhandled-alone");
    let builder = patient(&name).drain_timeout(SOON);
    let mut endpoint = bind(builder.on("large", async |_| Ok("x".repeat(LARGE)))).await;
    let mut client = Raw::connect(&name).await;
    client
        .says(json!({"action": "large", "from": "raw", "id": 1}))
        .await;
    // It has begun to reply, which it cannot finish.
    assert!(stays_pending(&mut endpoint.next()).await);
    endpoint.handle().shutdown();
    let error = error(&mut endpoint).await;
    let EndpointError::Unhandled { messages: 1, .. } = error else {
        panic!("{error:?}");
    };
}

#[tokio::test]
async fn a_handler_that_has_ended_waits_for_no_reply_whoever_has_its_request() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("handed-on-{it}")));
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let builder = patient(&a).handlers(1).on("wait", move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        for_ever()
    });
    let binding = builder.bind_with(|handle| {
        let own = handle.clone();
        handle.on("ask", move |_| {
            let (own, b) = (own.clone(), b.clone());
            let mut asking = Box::pin(async move { own.request(&b, "absent", ()).await });
            async move {
                assert!(stays_pending(&mut asking).await);
                tokio::spawn(asking);
                Ok(())
            }
        });
    });
    let _running = tokio::spawn(binding.unwrap().run());
    let mut client = Raw::connect(&a).await;
    client
        .says(json!({"action": "ask", "from": "raw", "id": 0}))
        .await;
    assert_eq!(client.hears().await["reply"], 0);
    for id in 1..4 {
        client
            .says(json!({"action": "wait", "from": "raw", "id": id}))
            .await;
    }
    assert!(stays_pending(&mut Box::pin(client.hears())).await);
    assert_eq!(begun.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_drain_timeout_is_that_of_the_shutdown_for_connections_that_are_made_later_too() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("late-{it}")));
    let drain_timeout = Duration::from_secs(100);
    let builder = patient(&a).give_up_after(Duration::MAX);
    let builder = builder.drain_timeout(drain_timeout);
    let mut endpoint = builder
        .on("wait", async |_| for_ever().await)
        .bind()
        .unwrap();
    assert!(matches!(endpoint.next().await, Some(EndpointEvent::Ready)));
    // More than can be sent while the other side does not read.
    let large = "x".repeat(LARGE);
    endpoint.handle().send(&b, "hello", large).await.unwrap();
    let began = tokio::time::Instant::now();
    endpoint.handle().shutdown();
    tokio::time::sleep(drain_timeout / 2).await;
    let mut server = PipeServer::bind(&b).unwrap();
    let mut other = server.accept().await.unwrap();
    let json = json!({"action": "wait", "from": "raw"}).to_string();
    other.send(json.into()).await.unwrap();
    let mut unhandled = 0;
    while let Some(event) = endpoint.next().await {
        let error = matches!(event, EndpointEvent::Error(EndpointError::Unhandled { .. }));
        unhandled += usize::from(error);
    }
    assert_eq!(unhandled, 1);
    let took = began.elapsed();
    assert!(took < drain_timeout + Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn the_longest_message_is_a_mebibyte_unless_told_otherwise() {
    let name = unique_name("default-limit");
    let mut endpoint = bind(Endpoint::builder(&name)).await;
    let handle = endpoint.handle();
    let rest = json!({"action": "a", "from": name, "data": ""}).to_string();
    let longest = "x".repeat((1 << 20) - rest.len());
    let longer = handle.send(&name, "a", format!("{longest}x")).await;
    let Err(EndpointError::Pipe(Error::MessageTooLarge { size, max, .. })) = longer else {
        panic!("{longer:?}");
    };
    assert_eq!((size, max), ((1 << 20) + 1, 1 << 20));
    handle.send(&name, "a", longest).await.unwrap();
    assert_eq!(message(&mut endpoint).await.action, "a");
}

#[tokio::test]
async fn an_application_that_does_not_read_the_events_holds_the_others_back() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("back-{it}")));
    let (from, mut to) = (bind(patient(&a)).await, bind(patient(&b)).await);
    let handle = from.handle();
    let mut sent = 0;
    let mut sending = Box::pin(async {
        loop {
            handle
                .send(&b, "count", (sent, "x".repeat(10_000)))
                .await
                .unwrap();
            sent += 1;
        }
    });
    assert!(stays_pending(&mut sending).await);
    drop(sending);
    assert!((1..1000).contains(&sent), "{sent}");
    for n in 0..sent {
        assert_eq!(message(&mut to).await.data[0], n);
    }
}

#[tokio::test]
async fn that_nobody_reads_the_events_is_logged_once_until_they_were_read() {
    let (log, _logging) = Log::begin();
    // Another test's thread may have been there before our subscriber, and have noted that nobody
    // is interested.
    tracing::callsite::rebuild_interest_cache();
    let warnings = || log.text().matches("nobody reads the events").count();

    let name = unique_name("unread");
    let mut endpoint = bind(patient(&name).on("ping", async |_| Ok("pong"))).await;
    let mut clients = [Raw::connect(&name).await, Raw::connect(&name).await];
    for round in 1..=2 {
        for client in &mut clients {
            for n in 0..100 {
                client
                    .says(json!({"action": "count", "from": "raw", "data": n}))
                    .await;
            }
        }
        within(async {
            while warnings() < round {
                tokio::task::yield_now().await;
            }
        })
        .await;
        for _ in 0..2 * 100 {
            assert_eq!(message(&mut endpoint).await.action, "count");
        }
        assert!(stays_pending(&mut endpoint.next()).await);
        assert_eq!(warnings(), round);
        let [client, _] = &mut clients;
        client
            .says(json!({"action": "ping", "from": "raw", "id": 1}))
            .await;
        assert_eq!(client.hears().await["data"], "pong");
    }
}

#[tokio::test]
async fn the_log_says_whose_message_is_lost_and_how_long_it_is_but_not_what_is_in_it() {
    let (log, _logging) = Log::begin();
    tracing::callsite::rebuild_interest_cache();
    let name = unique_name("untold");
    let endpoint = bind(patient(&name)).await;
    let mut client = Raw::connect(&name).await;
    let action = format!("open{}", "n".repeat(10_000));
    let message = json!({"action": action, "from": "raw", "data": "secret".repeat(1000)});
    for _ in 0..100 {
        client.says(&message).await;
    }
    // One waits for room among the events.
    assert!(stays_pending(&mut std::future::pending::<()>()).await);
    drop(endpoint);
    within(async {
        while !log.text().contains("dropped before it was read") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let text = log.text();
    let lost = text.lines().find(|it| it.contains("dropped before"));
    let lost = lost.unwrap();
    let bytes = message.to_string().len();
    assert!(
        lost.contains("message \"opennn") && lost.contains("from \"raw\""),
        "{lost}"
    );
    assert!(lost.contains(&format!("of {bytes} bytes")), "{lost}");
    assert!(!text.contains("secret") && lost.len() < 1000, "{lost}");
}

#[tokio::test]
async fn shutting_down_delivers_what_was_accepted_and_then_closes() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("shutdown-{it}")));
    let (_to, mut hears) = collecting(&b, "count").await;
    let mut from = bind(patient(&a).queue(100)).await;
    let handle = from.handle();
    for n in 0..100 {
        handle.try_send(&b, "count", n).unwrap();
    }
    handle.shutdown();
    let error = handle.try_send(&b, "count", 100).unwrap_err();
    assert!(
        matches!(error, EndpointError::Pipe(Error::ShutDown { .. })),
        "{error}"
    );
    assert!(undelivered_until_closed(&mut from).await.is_empty());
    for n in 0..100 {
        assert_eq!(heard(&mut hears).await, n);
    }
    let error = PipeClient::connect(&a).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn who_has_connected_before_the_end_is_heard_although_not_accepted_yet() {
    let name = unique_name("last-call");
    let mut endpoint = bind(patient(&name)).await;
    // Nothing here lets the endpoint's task run.
    #[cfg(unix)]
    let mut client = std::os::unix::net::UnixStream::connect(endpoint.pipe().as_path()).unwrap();
    #[cfg(windows)]
    let mut client = std::fs::File::options()
        .read(true)
        .write(true)
        .open(endpoint.pipe().as_path())
        .unwrap();
    let hello = json!({"action": "hello", "from": "raw"}).to_string();
    client
        .write_all(&(hello.len() as u32).to_be_bytes())
        .unwrap();
    client.write_all(hello.as_bytes()).unwrap();
    endpoint.handle().shutdown();
    assert_eq!(message(&mut endpoint).await.action, "hello");
    let error = PipeClient::builder(&name).no_wait().connect().await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, Error::NotFound { .. } | Error::Busy { .. }),
        "{error:?}"
    );
    drop(client);
    assert!(matches!(event(&mut endpoint).await, EndpointEvent::Closed));
}

#[tokio::test]
async fn a_request_that_is_given_up_while_it_is_written_does_not_change_the_order() {
    let [from, to] = ["from", "to"].map(|it| unique_name(&format!("order-{it}")));
    let sender = bind(patient(&from)).await;
    let handle = sender.handle();
    let mut receiver = PipeServer::bind(&to).unwrap();
    handle.send(&to, "first", ()).await.unwrap();
    let mut receiver_end = Raw::accept(&mut receiver).await;
    assert_eq!(receiver_end.hears().await["action"], "first");
    // It does not fit into the pipe, and nobody reads yet.
    let large = "x".repeat(LARGE);
    let asked = handle.request_within(SOON, &to, "large", large).await;
    assert!(
        matches!(asked, Err(EndpointError::NoReply { .. })),
        "{asked:?}"
    );
    handle.send(&to, "last", ()).await.unwrap();
    assert_eq!(receiver_end.hears().await["action"], "large");
    assert_eq!(receiver_end.hears().await["action"], "last");
}

#[tokio::test]
async fn a_reply_that_cannot_be_read_is_a_refusal() {
    let [asks, asked] = ["asks", "asked"].map(|it| unique_name(&format!("deep-{it}")));
    let nested = |depth| (0..depth).fold(Value::Null, |inner, _| json!([inner]));
    let builder = patient(&asked)
        .max_message_size(200)
        .on("deep", move |_| std::future::ready(Ok(nested(150))))
        .on("long", async |_| Ok("x".repeat(300)));
    let _asked = bind(builder).await;
    let asking = bind(patient(&asks)).await;
    for (action, reason) in [("deep", "126 deep"), ("long", "above the limit of 200")] {
        let refused = within(asking.handle().request(&asked, action, ())).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

struct Unprintable;

impl std::fmt::Debug for Unprintable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("not to be printed")
    }
}

impl std::fmt::Display for Unprintable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("not to be printed")
    }
}

impl std::error::Error for Unprintable {}

#[tokio::test]
async fn an_error_that_panics_when_it_is_printed_ends_its_request_alone() {
    let [asks, asked] = ["asks", "asked"].map(|it| unique_name(&format!("print-{it}")));
    let builder = patient(&asked)
        .on("bad", async |_| Err::<(), BoxError>(Unprintable.into()))
        .on("good", async |_| Ok(5));
    let _asked = bind(builder).await;
    let asking = bind(patient(&asks)).await;
    let refused = within(asking.handle().request(&asked, "bad", ())).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("not to be printed"), "{refused}");
    let reply = within(asking.handle().request(&asked, "good", ())).await;
    assert_eq!(reply.unwrap(), 5);
}

#[test]
fn an_endpoint_whose_runtime_has_ended_says_so() {
    let name = unique_name("no-runtime");
    let runtime = |f: &dyn Fn() -> Endpoint| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.unwrap();
        let _entered = runtime.enter();
        f()
    };
    let mut endpoint = runtime(&|| {
        let endpoint = Endpoint::bind(&name).unwrap();
        endpoint
            .handle()
            .try_send("nobody-listens-here", "a", ())
            .unwrap();
        endpoint
    });
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    other.unwrap().block_on(async {
        let sent = within(endpoint.handle().send("nobody-listens-here", "a", ())).await;
        let error = sent.unwrap_err();
        assert!(
            matches!(error, EndpointError::Pipe(Error::ShutDown { .. })),
            "{error:?}"
        );
        while within(endpoint.next()).await.is_some() {}
    });
}

#[tokio::test]
async fn the_name_is_free_when_the_endpoint_was_dropped() {
    let name = unique_name("dropped");
    for _ in 0..5 {
        let mut endpoint = Endpoint::bind(&name).unwrap();
        assert!(matches!(event(&mut endpoint).await, EndpointEvent::Ready));
    }
}

#[tokio::test]
async fn shutting_down_waits_for_requests_of_both_sides() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("shutdown-requests-{it}")));
    let started = Arc::new(Semaphore::new(0));
    let released = Arc::new(Semaphore::new(0));
    let slow = |name: &str| {
        let (start, release) = (started.clone(), released.clone());
        patient(name).on("slow", move |_| {
            let (start, release) = (start.clone(), release.clone());
            async move {
                start.add_permits(1);
                release.acquire().await?.forget();
                Ok("done")
            }
        })
    };
    let (mut one, two) = (bind(slow(&a)).await, bind(slow(&b)).await);
    let (asks, asked) = (one.handle(), two.handle());
    let requests =
        async { tokio::join!(asks.request(&b, "slow", ()), asked.request(&a, "slow", ())) };
    let ending = async {
        started.acquire_many(2).await.unwrap().forget();
        one.handle().shutdown();
        assert!(stays_pending(&mut one.next()).await);
        released.add_permits(2);
        undelivered_until_closed(&mut one).await
    };
    let (replies, undelivered) = within(async { tokio::join!(requests, ending) }).await;
    assert_eq!(replies.0.unwrap(), "done");
    assert_eq!(replies.1.unwrap(), "done");
    assert!(undelivered.is_empty());
}

#[tokio::test]
async fn what_is_left_at_the_drain_timeout_is_told() {
    let [a, nobody] = ["a", "nobody"].map(|it| unique_name(&format!("drain-{it}")));
    let builder = patient(&a).drain_timeout(SOON);
    let mut from = bind(builder.on("wait", async |_| for_ever().await)).await;
    let handle = from.handle();
    for n in 0..5 {
        handle.send(&nobody, "count", n).await.unwrap();
    }
    let mut request = Box::pin(handle.request(&nobody, "ask", ()));
    assert!(stays_pending(&mut request).await);
    // Two that are being handled, and a client that does not leave when it is asked to.
    let mut client = Raw::connect(&a).await;
    client.says(json!({"action": "wait", "from": "raw"})).await;
    client
        .says(json!({"action": "wait", "from": "raw", "id": 1}))
        .await;
    assert!(stays_pending(&mut from.next()).await);

    handle.shutdown();
    assert_eq!(client.hears().await, json!({"from": a, "closing": true}));
    let (mut undelivered, mut unhandled) = (Vec::new(), 0);
    loop {
        match event(&mut from).await {
            EndpointEvent::Undelivered {
                to,
                envelope,
                error,
                ..
            } => {
                assert_eq!(to, nobody);
                let text = error.to_string();
                let is_named = text.starts_with(&format!("not delivered to {nobody} within"));
                assert!(
                    is_named && text.ends_with("this endpoint was shut down"),
                    "{text}"
                );
                undelivered.push(envelope.data);
            }
            EndpointEvent::Error(EndpointError::Unhandled { messages, .. }) => {
                unhandled += messages
            }
            EndpointEvent::Closed => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(undelivered, [0, 1, 2, 3, 4]);
    assert_eq!(unhandled, 2);
    assert!(within(from.next()).await.is_none());
    let error = within(request).await.unwrap_err();
    let is_it = matches!(&error, EndpointError::Undelivered { to, .. } if *to == nobody);
    assert!(is_it, "{error}");
    assert!(within(client.0.next()).await.is_none());
}

#[tokio::test]
async fn dropping_an_endpoint_ends_everything_and_leaves_no_task() {
    let [a, b, nobody] = ["a", "b", "nobody"].map(|it| unique_name(&format!("drop-{it}")));
    let tasks = tokio::runtime::Handle::current().metrics();
    let mut server = PipeServer::bind(&b).unwrap();
    let builder = patient(&a).on("wait", async |_| for_ever().await);
    let mut from = bind(builder).await;
    let handle = from.handle();
    handle.send(&nobody, "waits", ()).await.unwrap();
    handle.send(&b, "large", "x".repeat(LARGE)).await.unwrap();
    handle.send(&b, "waits", ()).await.unwrap();
    let mut request = Box::pin(handle.request(&nobody, "ask", ()));
    assert!(stays_pending(&mut request).await);
    let mut to = within(server.accept()).await.unwrap();
    let mut client = Raw::connect(&a).await;
    client
        .says(json!({"action": "wait", "from": "raw", "id": 1}))
        .await;
    assert!(stays_pending(&mut from.next()).await);
    assert!(tasks.num_alive_tasks() >= 5);

    drop(from);
    // The message that was on its way is not whole, and nothing comes behind it.
    let rest = within(to.next()).await;
    assert!(cfg!(windows) || !matches!(rest, Some(Ok(_))));
    assert!(!matches!(within(client.0.next()).await, Some(Ok(_))));
    let error = within(request).await.unwrap_err();
    assert!(
        matches!(error, EndpointError::Undelivered { .. }),
        "{error}"
    );
    assert!(error.to_string().ends_with("this endpoint has ended"));
    let error = handle.try_send(&b, "late", ()).unwrap_err();
    assert!(
        matches!(error, EndpointError::Pipe(Error::ShutDown { .. })),
        "{error}"
    );
    drop((to, client, server));
    within(async {
        while tasks.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A program that runs. What it says goes to a file: under Wine, Node cannot say anything to a pipe.
struct Peer {
    child: tokio::process::Child,
    said: PathBuf,
}

impl Peer {
    /// Runs this file of `tests/peers`, where what runs it is there.
    async fn start(program: &str, file: &str, args: &[&str]) -> Option<Self> {
        let found = match program {
            "node" => std::env::var_os("ASYNCIPC_NODE"),
            _ => None,
        };
        let found = found.unwrap_or_else(|| program.into());
        let mut version = Command::new(&found);
        match version
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .await
        {
            Ok(status) if status.success() => {}
            other => {
                skipped(format!("no {program} here: {found:?}: {other:?}"));
                return None;
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/peers")
            .join(file);
        let said = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique_name("said"));
        let mut command = Command::new(found);
        command
            .arg(path)
            .args(args)
            .env("PYTHONIOENCODING", "utf-8")
            .stdout(std::fs::File::create(&said).unwrap())
            .kill_on_drop(true);
        let child = command.spawn().unwrap();
        Some(Peer { child, said })
    }

    /// What it has said, in lines, when it has ended well.
    async fn ends(mut self) -> Vec<String> {
        let status = within(self.child.wait()).await.unwrap();
        let said = std::fs::read_to_string(&self.said).unwrap();
        std::fs::remove_file(&self.said).unwrap();
        assert!(status.success(), "{status}: {said}");
        said.lines().map(str::to_owned).collect()
    }
}

async fn is_served_by_an_endpoint(program: &str, file: &str, args: &[&str]) {
    let name = unique_name("foreign");
    let mut endpoint = bind(patient(&name).on("sum", async |message| {
        let numbers: Vec<i64> = message.parse()?;
        Ok(numbers.iter().sum::<i64>())
    }))
    .await;
    let path = endpoint.pipe().to_string();
    let args: Vec<&str> = args.iter().copied().chain([path.as_str()]).collect();
    let Some(peer) = Peer::start(program, file, &args).await else {
        return;
    };
    let hello = message(&mut endpoint).await;
    assert_eq!(hello.action, "hello");
    assert_eq!(hello.data, json!({"text": "grüße 🦀"}));
    assert_eq!(peer.ends().await, ["1: 6", "2: there is no handler for it"]);
}

#[tokio::test]
async fn a_client_in_node_takes_part() {
    is_served_by_an_endpoint("node", "endpoint.js", &["client"]).await;
}

#[cfg(unix)] // Python's standard library has no named pipe that reads and writes at a time.
#[tokio::test]
async fn a_client_in_python_takes_part() {
    is_served_by_an_endpoint("python3", "endpoint.py", &[]).await;
}

#[tokio::test]
async fn a_server_in_node_takes_part() {
    let [name, node] = ["own", "node"].map(|it| unique_name(&format!("foreign-{it}")));
    let path = PipeName::new(&node).unwrap().to_string();
    let mut endpoint = bind(patient(&name)).await;
    let Some(peer) = Peer::start("node", "endpoint.js", &["server", &path]).await else {
        return;
    };
    let handle = endpoint.handle();
    for n in 0..100 {
        handle.send(&node, "count", n).await.unwrap();
    }
    let doubled = within(handle.request(&node, "double", 21)).await.unwrap();
    assert_eq!(doubled, 42);
    let news = message(&mut endpoint).await;
    assert_eq!((news.action.as_str(), news.from.as_str()), ("news", "node"));
    let error = within(handle.request(&node, "triple", 1))
        .await
        .unwrap_err();
    assert!(error.to_string().ends_with("no triple here"), "{error}");
    handle.send(&node, "end", ()).await.unwrap();
    let expected: Vec<_> = (0..100).map(|n| format!("count: {n}")).collect();
    assert_eq!(peer.ends().await, expected);
}

/// In processes of their own: three that are killed in the middle, and one that lives to the end.
#[tokio::test]
async fn when_the_receiver_is_killed_the_order_stays_and_only_what_it_had_is_lost_or_comes_twice() {
    const TEST: &str =
        "when_the_receiver_is_killed_the_order_stays_and_only_what_it_had_is_lost_or_comes_twice";
    if let Some(name) = common::role() {
        // Says what it has handled, until it is killed or told to end.
        let builder = patient(&name).on("count", async |message| {
            println!("handled {}", message.data);
            Ok(())
        });
        let endpoint = bind(builder).await;
        let handle = endpoint.handle();
        endpoint.handle().on("end", move |_| {
            handle.shutdown();
            async { Ok(()) }
        });
        endpoint.run().await;
        return;
    }
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("killed-{it}")));
    let mut from = bind(patient(&a)).await;
    let handle = from.handle();
    let to = b.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let sending = tokio::spawn(async move {
        let mut stopped = std::pin::pin!(stopped);
        let mut n = 0;
        while stopped.as_mut().now_or_never().is_none() {
            handle.send(&to, "count", n).await.unwrap();
            n += 1;
        }
        handle.send(&to, "end", ()).await.unwrap();
        n
    });
    // What is told besides: those that were killed had not read everything.
    let events = tokio::spawn(async move {
        while let Some(event) = from.next().await {
            match event {
                EndpointEvent::Error(EndpointError::Unread { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    let mut generations = Vec::new();
    let mut stop = Some(stop);
    for generation in 0..4 {
        let mut command = Command::from(common::itself(TEST));
        command.env(common::ROLE, &b).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut handled: Vec<usize> = Vec::new();
        while let Some(line) = within(lines.next_line()).await.unwrap() {
            // The test harness writes there too.
            let Some((_, n)) = line.split_once("handled ") else {
                continue;
            };
            handled.push(n.parse().unwrap());
            if handled.len() == 50 {
                match generation {
                    3 => drop(stop.take()),
                    _ => child.start_kill().unwrap(),
                }
            }
        }
        within(child.wait()).await.unwrap();
        generations.push(handled);
    }
    let sent = within(sending).await.unwrap();
    for handled in &generations {
        // Within one life, none is missing and none is out of order.
        assert!(
            handled.windows(2).all(|it| it[1] == it[0] + 1),
            "{handled:?}"
        );
    }
    for lives in generations.windows(2) {
        // From one life to the next, some are lost, or one comes twice.
        assert!(lives[1][0] >= lives[0][lives[0].len() - 1], "{lives:?}");
    }
    assert_eq!(generations[0][0], 0);
    assert_eq!(generations[3].last(), Some(&(sent - 1)));
    events.abort();
    assert!(!events.await.is_err_and(|it| it.is_panic()));
}
