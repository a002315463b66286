use crate::ServerStats;
use crate::stats::Totals;

/// Reads what a server has done so far, also while [`serve`](crate::PipeServer::serve) runs it and
/// after it has become a hub. Cheap to clone; keeps nothing alive.
///
/// [`PipeServer::stats_handle`](crate::PipeServer::stats_handle) returns one.
#[derive(Clone, Debug)]
pub struct StatsHandle(Totals);

impl StatsHandle {
    pub(crate) fn new(totals: Totals) -> Self {
        StatsHandle(totals)
    }

    /// What the server has done so far. The figures stay after the server has ended.
    pub fn stats(&self) -> ServerStats {
        self.0.stats()
    }
}
