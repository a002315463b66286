//! Those that are measured, all of them.

use crate::harness::{Entry, contenders};

/// The contenders of the criterion groups, and then the peers that were built in.
pub(crate) fn everybody() -> Vec<Entry> {
    let mut all = contenders();
    all.extend(heavy());
    all
}

/// Peers with C libraries, or with much to build.
fn heavy() -> Vec<Entry> {
    vec![]
}
