//! One end of a connected pipe, whether it carries bytes or messages.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use crate::stats::Place;
use crate::{Error, Peer, PipeName, sys};

/// What a byte stream and a message connection have in common.
#[derive(Debug)]
pub(crate) struct PipeEnd {
    pub(crate) io: sys::Stream,
    /// What `io` can do, asked once.
    pub(crate) capabilities: sys::Capabilities,
    pub(crate) name: PipeName,
    /// How long closing waits for the peer.
    pub(crate) linger: Duration,
    /// This end's place among the clients of the server that accepted it.
    pub(super) place: OnceLock<Place>,
}

impl PipeEnd {
    pub(super) fn new(io: sys::Stream, name: PipeName, linger: Duration) -> Self {
        PipeEnd {
            capabilities: io.capabilities(),
            io,
            name,
            linger,
            place: OnceLock::new(),
        }
    }

    pub(super) fn peer(&self) -> Result<Peer, Error> {
        self.io
            .peer()
            .map(Peer::from)
            .map_err(|e| self.failed("cannot tell the peer of", e))
    }

    /// The error for an `action` that failed because of the system.
    pub(super) fn failed(&self, action: &'static str, error: io::Error) -> Error {
        Error::from_io(action, &self.name, error)
    }

    /// Ends the sending direction, where the system supports that.
    pub(super) fn shutdown(&self) -> Result<(), Error> {
        self.io
            .shutdown()
            .map_err(|e| self.failed("cannot close", e))
    }

    /// The error for a peer that has not read everything within the linger time.
    pub(super) fn closing_timed_out(&self, rest_is_lost: bool) -> Error {
        Error::TimedOut {
            pipe: self.name.clone(),
            action: "closing",
            waited: self.linger,
            reason: match (rest_is_lost, self.io.was_asked()) {
                (false, true) => "the peer has not read everything",
                (false, false) => {
                    "the system could not be asked in time whether the peer has read everything"
                }
                (true, _) => "the system could not take everything, and the rest is lost",
            },
        }
    }
}
