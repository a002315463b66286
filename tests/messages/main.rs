//! Messages between one client and one server.

#[path = "../common/mod.rs"]
mod common;

mod cancelling;
mod halves;
mod interface;
mod sizes;

use asyncipc::{MessageCodec, PipeConnection, PipeStream};
use common::byte_pair;

/// What a message looks like on the wire, written down once more.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// One end that sends whatever bytes a test likes, and one that expects messages.
async fn hostile_pair(max: usize) -> (PipeStream, PipeConnection) {
    let (raw, stream) = byte_pair().await;
    (raw, PipeConnection::new(stream, MessageCodec::new(max)))
}
