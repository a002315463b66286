//! Requests: their replies, their refusals and their deadlines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use asyncipc::endpoint::{EndpointError, Envelope};
use asyncipc::{BoxError, PipeServer};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::{LARGE, Raw, SOON, bind, error, for_ever, patient};
use crate::common::{stays_pending, unique_name, within};

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
    // An endpoint can ask itself, too.
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
    // The requester got the error: there is no event on the other side.
    assert!(stays_pending(&mut to.next()).await);
}

#[tokio::test]
async fn two_programs_can_ask_each_other_from_within_their_handlers() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("nested-{it}")));
    let (one, two) = (bind(patient(&a)).await, bind(patient(&b)).await);
    // Each asks the other for a smaller number, down to zero. Later the first question comes from the
    // handler of a message, behind which other messages wait.
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
        // On a busy machine, the reason may not be known so soon.
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
