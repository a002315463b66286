//! Many clients: `cargo bench --bench connections -- --quick`.

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod common;

use common::{Job, Place, Work, bench, contenders};
use criterion::{Criterion, Throughput};

fn connections(c: &mut Criterion) {
    for place in &Place::all() {
        let mut group = c.benchmark_group(format!("connections, {}", place.name()));
        group.throughput(Throughput::Elements(1));
        for (what, work) in [
            ("connect, echo, close", Work::Connect(1)),
            ("connect, echo, close, 16 at once", Work::Connect(16)),
            ("echo, 1,000 clients", Work::Clients(1000)),
        ] {
            for contender in &contenders() {
                bench(&mut group, place, contender, what, |messages| Job {
                    work,
                    size: 64,
                    messages,
                });
            }
        }
    }
}

fn main() {
    common::serve_if_asked(&contenders());
    common::raise_descriptor_limit();
    let mut criterion = Criterion::default().configure_from_args();
    connections(&mut criterion);
    criterion.final_summary();
}
