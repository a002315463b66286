//! The limits on messages and on what is being handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use asyncipc::endpoint::EndpointError;
use asyncipc::{Endpoint, Error, PipeServer};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{LARGE, Raw, bind, error, for_ever, message, patient};
use crate::common::{skipped, stays_pending, unique_name, within};

#[tokio::test]
async fn a_message_above_the_limit_is_left_out_and_told_and_its_connection_goes_on() {
    let name = unique_name("too-large");
    let builder = patient(&name).max_message_size(1000);
    let mut endpoint = bind(builder.on("ping", async |_| Ok("pong"))).await;
    let mut client = Raw::connect(&name).await;
    for size in [1001, 5000, 100_000, LARGE] {
        // The messages before and behind it are written together with it. Its content looks like frames.
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

        // The requesters get the error, while other requests are on their way.
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
    // Each error came once.
    assert!(stays_pending(&mut to.next()).await);
    assert!(stays_pending(&mut from.next()).await);
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
    // The second of the short ones is read while the first is below the limit. A long one is read alone.
    // The other three fit into a Windows pipe, where they wait.
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
        // Nobody reads the events.
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
    // The endpoint has closed its direction.
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
