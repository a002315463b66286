//! Round trips, one at a time: `cargo bench --bench latency -- --quick`.

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod common;

use common::{Job, Place, Work, bench, contenders, label};
use criterion::Criterion;

fn latency(c: &mut Criterion) {
    for place in &Place::all() {
        let mut group = c.benchmark_group(format!("latency, {}", place.name()));
        for size in [64, 4 << 10, 64 << 10, 1 << 20] {
            for contender in &contenders() {
                bench(&mut group, place, contender, &label(size), |messages| Job {
                    work: Work::PingPong,
                    size,
                    messages,
                });
            }
        }
    }
}

fn main() {
    common::serve_if_asked(&contenders());
    let mut criterion = Criterion::default().configure_from_args();
    latency(&mut criterion);
    criterion.final_summary();
}
