use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The number of a connection, which no other connection of this process has.
///
/// Logs show it, and a [`PipeHub`](crate::PipeHub) knows its clients by it. Later connections have greater
/// numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// A number that no connection has had yet.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        ConnectionId(NEXT.fetch_add(1, Relaxed))
    }

    /// The bare number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<ConnectionId> for u64 {
    fn from(id: ConnectionId) -> Self {
        id.0
    }
}

/// For a number that has been elsewhere, such as behind a C interface or in a log. A number that came
/// from no [`ConnectionId`] belongs to no connection.
impl From<u64> for ConnectionId {
    fn from(number: u64) -> Self {
        ConnectionId(number)
    }
}
