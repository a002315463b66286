//! What the tests share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::sync::atomic::{AtomicU32, Ordering};

/// A name that no other test, in this process or another, uses at the same time.
pub fn unique_name(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("asyncipc-test-{what}-{}-{n}", std::process::id())
}
