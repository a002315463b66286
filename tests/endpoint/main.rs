//! Messages between programs that know each other by name.

mod builder;
#[path = "../common/mod.rs"]
mod common;
mod crash;
mod delivery;
mod events;
mod foreign;
mod handlers;
mod limits;
mod requests;
mod shutdown;

use std::time::Duration;

use asyncipc::endpoint::{EndpointBuilder, EndpointError, Envelope, Event};
use asyncipc::{BoxError, Endpoint, Error, PipeClient, PipeConnection, PipeServer};
use bytes::Bytes;
use common::{PATIENCE, within};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver};

/// A time limit, where a test waits until it has passed.
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

/// Binds as soon as the name is free: on Windows it is taken until the last connection has ended. Reads
/// the first event.
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
    assert!(matches!(event(&mut endpoint).await, Event::Ready));
    endpoint
}

/// A program whose handler for `action` passes the messages on to the test.
async fn collecting(name: &str, action: &str) -> (Endpoint, UnboundedReceiver<Envelope>) {
    let (heard, hears) = mpsc::unbounded_channel();
    let builder = patient(name).on(action, move |message| {
        let heard = heard.clone();
        async move { Ok(heard.send(message)?) }
    });
    (bind(builder).await, hears)
}

/// The future of a handler that never ends.
async fn for_ever() -> Result<(), BoxError> {
    std::future::pending().await
}

async fn event(endpoint: &mut Endpoint) -> Event {
    within(endpoint.next())
        .await
        .expect("the endpoint has ended")
}

async fn message(endpoint: &mut Endpoint) -> Envelope {
    match event(endpoint).await {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

async fn error(endpoint: &mut Endpoint) -> EndpointError {
    match event(endpoint).await {
        Event::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

/// Reads the events to the end: they must be undelivered messages, which it returns.
async fn undelivered_until_closed(endpoint: &mut Endpoint) -> Vec<(String, Envelope)> {
    let mut undelivered = Vec::new();
    loop {
        match event(endpoint).await {
            Event::Undelivered { to, envelope, .. } => undelivered.push((to, envelope)),
            Event::Closed => break,
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
