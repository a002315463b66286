//! Round trips, one at a time: `cargo bench --bench latency -- --quick`.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Messages, contend, runtimes};
use criterion::{Criterion, criterion_group, criterion_main};
use futures::{SinkExt, StreamExt};

fn latency(c: &mut Criterion) {
    for (threads, runtime) in &runtimes() {
        let mut group = c.benchmark_group(format!("latency, {threads}"));
        for size in [64, 4 << 10, 64 << 10, 1 << 20] {
            contend!(group, runtime, size, round_trips;
                "asyncipc": common::asyncipc, "Framed": common::framed);
            #[cfg(windows)]
            contend!(group, runtime, size, round_trips;
                "asyncipc, overlapped": common::overlapped,
                "asyncipc, message mode": common::message_mode);
        }
    }
}

async fn round_trips<C, S>(mut client: C, mut server: S, messages: u64, size: usize) -> Duration
where
    C: Messages,
    S: Messages,
{
    let echoing = tokio::spawn(async move {
        while let Some(message) = server.next().await {
            server.send(message.unwrap().freeze()).await.unwrap();
        }
    });
    let message = Bytes::from(vec![7; size]);
    let started = Instant::now();
    for _ in 0..messages {
        client.send(message.clone()).await.unwrap();
        let echo = client.next().await.unwrap().unwrap();
        assert_eq!(echo.len(), size);
    }
    let elapsed = started.elapsed();
    drop(client);
    echoing.await.unwrap();
    elapsed
}

criterion_group!(benches, latency);
criterion_main!(benches);
