//! What the fuzzer needs of the envelope, which is not public. Only in builds for fuzzing.

use bytes::Bytes;

use super::envelope::{Received, closing, rejection, reply};

/// What an endpoint has read from one message.
#[derive(Debug, PartialEq)]
pub struct Decoded(Received);

impl Decoded {
    /// `None` for what is no envelope.
    pub fn new(json: &[u8]) -> Option<Self> {
        Received::decode(json).ok().map(Decoded)
    }

    /// What would be sent for it; `None` for a rejection without a size, which nobody sends.
    pub fn encode(&self) -> Option<Bytes> {
        Some(match &self.0 {
            Received::Message(envelope) => envelope.encode(),
            Received::Reply(id, outcome) => {
                reply("", "", *id, outcome.as_ref().map_err(String::as_str))
            }
            Received::Closing => closing(""),
            Received::Rejection(from, error, size) => {
                rejection(from, usize::try_from((*size)?).ok()?, error)
            }
        })
    }
}
