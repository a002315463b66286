//! What a handler's own future may wait for. Not for room: that comes when the other program reads,
//! whose handlers may wait for room here. While it waits for another program's answer,
//! reading goes on, for the question that has to be answered first may be among what comes.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::{EndpointError, Options, ROOM_FOR_HANDLERS};
use crate::sync::lock;

tokio::task_local! {
    /// Set while a handler's future is polled: not in tasks that it spawns.
    static HANDLING: Arc<Handling>;
}

/// A message in the hands of a handler.
#[derive(Debug)]
struct Handling {
    is_message: bool,
    bytes: usize,
    /// How many answers it waits for. `None` once it has ended: what it has handed on to others waits
    /// without it.
    answers: Mutex<Option<usize>>,
    load: Arc<Load>,
}

/// What is in hand of one connection, and how much of it waits for other programs.
#[derive(Debug)]
pub(super) struct Load {
    /// How many messages may be in hand that do not wait, and how many bytes.
    limits: (usize, usize),
    /// How many may wait beside them.
    most: (usize, usize),
    /// As JSON.
    bytes: AtomicUsize,
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// Of those, the ones with messages, behind which others wait: one at most.
    messages: AtomicUsize,
}

/// A message in hand.
#[derive(Debug)]
pub(super) struct InHand {
    load: Arc<Load>,
    bytes: usize,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.load.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl Load {
    pub(super) fn new(options: &Options) -> Arc<Self> {
        let more_bytes = options.bytes_in_hand.saturating_mul(ROOM_FOR_HANDLERS);
        Arc::new(Load {
            limits: (options.handlers, options.bytes_in_hand),
            most: (options.waiting_handlers(), more_bytes),
            bytes: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
        })
    }

    /// Takes a message of this length in hand.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> InHand {
        self.bytes.fetch_add(bytes, Relaxed);
        let load = self.clone();
        InHand { load, bytes }
    }

    /// Whether another message may be read when so many are in hand. One is, however long it is,
    /// as long as the others are below the limit.
    pub(super) fn has_room(&self, in_hand: usize) -> bool {
        let bytes = self.bytes.load(Relaxed);
        let at_work = in_hand.saturating_sub(self.waiting.load(Relaxed));
        let bytes_at_work = bytes.saturating_sub(self.waiting_bytes.load(Relaxed));
        if at_work < self.limits.0 && bytes_at_work < self.limits.1 {
            return true;
        }
        let behind_one_that_waits = self.messages.load(Relaxed) > 0;
        let most = self.limits.0.saturating_add(self.most.0);
        behind_one_that_waits && in_hand < most && bytes < self.most.1
    }

    fn begin(&self, handling: &Handling) -> (usize, usize) {
        let messages = usize::from(handling.is_message);
        self.messages.fetch_add(messages, Relaxed);
        let bytes = self.waiting_bytes.fetch_add(handling.bytes, Relaxed);
        (self.waiting.fetch_add(1, Relaxed), bytes)
    }

    fn end(&self, handling: &Handling) {
        let messages = usize::from(handling.is_message);
        self.messages.fetch_sub(messages, Relaxed);
        self.waiting_bytes.fetch_sub(handling.bytes, Relaxed);
        self.waiting.fetch_sub(1, Relaxed);
    }
}

/// Runs what a handler does with a message.
pub(super) async fn run<F: Future>(message: &InHand, is_message: bool, handler: F) -> F::Output {
    let handling = Handling {
        is_message,
        bytes: message.bytes,
        answers: Mutex::new(Some(0)),
        load: message.load.clone(),
    };
    let handling = Arc::new(handling);
    let _ended = Ended(handling.clone());
    HANDLING.scope(handling, handler).await
}

/// That a handler has ended, or is cancelled.
struct Ended(Arc<Handling>);

impl Drop for Ended {
    fn drop(&mut self) {
        let answers = lock(&self.0.answers).take();
        if answers.is_some_and(|it| it > 0) {
            self.0.load.end(&self.0);
        }
    }
}

/// Whether this is called from a handler's own future, of whichever endpoint.
pub(super) fn is_handler() -> bool {
    HANDLING.try_with(|_| ()).is_ok()
}

/// As long as it lives, the handler that made it waits for another program.
#[derive(Debug)]
pub(super) struct Waiting(Option<Arc<Handling>>);

impl Waiting {
    /// Nothing, outside of handlers.
    ///
    /// # Errors
    ///
    /// [`EndpointError::TooManyWait`]
    pub(super) fn begin(to: &str) -> Result<Self, EndpointError> {
        let Ok(handling) = HANDLING.try_with(Arc::clone) else {
            return Ok(Waiting(None));
        };
        let mut answers = lock(&handling.answers);
        let Some(waits_for) = &mut *answers else {
            return Ok(Waiting(None));
        };
        if *waits_for == 0 {
            let load = &handling.load;
            let (handlers, bytes) = load.begin(&handling);
            let bounds = [
                ("waiting_handlers", handlers, load.most.0),
                ("bytes_in_hand", bytes, load.most.1),
            ];
            let reached = bounds
                .into_iter()
                .find(|(_, waiting, most)| waiting >= most);
            if let Some((bound, _, most)) = reached {
                load.end(&handling);
                return Err(EndpointError::TooManyWait {
                    to: to.into(),
                    handlers,
                    bytes,
                    bound,
                    most,
                });
            }
        }
        *waits_for += 1;
        drop(answers);
        Ok(Waiting(Some(handling)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(handling) = &self.0 else { return };
        if let Some(waits_for) = &mut *lock(&handling.answers) {
            *waits_for -= 1;
            if *waits_for == 0 {
                handling.load.end(handling);
            }
        }
    }
}
