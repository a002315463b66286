//! How a connection behaves, whichever builder made it.

use std::time::Duration;

use super::{PipeConnection, PipeEnd, PipeStream};
use crate::{MessageCodec, PipeName, sys};

/// What every builder can set about its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionOptions {
    pub(crate) codec: MessageCodec,
    /// How long closing waits for the peer.
    pub(crate) linger: Duration,
    /// How long receiving polls the system before it sleeps.
    pub(crate) low_latency: Duration,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        ConnectionOptions {
            codec: MessageCodec::default(),
            linger: Duration::from_secs(5),
            low_latency: Duration::ZERO,
        }
    }
}

impl ConnectionOptions {
    /// A stream of bytes over `io`, an end of the pipe `name`.
    pub(crate) fn stream(&self, io: sys::Stream, name: PipeName) -> PipeStream {
        PipeStream::new(PipeEnd::new(io, name, self.linger))
    }

    /// Sends and receives messages over `stream`.
    pub(crate) fn connection(&self, stream: PipeStream) -> PipeConnection {
        let mut conn = PipeConnection::new(stream, self.codec);
        conn.receiver.set_low_latency(self.low_latency);
        conn
    }
}

/// The setters of [`ConnectionOptions`], for a builder that has them in its field `connection`.
macro_rules! connection_setters {
    () => {
        /// The longest message that this end sends or receives, in bytes. The other end has a limit of
        /// its own. Default 16 MiB, at most [`u32::MAX`].
        pub fn max_message_size(mut self, bytes: usize) -> Self {
            self.connection.codec = crate::MessageCodec::new(bytes);
            self
        }

        /// How long `close` waits for the peer to take what was sent. Default 5 s.
        ///
        /// On Windows, a dropped server end keeps the pipe that long, in the background.
        pub fn linger(mut self, linger: std::time::Duration) -> Self {
            self.connection.linger = linger;
            self
        }

        /// How long a connection busy-waits for the next message before it sleeps: it polls the system.
        /// Small round trips between two processes become several times as fast, because no task needs
        /// to be woken. Default zero: no busy-waiting.
        ///
        /// This uses processor time while waiting. Other tasks of the runtime run between two attempts.
        /// After busy waits that found nothing, the next waits, up to 1024 of them, sleep at once. It
        /// pays off between processes, for few connections with an idle core each; 20 to 50 µs suffice.
        /// It does not pay off when both ends are in one process, with many connections, or with rare
        /// messages. Set it at both ends. It has no effect in message mode.
        pub fn low_latency(mut self, limit: std::time::Duration) -> Self {
            self.connection.low_latency = limit;
            self
        }
    };
}
pub(crate) use connection_setters;
