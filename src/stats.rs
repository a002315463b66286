use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::ConnectionId;
use crate::sync::lock;

/// What went through one connection, or through all connections of a server.
///
/// Bytes are those of the payloads, without headers. A message counts as sent when the connection has
/// taken it for sending, and as received when the connection hands it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Messages received.
    pub messages_received: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Messages sent.
    pub messages_sent: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
}

/// What a server has done since it was bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Clients accepted so far, including those that have left.
    pub clients: u64,
    /// Clients connected now: those whose connection, halves or byte stream have not all been dropped.
    pub connected: u64,
    /// The sum over all these clients, without what goes through a byte stream
    /// ([`PipeStream`](crate::PipeStream)).
    pub traffic: ConnectionStats,
}

/// The counters of one connection. Each has a single writer, the half that it belongs to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    messages_received: AtomicU64,
    bytes_received: AtomicU64,
    messages_sent: AtomicU64,
    bytes_sent: AtomicU64,
}

impl Counters {
    #[inline]
    pub(crate) fn received(&self, bytes: usize) {
        add(&self.messages_received, 1);
        add(&self.bytes_received, bytes as u64);
    }

    #[inline]
    pub(crate) fn sent(&self, bytes: usize) {
        add(&self.messages_sent, 1);
        add(&self.bytes_sent, bytes as u64);
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            messages_received: self.messages_received.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            messages_sent: self.messages_sent.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
        }
    }
}

/// Cheaper than a read-modify-write, and correct as long as one task at a time writes.
#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// The counters of a server: those of its live connections, and the sum of those that ended. Summing up
/// on request adds no cost to a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals(Arc<Mutex<TotalsState>>);

#[derive(Debug, Default)]
struct TotalsState {
    /// Clients that have a [`Place`], and the traffic of connections that have ended.
    stats: ServerStats,
    live: HashMap<ConnectionId, Arc<Counters>>,
}

/// Counts one client as connected, whatever reads and writes its pipe, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Totals);

impl Totals {
    pub(crate) fn join(&self) -> Place {
        let mut state = self.lock();
        state.stats.clients += 1;
        state.stats.connected += 1;
        Place(self.clone())
    }

    pub(crate) fn stats(&self) -> ServerStats {
        let state = self.lock();
        let mut stats = state.stats;
        for counters in state.live.values() {
            stats.traffic += counters.stats();
        }
        stats
    }

    fn lock(&self) -> MutexGuard<'_, TotalsState> {
        lock(&self.0)
    }
}

impl Place {
    /// A connection begins to carry messages.
    pub(crate) fn begin(&self, id: ConnectionId, counters: Arc<Counters>) {
        self.0.lock().live.insert(id, counters);
    }

    /// The connection no longer carries messages.
    pub(crate) fn end(&self, id: ConnectionId) {
        let mut state = self.0.lock();
        if let Some(counters) = state.live.remove(&id) {
            state.stats.traffic += counters.stats();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().stats.connected -= 1;
    }
}

impl std::ops::AddAssign for ConnectionStats {
    fn add_assign(&mut self, other: Self) {
        self.messages_received += other.messages_received;
        self.bytes_received += other.bytes_received;
        self.messages_sent += other.messages_sent;
        self.bytes_sent += other.bytes_sent;
    }
}
