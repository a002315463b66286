//! What only Windows named pipes have: messages that the system keeps apart, overlapped I/O, access,
//! and identity.
#![cfg(windows)]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod closing;
mod identity;
mod messages;
mod runtimes;
mod streams;

use std::future::Future;
use std::pin::Pin;

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{ClientBuilder, PipeClient, PipeConnection, PipeServer, ServerBuilder};
use bytes::BytesMut;
use common::{PATIENCE, pair_of, unique_name, within};
use futures::{FutureExt, StreamExt};

/// More than a pipe holds while nobody reads, which is 64 KiB by default.
const LARGE: usize = 300_000;

/// Builders for both ends of a pipe of messages that have all the time they need.
fn messages(what: &str) -> (ServerBuilder, ClientBuilder) {
    let (server, client) = ends(what);
    (server.message_mode(), client.message_mode())
}

fn ends(what: &str) -> (ServerBuilder, ClientBuilder) {
    let name = unique_name(what);
    let server = PipeServer::builder(&name).linger(PATIENCE);
    let client = PipeClient::builder(&name)
        .linger(PATIENCE)
        .timeout(PATIENCE);
    (server, client)
}

/// The ends of two pipes of messages, one in either order: each behaviour holds for both ends.
async fn both_ways(what: &str) -> [(PipeConnection, PipeConnection); 2] {
    let (server, client) = messages(what);
    let (a, b) = pair_of(&server, &client).await;
    let (server, client) = messages(what);
    let (d, c) = pair_of(&server, &client).await;
    [(a, b), (c, d)]
}

async fn receive(conn: &mut PipeConnection) -> BytesMut {
    within(conn.next()).await.expect("a message").unwrap()
}

/// Receives everything up to the clean end.
async fn collect(mut conn: PipeConnection) -> Vec<BytesMut> {
    let mut all = vec![];
    while let Some(message) = within(conn.next()).await {
        all.push(message.unwrap());
    }
    all
}

/// Polls once. `None` if that was not enough.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    future.now_or_never()
}
