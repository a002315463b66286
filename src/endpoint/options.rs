use std::time::Duration;

use tokio::sync::Semaphore;

use crate::MessageCodec;

/// The defaults for handlers are so many times the other limits: for the messages that may wait when handlers
/// send them, and for the handlers that may wait for other programs.
pub(super) const ROOM_FOR_HANDLERS: usize = 16;

/// What an endpoint does, apart from how it listens. The builder documents each of these.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) verify_server: bool,
    pub(super) codec: MessageCodec,
    pub(super) queue: usize,
    /// `None`: [`ROOM_FOR_HANDLERS`] times the `queue`.
    pub(super) handler_queue: Option<usize>,
    pub(super) give_up_after: Duration,
    pub(super) request_timeout: Duration,
    pub(super) backoff: (Duration, Duration),
    pub(super) handlers: usize,
    /// `None`: [`ROOM_FOR_HANDLERS`] times the `handlers`.
    pub(super) waiting_handlers: Option<usize>,
    pub(super) bytes_in_hand: usize,
    pub(super) drain_timeout: Duration,
    /// `None`: the `drain_timeout`.
    pub(super) linger: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            verify_server: false,
            codec: MessageCodec::new(1 << 20),
            queue: 64,
            handler_queue: None,
            give_up_after: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            backoff: (Duration::from_millis(10), Duration::from_secs(1)),
            handlers: 64,
            waiting_handlers: None,
            bytes_in_hand: 4 << 20,
            drain_timeout: Duration::from_secs(10),
            linger: None,
        }
    }
}

impl Options {
    /// How many messages may wait for one program when handlers send them.
    pub(super) fn handler_queue(&self) -> usize {
        let default = self.queue.saturating_mul(ROOM_FOR_HANDLERS);
        let messages = self.handler_queue.unwrap_or(default).max(self.queue);
        messages.min(Semaphore::MAX_PERMITS)
    }

    /// At this many waiting messages, a handler that sends one more pauses first. This is above the `queue`,
    /// so only handlers make a queue this long.
    pub(super) fn high_water(&self) -> usize {
        self.queue.saturating_mul(2)
    }

    pub(super) fn waiting_handlers(&self) -> usize {
        let default = self.handlers.saturating_mul(ROOM_FOR_HANDLERS);
        self.waiting_handlers.unwrap_or(default)
    }

    pub(super) fn linger(&self) -> Duration {
        self.linger.unwrap_or(self.drain_timeout)
    }
}
