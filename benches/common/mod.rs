//! What the criterion groups have in common.

#[path = "../harness/mod.rs"]
mod harness;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId};
use tokio::runtime::Runtime;

pub(crate) use harness::*;

/// Where the two ends run.
pub(crate) enum Place {
    /// One thread shows what the software itself costs, and repeats well. With two, each end can
    /// have its own, and the figures depend on what it takes to wake a sleeping one.
    OneProcess(&'static str, Runtime),
    /// Each with one thread. Under `taskset -c 0` they share a processor.
    TwoProcesses(Runtime),
}

impl Place {
    pub(crate) fn all() -> [Place; 3] {
        [
            Place::OneProcess("one thread", one_thread()),
            Place::OneProcess("two threads", two_threads()),
            Place::TwoProcesses(one_thread()),
        ]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Place::OneProcess(threads, _) => threads,
            Place::TwoProcesses(_) => "two processes",
        }
    }
}

/// Measures one contender at a job of as many messages as criterion asks for.
pub(crate) fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    place: &Place,
    contender: &Entry,
    parameter: &str,
    job: impl Fn(u64) -> Job,
) {
    // Not before the benchmark is known to be one of those that were asked for.
    let mut ends = None;
    let id = BenchmarkId::new(contender.name, parameter);
    group.bench_function(id, |b| {
        let ends = ends.get_or_insert_with(|| Ends::new(place, contender));
        b.iter_custom(|messages| {
            let driving = contender.run(ends.path().to_owned(), job(messages));
            ends.runtime.block_on(driving).elapsed
        });
    });
}

struct Ends<'a> {
    runtime: &'a Runtime,
    server: Other,
}

enum Other {
    Task(Path, tokio::task::AbortHandle),
    Process(Server),
}

impl<'a> Ends<'a> {
    fn new(place: &'a Place, contender: &Entry) -> Self {
        match place {
            Place::OneProcess(_, runtime) => {
                let path = Path::unique();
                let _inside = runtime.enter();
                let serving = runtime.spawn((contender.serve)(&path.path));
                let server = Other::Task(path, serving.abort_handle());
                Ends { runtime, server }
            }
            Place::TwoProcesses(runtime) => {
                let server = Other::Process(Server::start(contender, None));
                Ends { runtime, server }
            }
        }
    }

    fn path(&self) -> &str {
        match &self.server {
            Other::Task(path, _) => &path.path,
            Other::Process(server) => server.path(),
        }
    }
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if let Other::Task(_, serving) = &self.server {
            serving.abort();
        }
    }
}
