//! The state of an endpoint. The front page of the module has a diagram of it.

use tokio::sync::watch;
use tokio::time::Instant;

/// The states of an endpoint. It goes through them only in this order.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) enum Life {
    /// It listens, and accepts messages for sending.
    Open,
    /// It accepts no more messages for sending.
    ShuttingDown,
    /// Nobody can connect to it any more. What it has begun may go on until the drain timeout.
    Draining {
        /// When the drain timeout began.
        since: Instant,
    },
    /// The application has dropped it: its tasks end at once.
    Dropped,
}

impl Life {
    /// When draining began.
    pub(super) fn draining_since(&self) -> Option<Instant> {
        match self {
            Life::Draining { since } => Some(*since),
            _ => None,
        }
    }
}

/// Holds the state. The accept loop advances it, and so does dropping the endpoint.
#[derive(Debug)]
pub(super) struct Lifecycle(watch::Sender<Life>);

impl Lifecycle {
    pub(super) fn new() -> Self {
        Lifecycle(watch::Sender::new(Life::Open))
    }

    /// Advances to `next`, unless the state is `next` or a later one. Waits until nobody
    /// [holds the endpoint open](Self::hold_open).
    pub(super) fn advance(&self, next: Life) {
        // This wakes the waiting tasks after it has released its lock.
        self.0.send_if_modified(|life| {
            let is_next = *life < next;
            if is_next {
                *life = next;
            }
            is_next
        });
    }

    /// `None` if it is not open any more. Otherwise it stays open for as long as the guard lives.
    pub(super) fn hold_open(&self) -> Option<watch::Ref<'_, Life>> {
        let life = self.0.borrow();
        (*life == Life::Open).then_some(life)
    }

    pub(super) fn is_dropped(&self) -> bool {
        *self.0.borrow() == Life::Dropped
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Life> {
        self.0.subscribe()
    }
}

/// Waits until `is_it` is true of the state, or until nobody can change the state any more.
pub(super) async fn reached<T>(state: &mut watch::Receiver<T>, is_it: impl FnMut(&T) -> bool) {
    let _ = state.wait_for(is_it).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_only() {
        let life = Lifecycle::new();
        assert!(life.hold_open().is_some());
        let since = Instant::now();
        life.advance(Life::Draining { since });
        life.advance(Life::ShuttingDown);
        assert_eq!(life.subscribe().borrow().draining_since(), Some(since));
        assert!(life.hold_open().is_none());
        life.advance(Life::Dropped);
        life.advance(Life::Draining { since });
        assert!(life.is_dropped());
    }
}
