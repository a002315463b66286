//! Letting other tasks have their turn.

use std::task::{Context, Poll, ready};

use tokio::task::coop::poll_proceed;

/// How many messages one unit of a task's budget pays for. tokio gives a task 128 units each time that
/// it runs.
const MESSAGES: u8 = 8;

/// Counts the messages that pass without asking the system. Asking would itself spend budget. However
/// many messages there are, other tasks of the runtime get to run. Spending budget on each would cost
/// more than it is worth.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    messages: u8,
}

impl Turn {
    /// Whether another message may go through now. Otherwise the task is woken again.
    #[inline]
    pub(crate) fn poll_go_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.messages == MESSAGES {
            ready!(poll_spend(cx));
            self.messages = 0;
        }
        self.messages += 1;
        Poll::Ready(())
    }
}

/// Spends one unit of the task's budget.
pub(crate) fn poll_spend(cx: &mut Context<'_>) -> Poll<()> {
    poll_proceed(cx).map(|unit| unit.made_progress())
}
