//! Messages in one direction, as fast as they go: `cargo bench --bench throughput -- --quick`.
//!
//! Both contenders batch in the same way: `feed` for each message, one `flush` at the end.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Messages, contend, runtimes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::{SinkExt, StreamExt};

fn throughput(c: &mut Criterion) {
    for (threads, runtime) in &runtimes() {
        let mut group = c.benchmark_group(format!("throughput, {threads}"));
        for size in [64, 1 << 10, 64 << 10, 1 << 20] {
            group.throughput(Throughput::Bytes(size as u64));
            contend!(group, runtime, size, one_way;
                "asyncipc": common::asyncipc, "Framed": common::framed);
            #[cfg(windows)]
            contend!(group, runtime, size, one_way;
                "asyncipc, overlapped": common::overlapped,
                "asyncipc, message mode": common::message_mode);
        }
    }
}

/// From the first message sent to the last one received.
async fn one_way<S, R>(mut sender: S, mut receiver: R, messages: u64, size: usize) -> Duration
where
    S: Messages,
    R: Messages,
{
    let message = Bytes::from(vec![7; size]);
    let started = Instant::now();
    let receiving = tokio::spawn(async move {
        for _ in 0..messages {
            let message = receiver.next().await.unwrap().unwrap();
            assert_eq!(message.len(), size);
        }
        started.elapsed()
    });
    for _ in 0..messages {
        sender.feed(message.clone()).await.unwrap();
    }
    sender.flush().await.unwrap();
    receiving.await.unwrap()
}

criterion_group!(benches, throughput);
criterion_main!(benches);
