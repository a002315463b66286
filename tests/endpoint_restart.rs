//! What happens to the order of messages, and to connections, when programs are started again.

mod common;

use std::sync::Arc;
use std::time::Duration;

use asyncipc::endpoint::{EndpointBuilder, EndpointError, Event};
use asyncipc::{BoxError, Endpoint, Error};
use common::{Log, PATIENCE, skipped, stays_pending, under_wine, unique_name, within};
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, UnboundedSender};

fn patient(name: &str) -> EndpointBuilder {
    Endpoint::builder(name)
        .give_up_after(PATIENCE)
        .request_timeout(PATIENCE)
        .drain_timeout(PATIENCE)
        .backoff(Duration::from_millis(1), Duration::from_millis(20))
}

/// Its handler for "count" passes the number on when it gets a permit of `gate`.
fn counting(name: &str, gate: &Arc<Semaphore>, heard: &UnboundedSender<u64>) -> EndpointBuilder {
    let (gate, heard) = (gate.clone(), heard.clone());
    patient(name).on("count", move |message| {
        let (gate, heard) = (gate.clone(), heard.clone());
        async move {
            gate.acquire().await?.forget();
            let n = message.parse()?;
            heard.send(n)?;
            Ok::<_, BoxError>(n)
        }
    })
}

/// Binds as soon as the name is free.
async fn bind(builder: EndpointBuilder) -> Endpoint {
    loop {
        match builder.clone().bind() {
            Err(Error::AddressInUse { .. }) => tokio::task::yield_now().await,
            bound => return bound.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_program_that_is_started_again_handles_nothing_before_the_one_before_it_has_ended() {
    if under_wine() {
        return skipped("a second server can listen on a name that is taken");
    }
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("successor-{it}")));
    let (heard, mut hears) = mpsc::unbounded_channel();
    let (slow, fast) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(100)));
    let old = counting(&b, &slow, &heard).bind().unwrap();
    let from = patient(&a).bind().unwrap();
    let handle = from.handle();
    let _events = tokio::spawn(from.run());
    for n in 1..=5 {
        handle.send(&b, "count", n).await.unwrap();
    }
    within(handle.flush(&b)).await.unwrap();
    old.handle().shutdown();
    let old = tokio::spawn(old.run());
    // The sender is asked to send no more.
    assert!(stays_pending(&mut Box::pin(hears.recv())).await);
    let successor = counting(&b, &fast, &heard);
    let new = tokio::spawn(async move { bind(successor).await.run().await });
    let to = handle.clone();
    for n in 6..=7 {
        handle.send(&b, "count", n).await.unwrap();
    }
    let asked = tokio::spawn(async move { to.request(&b, "count", 8).await });
    // Not even a request overtakes what the old program still has.
    assert!(stays_pending(&mut Box::pin(hears.recv())).await);
    for n in 1..=8 {
        slow.add_permits(1);
        assert_eq!(within(hears.recv()).await, Some(n));
    }
    assert_eq!(within(asked).await.unwrap().unwrap(), 8);
    within(old).await.unwrap();
    new.abort();
}

/// A caller that asks, ends its connection, and never comes back.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn closing_an_accepted_connection_has_the_drain_timeout() {
    use asyncipc::PipeClient;
    use bytes::Bytes;
    use futures::SinkExt;

    let name = unique_name("linger");
    let drain = Duration::from_secs(30);
    let builder = Endpoint::builder(&name).drain_timeout(drain);
    let mut endpoint = builder.on("ping", async |_| Ok("pong")).bind().unwrap();
    let mut client = PipeClient::connect(&*name).await.unwrap();
    let request = Bytes::from(r#"{"action": "ping", "from": "raw", "id": 1}"#);
    client.send(request).await.unwrap();
    client.close_write().await.unwrap();
    assert!(matches!(endpoint.next().await, Some(Event::Ready)));
    // It has not read the reply.
    let event = endpoint.next().await;
    let Some(Event::Error(EndpointError::Pipe(Error::TimedOut { waited, .. }))) = event else {
        panic!("{event:?}");
    };
    assert_eq!(waited, drain);
}

#[tokio::test]
async fn a_program_that_asks_to_end_a_connection_and_does_not_is_left_at_the_drain_timeout() {
    use futures::SinkExt;

    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("stays-{it}")));
    let mut server = asyncipc::PipeServer::bind(&b).unwrap();
    let builder = patient(&a).drain_timeout(Duration::from_millis(50));
    let from = builder.bind().unwrap();
    let handle = from.handle();
    let _events = tokio::spawn(from.run());
    handle.send(&b, "count", 1).await.unwrap();
    let mut first = within(server.accept()).await.unwrap();
    within(first.next()).await.unwrap().unwrap();
    let closing = r#"{"from": "raw", "closing": true}"#;
    first.send(closing.into()).await.unwrap();
    assert!(stays_pending(&mut Box::pin(std::future::pending::<()>())).await);
    handle.send(&b, "count", 2).await.unwrap();
    let mut second = within(server.accept()).await.unwrap();
    let message = within(second.next()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&message).contains(r#""data":2"#));
    drop(first);
}

/// An error whose source is the error of a system call.
#[derive(Debug)]
struct Failed(std::io::Error);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot save")
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn an_error_of_a_handler_is_told_with_its_sources() {
    let (log, _logging) = Log::begin();
    tracing::callsite::rebuild_interest_cache();
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("sources-{it}")));
    let to = patient(&b).on("save", async |_| {
        Err::<(), BoxError>(Failed(std::io::Error::other("no disk")).into())
    });
    let to = to.bind().unwrap();
    let from = patient(&a).bind().unwrap();
    let handle = from.handle();
    let _running = (tokio::spawn(from.run()), tokio::spawn(to.run()));
    handle.send(&b, "save", ()).await.unwrap();
    let error = within(handle.request(&b, "save", ())).await.unwrap_err();
    assert!(
        error.to_string().ends_with("cannot save: no disk"),
        "{error}"
    );
    within(async {
        while !log.text().contains("failed: cannot save: no disk") {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_whose_caller_has_left_are_given_up_and_messages_are_not() {
    use asyncipc::PipeClient;
    use futures::SinkExt;

    let name = unique_name("abandoned");
    let drain = Duration::from_millis(50);
    let gate = Arc::new(Semaphore::new(0));
    let (heard, mut hears) = mpsc::unbounded_channel();
    let (held, mut is_held) = mpsc::channel::<()>(1);
    let builder = counting(&name, &gate, &heard).drain_timeout(drain);
    let builder = builder.on("hang", move |_| {
        let held = held.clone();
        async move {
            held.closed().await;
            Ok(())
        }
    });
    let mut endpoint = builder.bind().unwrap();
    // It keeps the handlers as well.
    drop(builder);
    assert!(matches!(within(endpoint.next()).await, Some(Event::Ready)));
    let mut client = within(PipeClient::connect(&*name)).await.unwrap();
    for said in [
        r#"{"action": "count", "from": "raw", "data": 1}"#,
        r#"{"action": "hang", "from": "raw", "id": 1}"#,
        r#"{"action": "hang", "from": "raw", "id": 2}"#,
    ] {
        within(client.send(said.into())).await.unwrap();
    }
    assert!(stays_pending(&mut Box::pin(endpoint.next())).await);
    // Where directions end one by one, the client can see when the endpoint lets go of the connection.
    let client = match client.close_write().await {
        Ok(()) => Some(client),
        Err(_) => {
            drop(client);
            None
        }
    };
    let event = within(endpoint.next()).await;
    let Some(Event::Error(EndpointError::Abandoned {
        requests: 2,
        waited,
        ..
    })) = event
    else {
        panic!("{event:?}");
    };
    assert_eq!(waited, drain);
    gate.add_permits(1);
    assert_eq!(within(hears.recv()).await, Some(1));
    if let Some(mut client) = client {
        assert!(within(client.next()).await.is_none());
    }
    // The cancelled handlers are gone, and so is the one that is replaced here.
    endpoint.handle().on("hang", async |_| Ok(()));
    assert!(within(is_held.recv()).await.is_none());
}
