//! Waiting until the system has what was accepted for sending, and what is said of the rest.

mod common;

use asyncipc::hub::{Event, HubHandle, Overflow};
use asyncipc::{ConnectionId, Error, PipeClient, PipeConnection, PipeHub, PipeServer};
use bytes::Bytes;
use common::{Log, ROLE, itself, role, sample, stays_pending, unique_name, within};
use futures::{SinkExt, StreamExt};

/// The variable with the name of the program that a child sends to.
const NAME: &str = "ASYNCIPC_TEST_NAME";

/// How many messages a child sends before it ends.
const MESSAGES: usize = 20;

async fn listening(queue: usize) -> (PipeHub, String) {
    let name = unique_name("flushing");
    let server = PipeServer::bind(&name).unwrap();
    let mut hub = PipeHub::builder()
        .queue(queue)
        .overflow(Overflow::Wait)
        .serve(server);
    assert!(matches!(next(&mut hub).await, Event::Listening));
    (hub, name)
}

async fn next(hub: &mut PipeHub) -> Event {
    within(hub.next()).await.expect("the hub has ended")
}

async fn join(hub: &mut PipeHub, name: &str) -> (PipeConnection, ConnectionId) {
    let client = within(PipeClient::connect(name)).await.unwrap();
    match next(hub).await {
        Event::Connected { id, .. } => (client, id),
        other => panic!("{other:?}"),
    }
}

/// Sends until the system takes no more, and some wait. How many in all.
async fn fill(handle: &HubHandle, id: ConnectionId) -> usize {
    let mut sent = 0;
    loop {
        match handle.try_send(id, sample(50_000, sent)) {
            Ok(()) => sent += 1,
            Err(Error::QueueFull { .. }) => {
                let mut sending = Box::pin(handle.send(id, sample(50_000, sent)));
                if stays_pending(&mut sending).await {
                    return sent;
                }
                sent += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn flushing_a_hub_waits_until_the_system_has_what_was_accepted_before() {
    let (mut hub, name) = listening(4).await;
    let handle = hub.handle();
    let (mut reads, one) = join(&mut hub, &name).await;
    let (idle, two) = join(&mut hub, &name).await;
    // Nothing was sent, and nobody knows a client like that.
    within(handle.flush_all()).await.unwrap();
    let error = within(handle.flush(u64::MAX.into())).await.unwrap_err();
    assert!(matches!(error, Error::UnknownClient { .. }), "{error}");

    let sent = fill(&handle, one).await;
    let mut flushing = Box::pin(handle.flush(one));
    let mut all = Box::pin(handle.flush_all());
    assert!(stays_pending(&mut flushing).await);
    assert!(stays_pending(&mut all).await);
    handle.send(two, "to the other".into()).await.unwrap();
    within(handle.flush(two)).await.unwrap();
    // Cancelled, it has changed nothing.
    let mut cancelled = Box::pin(handle.flush(one));
    assert!(stays_pending(&mut cancelled).await);
    drop(cancelled);
    let reading = async {
        for n in 0..sent {
            let message = reads.next().await.unwrap().unwrap();
            assert_eq!(message, sample(50_000, n));
        }
    };
    let (flushed, all, ()) = within(async { tokio::join!(flushing, all, reading) }).await;
    flushed.unwrap();
    all.unwrap();

    // Also of one that is being disconnected, and after the end was asked for.
    let sent = fill(&handle, one).await;
    handle.disconnect(one).unwrap();
    let mut flushing = Box::pin(handle.flush(one));
    assert!(stays_pending(&mut flushing).await);
    handle.shutdown();
    let mut all = Box::pin(handle.flush_all());
    assert!(stays_pending(&mut all).await);
    let reading = async {
        for _ in 0..sent {
            reads.next().await.unwrap().unwrap();
        }
    };
    let (flushed, all, ()) = within(async { tokio::join!(flushing, all, reading) }).await;
    flushed.unwrap();
    all.unwrap();
    drop(idle);
}

#[tokio::test]
async fn flushing_says_how_many_messages_were_not_sent_to_one_that_left() {
    let (mut hub, name) = listening(4).await;
    let handle = hub.handle();
    let (client, id) = join(&mut hub, &name).await;
    fill(&handle, id).await;
    let mut flushing = Box::pin(handle.flush(id));
    let mut all = Box::pin(handle.flush_all());
    assert!(stays_pending(&mut flushing).await);
    assert!(stays_pending(&mut all).await);
    drop(client);
    for error in [within(flushing).await, within(all).await] {
        let error = error.unwrap_err();
        // Four wait, and the one that is being written may be among those that the system has.
        assert!(
            matches!(&error, Error::Unsent { id: of, messages: 4..=5, .. } if *of == id),
            "{error:?}"
        );
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn what_a_hub_had_not_sent_or_its_owner_not_read_is_logged_with_its_number() {
    let (log, _logging) = Log::begin();
    tracing::callsite::rebuild_interest_cache();
    let (mut hub, name) = listening(4).await;
    let handle = hub.handle();
    let (mut client, id) = join(&mut hub, &name).await;
    fill(&handle, id).await;
    // In one write: where the first is, the others are as well.
    for n in 0..3 {
        let message = Bytes::from(format!("message {n}"));
        within(client.feed(message)).await.unwrap();
    }
    within(client.flush()).await.unwrap();
    while !matches!(next(&mut hub).await, Event::Received { .. }) {}
    drop(hub);
    within(async {
        while !(log.text().contains("were not sent") && log.text().contains("were not read")) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let text = log.text();
    assert!(
        text.contains("messages=4") || text.contains("messages=5"),
        "{text}"
    );
    // The application has fed nothing.
    assert!(!text.contains("never flushed"), "{text}");
}

/// This test as a process that ends in the middle of it.
fn child(test: &str, name: &str) -> std::process::Child {
    let mut command = itself(test);
    command.env(ROLE, "child").env(NAME, name);
    command.spawn().unwrap()
}

async fn ended(mut child: std::process::Child) {
    let waiting = tokio::task::spawn_blocking(move || child.wait().unwrap());
    let status = within(waiting).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn what_a_hub_has_flushed_arrives_although_the_process_ends_at_once() {
    let test = "what_a_hub_has_flushed_arrives_although_the_process_ends_at_once";
    if role().is_some() {
        let name = std::env::var(NAME).unwrap();
        let mut hub = PipeClient::connect(&*name).await.unwrap().into_hub();
        let handle = hub.handle();
        let id = handle.clients()[0];
        for n in 0..MESSAGES {
            handle.send(id, sample(30_000, n)).await.unwrap();
        }
        handle.flush_all().await.unwrap();
        if cfg!(windows) {
            // The last write goes on in the background.
            handle.shutdown();
            while hub.next().await.is_some() {}
        }
        std::process::exit(0);
    }
    let name = unique_name("hub-exit");
    let mut server = PipeServer::bind(&name).unwrap();
    let child = child(test, &name);
    let mut conn = within(server.accept()).await.unwrap();
    for n in 0..MESSAGES {
        let message = within(conn.next()).await.expect("it has ended").unwrap();
        assert_eq!(message, sample(30_000, n));
    }
    ended(child).await;
}

#[cfg(feature = "endpoint")]
mod endpoints {
    use std::time::Duration;

    use asyncipc::Endpoint;
    use asyncipc::endpoint::{self, EndpointError};
    use common::PATIENCE;
    use futures::FutureExt;

    use super::*;

    fn patient(name: &str) -> asyncipc::endpoint::EndpointBuilder {
        Endpoint::builder(name)
            .give_up_after(PATIENCE)
            .backoff(Duration::from_millis(1), Duration::from_millis(20))
    }

    #[tokio::test]
    async fn flushing_an_endpoint_waits_until_the_system_has_what_was_accepted_before() {
        let [a, b, c] = ["a", "b", "c"].map(|it| unique_name(&format!("flush-{it}")));
        let from = patient(&a).bind().unwrap();
        let handle = from.handle();
        let _events = tokio::spawn(from.run());
        within(handle.flush(&b)).await.unwrap();
        within(handle.flush_all()).await.unwrap();
        let error = handle.flush("a/b").await.unwrap_err();
        assert!(matches!(error, EndpointError::Pipe(Error::InvalidName(_))));
        for n in 0..MESSAGES {
            handle.send(&b, "count", n).await.unwrap();
        }
        let mut flushing = Box::pin(handle.flush(&b));
        let mut all = Box::pin(handle.flush_all());
        assert!(stays_pending(&mut flushing).await);
        assert!(stays_pending(&mut all).await);
        within(handle.flush(&c)).await.unwrap();
        let mut cancelled = Box::pin(handle.flush(&b));
        assert!(stays_pending(&mut cancelled).await);
        drop(cancelled);
        let mut to = patient(&b).bind().unwrap();
        within(flushing).await.unwrap();
        within(all).await.unwrap();
        assert!(matches!(
            within(to.next()).await,
            Some(endpoint::Event::Ready)
        ));
        for n in 0..MESSAGES {
            let event = within(to.next()).await;
            assert!(matches!(event, Some(endpoint::Event::Message(it)) if it.data == n));
        }
    }

    #[tokio::test]
    async fn flushing_says_how_many_messages_of_an_endpoint_were_given_up() {
        let [a, b] = ["a", "b"].map(|it| unique_name(&format!("flush-{it}")));
        let from = Endpoint::builder(&a)
            .give_up_after(Duration::from_millis(20))
            .bind()
            .unwrap();
        let handle = from.handle();
        let events = tokio::spawn(from.run());
        for n in 0..3 {
            handle.send(&b, "count", n).await.unwrap();
        }
        let (one, all) = (handle.flush(&b), handle.flush_all());
        let (one, all) = within(async { tokio::join!(one, all) }).await;
        for flushed in [one, all] {
            let error = flushed.unwrap_err();
            assert!(
                matches!(&error, EndpointError::NotSent { to, messages: 3, .. } if *to == b),
                "{error}"
            );
        }
        handle.send(&b, "count", 3).await.unwrap();
        let mut flushing = Box::pin(handle.flush(&b));
        assert!((&mut flushing).now_or_never().is_none());
        events.abort();
        let error = within(flushing).await.unwrap_err();
        assert!(matches!(error, EndpointError::NotSent { messages: 1, .. }));
    }

    #[tokio::test]
    async fn handlers_that_flush_do_not_stop_each_other() {
        let names = ["a", "b"].map(|it| unique_name(&format!("flush-{it}")));
        let (done, mut is_done) = tokio::sync::mpsc::unbounded_channel();
        let mut handles = Vec::new();
        for (name, other) in [(&names[0], &names[1]), (&names[1], &names[0])] {
            let (other, done) = (other.clone(), done.clone());
            let bound = patient(name).handlers(1).queue(1).bind_with(|handle| {
                let own = handle.clone();
                handle.on("ping", move |message| {
                    let (own, other) = (own.clone(), other.clone());
                    async move {
                        own.send(&other, "pong", message.data).await?;
                        Ok(own.flush(&other).await?)
                    }
                });
                handle.on("pong", move |_| {
                    let done = done.clone();
                    async move { Ok(done.send(())?) }
                });
            });
            let endpoint = bound.unwrap();
            handles.push(endpoint.handle());
            tokio::spawn(endpoint.run());
        }
        let data = "x".repeat(100_000);
        let sending = |from: usize| {
            let (handle, to, data) = (&handles[from], &names[1 - from], &data);
            async move {
                for _ in 0..10 {
                    handle.send(to, "ping", data).await.unwrap();
                }
            }
        };
        within(async { tokio::join!(sending(0), sending(1)) }).await;
        for _ in 0..20 {
            within(is_done.recv()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_an_endpoint_has_flushed_arrives_although_the_process_ends_at_once() {
        let test =
            "endpoints::what_an_endpoint_has_flushed_arrives_although_the_process_ends_at_once";
        if role().is_some() {
            let name = std::env::var(NAME).unwrap();
            let from = patient(&unique_name("exit-from")).bind().unwrap();
            let handle = from.handle();
            let events = tokio::spawn(from.run());
            for n in 0..MESSAGES {
                let data = (n, "x".repeat(30_000));
                handle.send(&name, "count", data).await.unwrap();
            }
            handle.flush_all().await.unwrap();
            if cfg!(windows) {
                handle.shutdown();
                events.await.unwrap();
            }
            std::process::exit(0);
        }
        let name = unique_name("endpoint-exit");
        let mut to = patient(&name).bind().unwrap();
        let child = child(test, &name);
        assert!(matches!(
            within(to.next()).await,
            Some(endpoint::Event::Ready)
        ));
        for n in 0..MESSAGES {
            let event = within(to.next()).await;
            let Some(endpoint::Event::Message(message)) = event else {
                panic!("{event:?}");
            };
            assert_eq!(message.data[0], n);
        }
        ended(child).await;
    }

    #[tokio::test]
    async fn what_an_endpoint_was_sending_is_told_as_messages_and_not_as_something_fed() {
        let (log, _logging) = Log::begin();
        tracing::callsite::rebuild_interest_cache();
        let [a, b] = ["a", "b"].map(|it| unique_name(&format!("unfed-{it}")));
        let from = patient(&a).bind().unwrap();
        let mut server = PipeServer::bind(&b).unwrap();
        let data = "x".repeat(900_000);
        from.handle().send(&b, "large", data).await.unwrap();
        let _conn = within(server.accept()).await.unwrap();
        assert!(stays_pending(&mut Box::pin(std::future::pending::<()>())).await);
        drop(from);
        within(async {
            while !log.text().contains("dropped while messages waited") {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(stays_pending(&mut Box::pin(std::future::pending::<()>())).await);
        let text = log.text();
        assert!(!text.contains("never flushed"), "{text}");
        assert!(text.contains("messages=1"), "{text}");
    }

    #[tokio::test]
    async fn messages_that_nobody_has_read_are_logged_when_an_endpoint_is_dropped() {
        let (log, _logging) = Log::begin();
        tracing::callsite::rebuild_interest_cache();
        let [a, b] = ["a", "b"].map(|it| unique_name(&format!("unread-{it}")));
        let (from, to) = (patient(&a).bind().unwrap(), patient(&b).bind().unwrap());
        let handle = from.handle();
        for n in 0..3 {
            handle.send(&b, "count", n).await.unwrap();
        }
        within(handle.flush(&b)).await.unwrap();
        assert!(stays_pending(&mut Box::pin(std::future::pending::<()>())).await);
        drop(to);
        let text = log.text();
        assert!(text.contains("were not read"), "{text}");
        assert!(text.contains("messages=3"), "{text}");
    }
}
