//! What a handler's own future may wait for. Not for room: that comes when the other program reads,
//! whose handlers may wait for room here. While it waits for another program's answer,
//! reading goes on, for the question that has to be answered first may be among what comes.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::EndpointError;

tokio::task_local! {
    /// Set while a handler's future is polled: not in tasks that it spawns.
    static HANDLING: Arc<Handling>;
}

/// A message in the hands of a handler.
#[derive(Debug)]
struct Handling {
    is_message: bool,
    /// How many answers it waits for.
    answers: AtomicUsize,
    load: Arc<Load>,
}

/// Those handlers of one connection that wait for other programs.
#[derive(Debug)]
pub(super) struct Load {
    waiting: AtomicUsize,
    /// Of those, the ones with messages, behind which others wait: one at most.
    messages: AtomicUsize,
    most: usize,
}

impl Load {
    pub(super) fn new(most: usize) -> Self {
        Load {
            waiting: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
            most,
        }
    }

    /// Whether another message may be read when so many are in hand.
    pub(super) fn has_room(&self, in_hand: usize, handlers: usize) -> bool {
        let at_work = in_hand.saturating_sub(self.waiting.load(Relaxed));
        let behind_one_that_waits = self.messages.load(Relaxed) > 0;
        at_work < handlers || behind_one_that_waits && in_hand < handlers.saturating_add(self.most)
    }
}

/// Runs what a handler does.
pub(super) async fn run<F: Future>(load: Arc<Load>, is_message: bool, handler: F) -> F::Output {
    let handling = Handling {
        is_message,
        answers: AtomicUsize::new(0),
        load,
    };
    HANDLING.scope(Arc::new(handling), handler).await
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
        let load = handling.load.clone();
        if handling.answers.fetch_add(1, Relaxed) == 0 {
            let before = load.waiting.fetch_add(1, Relaxed);
            load.messages
                .fetch_add(usize::from(handling.is_message), Relaxed);
            if before >= load.most {
                drop(Waiting(Some(handling)));
                return Err(EndpointError::TooManyWait {
                    to: to.into(),
                    handlers: before,
                });
            }
        }
        Ok(Waiting(Some(handling)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(handling) = &self.0 else { return };
        if handling.answers.fetch_sub(1, Relaxed) == 1 {
            let load = &handling.load;
            load.waiting.fetch_sub(1, Relaxed);
            load.messages
                .fetch_sub(usize::from(handling.is_message), Relaxed);
        }
    }
}
