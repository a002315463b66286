//! How a connection ends, and what still arrives when it does.
#![cfg_attr(
    not(any(windows, target_os = "linux")),
    allow(
        dead_code,
        unused_imports,
        reason = "elsewhere many tests are left out"
    )
)]

#[path = "../common/mod.rs"]
mod common;

mod both_ends;
mod closed;
mod deadline;
mod delivery;

use asyncipc::{Error, PipeConnection};
use bytes::Bytes;
use common::{pair, within};
use futures::StreamExt;

/// Far more than a pipe holds.
const LARGE: usize = 1 << 20;

/// Everything until the clean end.
async fn collect(
    mut conn: impl StreamExt<Item = Result<bytes::BytesMut, Error>> + Unpin,
) -> Vec<Bytes> {
    let mut messages = vec![];
    while let Some(message) = within(conn.next()).await {
        messages.push(message.unwrap().freeze());
    }
    messages
}

/// A connection both ways around: first the client is the one that ends it, then the server.
async fn both_ways() -> [(PipeConnection, PipeConnection); 2] {
    let (client, server) = pair().await;
    let (other_client, other_server) = pair().await;
    [(client, server), (other_server, other_client)]
}
