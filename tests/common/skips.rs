//! Tests that are skipped on this machine, in this package and in `capi`.

use std::fmt::Display;
use std::fs::File;
use std::io::{Write, stderr};
use std::sync::Mutex;
use std::{env, thread};

/// Says why a test is skipped here: on standard error, where the test harness does not hide it, and in
/// the list that `scripts/check-skips` compares. That list leaves out what follows a colon, which
/// may differ from run to run.
pub fn skipped(why: impl Display) {
    let _ = writeln!(stderr(), "skipped: {why}");
    if let Some(list) = env::var_os("ASYNCIPC_SKIPS") {
        let why = why.to_string();
        let why = why.split(':').next().unwrap_or_default();
        let test = thread::current().name().unwrap_or("?").to_owned();
        let line = format!("{}::{test}: {why}\n", env!("CARGO_CRATE_NAME"));
        // Not all systems append whole lines from several threads.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap();
        let list = File::options().append(true).open(list);
        list.unwrap().write_all(line.as_bytes()).unwrap();
    }
}
