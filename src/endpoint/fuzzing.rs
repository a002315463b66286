//! What the fuzzer needs of the envelope, which is not public. Only in builds for fuzzing.

use bytes::Bytes;

use super::envelope::{Incoming, closing, rejection, reply};

/// What an endpoint has read from one message.
#[derive(Debug, PartialEq)]
pub struct Decoded(Incoming);

impl Decoded {
    /// `None` for what is no envelope.
    pub fn new(json: &[u8]) -> Option<Self> {
        Incoming::decode(json).ok().map(Decoded)
    }

    /// What would be sent for it; `None` for a rejection without a size, which nobody sends.
    pub fn encode(&self) -> Option<Bytes> {
        Some(match &self.0 {
            Incoming::Message(envelope) => envelope.encode(),
            Incoming::Reply(id, outcome) => {
                reply("", "", *id, outcome.as_ref().map_err(String::as_str))
            }
            Incoming::Closing => closing(""),
            Incoming::Rejection(from, error, size) => {
                rejection(from, usize::try_from((*size)?).ok()?, error)
            }
        })
    }
}
