//! The instances of one server, counted.

use std::fmt;
use std::os::windows::io::OwnedHandle;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use super::instance::Factory;
use crate::sync::lock;
use crate::sys::Limits;

/// What the listener shares with the streams that it has handed out.
pub(super) struct Pool {
    pub(super) factory: Factory,
    pub(super) backlog: usize,
    pub(super) max_connections: usize,
    state: Mutex<PoolState>,
}

pub(super) struct PoolState {
    /// False once the listener is gone: no more instances are made.
    open: bool,
    /// Instances that have been handed out and not dropped yet.
    pub(super) connected: usize,
    /// Instances to which a client can connect, or has connected, and that were not handed out yet.
    pub(super) waiting: usize,
    /// Those of `waiting` that the listener has not taken over yet.
    pub(super) fresh: Vec<OwnedHandle>,
    /// The task that waits in `poll_accept`.
    pub(super) waker: Option<Waker>,
}

/// How many instances wait for clients by default.
const BACKLOG: u32 = 8;

impl Pool {
    /// Begins with the `first` instance, which waits for a client.
    pub(super) fn new(factory: Factory, limits: &Limits, first: OwnedHandle) -> Self {
        Pool {
            factory,
            backlog: limits.backlog.unwrap_or(BACKLOG) as usize,
            max_connections: limits.max_connections,
            state: Mutex::new(PoolState {
                open: true,
                connected: 0,
                waiting: 1,
                fresh: vec![first],
                waker: None,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PoolState> {
        lock(&self.state)
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.fresh.clear();
    }
}

/// The place of a connected instance among those of its server.
pub(in crate::sys) struct Slot(pub(super) Arc<Pool>);

impl Drop for Slot {
    /// When no instance waits for clients because the limit is reached, the successor is made here,
    /// while the old instance still exists. Without any instance, the pipe's name would be gone for
    /// a moment, and clients would get "not found" instead of "busy".
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.connected -= 1;
        if !state.open || state.waiting > 0 {
            return;
        }
        let created = self.0.factory.create(false).map(|instance| {
            state.fresh.push(instance);
            state.waiting += 1;
        });
        let waker = state.waker.take();
        drop(state);
        if let Err(error) = created {
            // `poll_accept` will try again, and report the error.
            tracing::warn!(%error, "cannot make the next pipe instance yet");
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
