//! Spinning: polling the system for a while before sleeping. Waking a sleeping task costs more than
//! transferring a small message.

use std::time::{Duration, Instant};

/// After the n-th failed spin in a row, the next 2ⁿ waits sleep at once, up to this n.
const MOST_FAILURES: u32 = 10;

/// How many times the system is asked before other tasks get their turn.
pub(crate) const ATTEMPTS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Spin {
    /// How long one spin may last. Zero: sleep at once.
    limit: Duration,
    /// When the current spin began.
    since: Option<Instant>,
    /// Whether an attempt of this spin has found nothing.
    waited: bool,
    failures: u32,
    /// How many of the next waits sleep at once.
    skip: u32,
}

impl Spin {
    pub(crate) fn new(limit: Duration) -> Self {
        Spin {
            limit,
            ..Spin::default()
        }
    }

    /// Called when nothing is there yet: whether to ask again at once. Otherwise the caller sleeps.
    pub(crate) fn should_retry(&mut self) -> bool {
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

    /// Notes that an attempt found nothing.
    pub(crate) fn found_nothing(&mut self) {
        self.waited = true;
    }

    /// Ends the spin, because something is there.
    pub(crate) fn finish(&mut self) {
        match self.since.take() {
            None => {}
            // It was there before the spin, which says nothing about spinning.
            Some(_) if !self.waited => {}
            Some(since) if since.elapsed() < self.limit => self.failures = 0,
            // It came while other tasks had the processor, perhaps because this one held it too long.
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
    fn there_is_no_spinning_unless_asked_for() {
        assert!(!Spin::default().should_retry());
    }

    #[test]
    fn failed_spins_make_further_ones_rarer_and_a_success_makes_them_usual_again() {
        let mut wait = Spin::new(Duration::from_nanos(1));
        let mut sleeps_between_two = vec![];
        for _ in 0..12 {
            let mut sleeps = 0;
            while !wait.should_retry() {
                sleeps += 1;
            }
            sleeps_between_two.push(sleeps);
            // These find nothing: the limit has passed as soon as the clock moves.
            while wait.should_retry() {}
        }
        assert_eq!(
            sleeps_between_two,
            [0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]
        );

        while !wait.should_retry() {}
        wait.limit = Duration::MAX;
        wait.found_nothing();
        wait.finish();
        assert!(wait.should_retry());
    }

    #[test]
    fn a_message_that_was_there_already_changes_nothing() {
        let mut wait = Spin::new(Duration::MAX);
        wait.failed();
        while !wait.should_retry() {}
        wait.finish();
        assert_eq!(wait.failures, 1);
    }

    #[test]
    fn a_message_that_comes_after_the_limit_is_a_failure() {
        let mut wait = Spin::new(Duration::from_nanos(1));
        assert!(wait.should_retry());
        wait.found_nothing();
        while wait.since.is_some_and(|it| it.elapsed() < wait.limit) {}
        wait.finish();
        assert!(!wait.should_retry());
    }
}
