//! Asking again and again for a while before sleeping: waking a sleeping task costs more than
//! moving a small message does.

use std::time::{Duration, Instant};

/// After the n-th wait in vain in a row, the next 2ⁿ waits sleep at once, up to this n.
const MOST_FAILURES: u32 = 10;

/// How often the system is asked before other tasks have their turn.
pub(crate) const ATTEMPTS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct BusyWait {
    /// How long one wait may last; zero: sleep at once.
    limit: Duration,
    /// When the current wait began.
    since: Option<Instant>,
    /// Whether an attempt of it has found nothing.
    waited: bool,
    failures: u32,
    /// How many waits are to sleep at once.
    skip: u32,
}

impl BusyWait {
    pub(crate) fn new(limit: Duration) -> Self {
        BusyWait {
            limit,
            ..BusyWait::default()
        }
    }

    /// There is nothing: whether to ask again at once. Otherwise the caller sleeps.
    pub(crate) fn goes_on(&mut self) -> bool {
        match self.since {
            _ if self.limit.is_zero() => false,
            None if self.skip > 0 => {
                self.skip -= 1;
                false
            }
            None => {
                self.since = Some(Instant::now());
                self.waited = false;
                true
            }
            Some(since) if since.elapsed() < self.limit => true,
            Some(_) => {
                self.since = None;
                self.failed();
                false
            }
        }
    }

    /// An attempt has found nothing.
    pub(crate) fn in_vain(&mut self) {
        self.waited = true;
    }

    /// There is something.
    pub(crate) fn is_over(&mut self) {
        match self.since.take() {
            None => {}
            // It was there before it was waited for, which tells nothing.
            Some(_) if !self.waited => {}
            Some(since) if since.elapsed() < self.limit => self.failures = 0,
            // It came while others had the processor, perhaps because this did not let go of it.
            Some(_) => self.failed(),
        }
    }

    fn failed(&mut self) {
        self.failures = (self.failures + 1).min(MOST_FAILURES);
        self.skip = 1 << self.failures;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_done_unless_asked_for() {
        assert!(!BusyWait::default().goes_on());
    }

    #[test]
    fn waits_in_vain_make_further_ones_rarer_and_a_success_makes_them_usual_again() {
        let mut wait = BusyWait::new(Duration::from_nanos(1));
        let mut sleeps_between_two = vec![];
        for _ in 0..12 {
            let mut sleeps = 0;
            while !wait.goes_on() {
                sleeps += 1;
            }
            sleeps_between_two.push(sleeps);
            // In vain: the limit is over as soon as the clock moves.
            while wait.goes_on() {}
        }
        assert_eq!(
            sleeps_between_two,
            [0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]
        );

        while !wait.goes_on() {}
        wait.limit = Duration::MAX;
        wait.in_vain();
        wait.is_over();
        assert!(wait.goes_on());
    }

    #[test]
    fn a_message_that_was_there_already_changes_nothing() {
        let mut wait = BusyWait::new(Duration::MAX);
        wait.failed();
        while !wait.goes_on() {}
        wait.is_over();
        assert_eq!(wait.failures, 1);
    }

    #[test]
    fn a_message_that_comes_after_the_limit_was_waited_for_in_vain() {
        let mut wait = BusyWait::new(Duration::from_nanos(1));
        assert!(wait.goes_on());
        wait.in_vain();
        while wait.since.is_some_and(|it| it.elapsed() < wait.limit) {}
        wait.is_over();
        assert!(!wait.goes_on());
    }
}
