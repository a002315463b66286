//! Who handles what, in which order, and what a handler that fails does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use asyncipc::BoxError;
use asyncipc::endpoint::{EndpointError, Envelope};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::{Raw, bind, error, for_ever, message, patient};
use crate::common::{stays_pending, unique_name, within};

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
    // What a handler had was not in the stream.
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
    // The handler for a sender answers only if there is none for the action.
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
    // It waits until the other side is there, and is the first to come.
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
