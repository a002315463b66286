//! Servers coming and going, clients coming and going, and the limits in between.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod limits;
mod names;
mod shutdown;

use std::time::Duration;

use asyncipc::{ClientBuilder, PipeClient};
use bytes::Bytes;
use common::within;
use futures::future::join_all;
use futures::{SinkExt, StreamExt};

/// A client that waits for its turn however long that takes.
fn patient(name: &str) -> ClientBuilder {
    PipeClient::builder(name).timeout(Duration::MAX)
}

/// Connects, and has `text` echoed.
async fn echoed(name: &str, text: impl Into<Bytes>) {
    let text = text.into();
    let mut client = patient(name).connect().await.unwrap();
    client.send(text.clone()).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), text);
}

/// Two hundred clients, each of which is echoed one message.
async fn crowd(name: &str) {
    let clients = (0..200).map(|i| {
        let name = name.to_string();
        tokio::spawn(async move { echoed(&name, i.to_string()).await })
    });
    for client in within(join_all(clients)).await {
        client.unwrap();
    }
}
