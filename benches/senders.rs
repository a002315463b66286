//! A `send` for each message, from one task and from several:
//! `cargo bench --bench senders -- --quick`.

#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod common;

use common::{Job, Place, Work, bench, contenders, label};
use criterion::{Criterion, Throughput};

fn senders(c: &mut Criterion) {
    for place in &Place::all() {
        let mut group = c.benchmark_group(format!("senders, {}", place.name()));
        for size in [64, 1 << 10] {
            group.throughput(Throughput::Bytes(size as u64));
            for contender in &contenders() {
                let mut measure = |from, work| {
                    let what = format!("{}, {from}", label(size));
                    bench(&mut group, place, contender, &what, |messages| Job {
                        work,
                        size,
                        messages,
                    });
                };
                measure("unshared", Work::Send);
                if contender.produce.is_some() {
                    measure("1 task", Work::Producers(1));
                    measure("16 tasks", Work::Producers(16));
                }
            }
        }
    }
}

fn main() {
    common::serve_if_asked(&contenders());
    let mut criterion = Criterion::default().configure_from_args();
    senders(&mut criterion);
    criterion.final_summary();
}
