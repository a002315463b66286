//! Messages in one direction, as fast as they go: `cargo bench --bench throughput -- --quick`.
//!
//! Who batches does it in the same way: `feed` for each message, one `flush` at the end. The time
//! is over when the server has confirmed every byte.

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod common;

use common::{Job, Place, Work, bench, contenders, label};
use criterion::{Criterion, Throughput};

fn throughput(c: &mut Criterion) {
    for place in &Place::all() {
        let mut group = c.benchmark_group(format!("throughput, {}", place.name()));
        for size in [64, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 16 << 20] {
            group.throughput(Throughput::Bytes(size as u64));
            for contender in &contenders() {
                bench(&mut group, place, contender, &label(size), |messages| Job {
                    work: Work::OneWay,
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
    throughput(&mut criterion);
    criterion.final_summary();
}
