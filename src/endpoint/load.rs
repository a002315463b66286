//! How many messages of one connection are being handled, and what a handler's own future may wait for.
//!
//! A handler must not wait for room in a queue: there is room when the other program reads, and the handlers
//! of that program may be waiting for room here. A handler may wait for another program's reply. Meanwhile
//! reading goes on, because the other program may have to ask a question before it can reply, and that
//! question is among the messages to be read.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::error::EndpointError;
use super::options::{Options, ROOM_FOR_HANDLERS};
use crate::sync::lock;

tokio::task_local! {
    /// Set while a handler's future is polled, but not in tasks that it spawns.
    static HANDLER: Arc<Handler>;
}

/// A handler at work on a message.
#[derive(Debug)]
struct Handler {
    is_message: bool,
    bytes: usize,
    /// How many replies and flushes it waits for. `None` once it has ended: if it has handed a wait to
    /// another task, that no longer counts.
    waits: Mutex<Option<usize>>,
    load: Arc<Load>,
}

/// Counts what is being handled of one connection, and how much of that waits for other programs.
#[derive(Debug)]
pub(super) struct Load {
    /// The most that may be at work.
    working_limit: Amount,
    /// The most that may wait in addition.
    waiting_limit: Amount,
    /// Bytes of all messages, as JSON.
    bytes: AtomicUsize,
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// How many of the waiting handlers handle messages and not requests. At most one: the messages behind
    /// it wait for their turn.
    waiting_messages: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Amount {
    messages: usize,
    bytes: usize,
}

/// A message that counts among those being handled for as long as this lives.
#[derive(Debug)]
pub(super) struct Permit {
    load: Arc<Load>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.load.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl Load {
    pub(super) fn new(options: &Options) -> Arc<Self> {
        Arc::new(Load {
            working_limit: Amount {
                messages: options.handlers,
                bytes: options.bytes_in_hand,
            },
            waiting_limit: Amount {
                messages: options.waiting_handlers(),
                bytes: options.bytes_in_hand.saturating_mul(ROOM_FOR_HANDLERS),
            },
            bytes: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            waiting_messages: AtomicUsize::new(0),
        })
    }

    /// Counts a message of this length.
    pub(super) fn add(self: &Arc<Self>, bytes: usize) -> Permit {
        self.bytes.fetch_add(bytes, Relaxed);
        let load = self.clone();
        Permit { load, bytes }
    }

    /// Whether another message may be read while `messages` are being handled. As long as those are below the
    /// limit, the next message is read, however long it is.
    pub(super) fn has_room(&self, messages: usize) -> bool {
        let bytes = self.bytes.load(Relaxed);
        let working = messages.saturating_sub(self.waiting.load(Relaxed));
        let working_bytes = bytes.saturating_sub(self.waiting_bytes.load(Relaxed));
        let limit = self.working_limit;
        if working < limit.messages && working_bytes < limit.bytes {
            return true;
        }
        let is_behind_one_that_waits = self.waiting_messages.load(Relaxed) > 0;
        let most = limit.messages.saturating_add(self.waiting_limit.messages);
        is_behind_one_that_waits && messages < most && bytes < self.waiting_limit.bytes
    }

    /// Counts the handler among those that wait. Returns how many waited before.
    fn begin_waiting(&self, handler: &Handler) -> Amount {
        let messages = usize::from(handler.is_message);
        self.waiting_messages.fetch_add(messages, Relaxed);
        let bytes = self.waiting_bytes.fetch_add(handler.bytes, Relaxed);
        let messages = self.waiting.fetch_add(1, Relaxed);
        Amount { messages, bytes }
    }

    fn end_waiting(&self, handler: &Handler) {
        let messages = usize::from(handler.is_message);
        self.waiting_messages.fetch_sub(messages, Relaxed);
        self.waiting_bytes.fetch_sub(handler.bytes, Relaxed);
        self.waiting.fetch_sub(1, Relaxed);
    }
}

/// Runs the future of a handler.
pub(super) async fn run_handler<F: Future>(
    permit: &Permit,
    is_message: bool,
    future: F,
) -> F::Output {
    let handler = Handler {
        is_message,
        bytes: permit.bytes,
        waits: Mutex::new(Some(0)),
        load: permit.load.clone(),
    };
    let handler = Arc::new(handler);
    let _end = EndOfHandler(handler.clone());
    HANDLER.scope(handler, future).await
}

/// Ends a handler's waits when the handler has ended or is cancelled.
struct EndOfHandler(Arc<Handler>);

impl Drop for EndOfHandler {
    fn drop(&mut self) {
        let waits = lock(&self.0.waits).take();
        if waits.is_some_and(|it| it > 0) {
            self.0.load.end_waiting(&self.0);
        }
    }
}

/// Whether the caller is a handler's own future, of any endpoint.
pub(super) fn is_handler() -> bool {
    HANDLER.try_with(|_| ()).is_ok()
}

/// While this lives, the handler that made it counts as waiting for another program.
#[derive(Debug)]
pub(super) struct Waiting(Option<Arc<Handler>>);

impl Waiting {
    /// Does nothing outside of handlers.
    ///
    /// # Errors
    ///
    /// [`EndpointError::TooManyWait`]
    pub(super) fn begin(to: &str) -> Result<Self, EndpointError> {
        let Ok(handler) = HANDLER.try_with(Arc::clone) else {
            return Ok(Waiting(None));
        };
        let mut waits = lock(&handler.waits);
        let Some(count) = &mut *waits else {
            return Ok(Waiting(None));
        };
        if *count == 0 {
            let load = &handler.load;
            let (before, limit) = (load.begin_waiting(&handler), load.waiting_limit);
            let bounds = [
                ("waiting_handlers", before.messages, limit.messages),
                ("bytes_in_hand", before.bytes, limit.bytes),
            ];
            let reached = bounds
                .into_iter()
                .find(|(_, waiting, most)| waiting >= most);
            if let Some((bound, _, most)) = reached {
                load.end_waiting(&handler);
                return Err(EndpointError::TooManyWait {
                    to: to.into(),
                    handlers: before.messages,
                    bytes: before.bytes,
                    bound,
                    most,
                });
            }
        }
        *count += 1;
        drop(waits);
        Ok(Waiting(Some(handler)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(handler) = &self.0 else { return };
        if let Some(count) = &mut *lock(&handler.waits) {
            *count -= 1;
            if *count == 0 {
                handler.load.end_waiting(handler);
            }
        }
    }
}
