//! Shutting down, dropping, and the end of the runtime.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use asyncipc::endpoint::{EndpointError, Event};
use asyncipc::{Endpoint, Error, PipeClient, PipeServer};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    LARGE, Raw, SOON, bind, collecting, error, event, for_ever, heard, message, patient,
    undelivered_until_closed,
};
use crate::common::{skipped, stays_pending, unique_name, within};

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
async fn only_messages_count_among_those_that_were_not_handled() {
    let name = unique_name("unhandled-alone");
    let builder = patient(&name).drain_timeout(SOON);
    let mut endpoint = bind(builder.on("large", async |_| Ok("x".repeat(LARGE)))).await;
    let mut client = Raw::connect(&name).await;
    client
        .says(json!({"action": "large", "from": "raw", "id": 1}))
        .await;
    // The endpoint has begun to write the reply, and cannot finish it.
    assert!(stays_pending(&mut endpoint.next()).await);
    endpoint.handle().shutdown();
    let error = error(&mut endpoint).await;
    let EndpointError::Unhandled { messages: 1, .. } = error else {
        panic!("{error:?}");
    };
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
    assert!(matches!(endpoint.next().await, Some(Event::Ready)));
    // More than a pipe holds while the other side does not read.
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
        let error = matches!(event, Event::Error(EndpointError::Unhandled { .. }));
        unhandled += usize::from(error);
    }
    assert_eq!(unhandled, 1);
    let took = began.elapsed();
    assert!(took < drain_timeout + Duration::from_secs(1), "{took:?}");
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
    // This thread does not yield, so the endpoint's task does not run meanwhile.
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
    assert!(matches!(event(&mut endpoint).await, Event::Closed));
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
        assert!(matches!(event(&mut endpoint).await, Event::Ready));
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
    // A message and a request that are being handled, and a client that does not leave when it is asked to.
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
            Event::Undelivered {
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
            Event::Error(EndpointError::Unhandled { messages, .. }) => unhandled += messages,
            Event::Closed => break,
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
    // Only a part of the message that was on its way arrives, and nothing behind it.
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
