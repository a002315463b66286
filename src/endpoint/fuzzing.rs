//! What the fuzzer needs of the envelope, and is not public. Only in builds for fuzzing.

use bytes::Bytes;

use super::envelope::{Received, closing, rejection, reply};

/// One message as an endpoint decodes it.
#[derive(Debug, PartialEq)]
pub struct Decoded(Received);

impl Decoded {
    /// `None` if the message is not an envelope.
    pub fn new(json: &[u8]) -> Option<Self> {
        Received::decode(json).ok().map(Decoded)
    }

    /// The same message as an endpoint encodes it; `None` for a rejection without a size, which no endpoint
    /// sends.
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
