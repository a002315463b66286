//! However much there is to do for one task, others of its runtime run in between.

mod common;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use asyncipc::{PipeClient, PipeConnection, PipeHub, PipeServer};
use bytes::{Bytes, BytesMut};
use common::{HOLDS, byte_pair, pair, unique_name, within};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// How often tokio lets a task go on that always has something to do.
const BUDGET: usize = 128;

/// How many messages one of these is for.
const MESSAGES: usize = 8;

/// The most messages between two runs of another task: one more unit may have been begun.
const MOST: usize = (BUDGET + 1) * MESSAGES;

/// Of 16 bytes, as many as every pipe holds: more than [`MOST`] on Linux and Windows.
const COUNT: usize = HOLDS / 20;

/// As many as every pipe holds that are written one by one, and more than [`BUDGET`].
const ONE_BY_ONE: usize = 180;

fn message() -> Bytes {
    Bytes::from_static(b"sixteen bytes...")
}

/// The most that `work` did between two runs of a task that only yields. `work` counts.
async fn most_between_two_runs<F: Future<Output = ()>>(
    done: Arc<AtomicUsize>,
    work: impl FnOnce(Arc<AtomicUsize>) -> F,
) -> usize {
    let over = Arc::new(AtomicBool::new(false));
    let other = tokio::spawn({
        let (done, over) = (done.clone(), over.clone());
        async move {
            let (mut before, mut most) = (0, 0);
            while !over.load(Relaxed) {
                let now = done.load(Relaxed);
                most = most.max(now - before);
                before = now;
                yield_now().await;
            }
            most.max(done.load(Relaxed) - before)
        }
    });
    // It begins first.
    yield_now().await;
    within(work(done)).await;
    over.store(true, Relaxed);
    within(other).await.unwrap()
}

/// Sends as much as the pipe holds.
async fn fill(conn: &mut PipeConnection) {
    for _ in 0..COUNT {
        within(conn.feed(message())).await.unwrap();
    }
    within(conn.flush()).await.unwrap();
}

#[tokio::test]
async fn a_task_that_receives_lets_others_run_at_least_as_often_as_with_framed() {
    let (mut client, mut accepted) = pair().await;
    fill(&mut client).await;
    let ours = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        for _ in 0..COUNT {
            accepted.next().await.unwrap().unwrap();
            done.fetch_add(1, Relaxed);
        }
    })
    .await;

    let (mut client, mut accepted) = pair().await;
    fill(&mut client).await;
    let into_buffer = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        let mut buf = BytesMut::new();
        for _ in 0..COUNT {
            buf.clear();
            accepted.recv_into(&mut buf).await.unwrap().unwrap();
            done.fetch_add(1, Relaxed);
        }
    })
    .await;

    let (mut client, accepted) = pair().await;
    fill(&mut client).await;
    let stream = accepted.into_stream().await.unwrap();
    let mut accepted = Framed::new(stream, LengthDelimitedCodec::new());
    let framed = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        for _ in 0..COUNT {
            accepted.next().await.unwrap().unwrap();
            done.fetch_add(1, Relaxed);
        }
    })
    .await;

    assert!(ours <= MOST && ours <= framed, "{ours}, Framed: {framed}");
    assert!(
        into_buffer <= MOST && into_buffer <= framed,
        "{into_buffer}, Framed: {framed}"
    );
}

#[tokio::test]
async fn a_task_that_feeds_lets_others_run() {
    let (mut client, _accepted) = pair().await;
    let most = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        for _ in 0..COUNT {
            client.feed(message()).await.unwrap();
            done.fetch_add(1, Relaxed);
        }
        client.flush().await.unwrap();
    })
    .await;
    assert!(most <= MOST, "{most}");
}

#[tokio::test]
async fn a_task_that_sends_lets_others_run() {
    let (mut client, _accepted) = pair().await;
    let most = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        for _ in 0..ONE_BY_ONE {
            client.send(message()).await.unwrap();
            done.fetch_add(1, Relaxed);
        }
    })
    .await;
    assert!(most <= BUDGET, "{most}");
}

#[tokio::test]
async fn a_task_that_reads_what_was_read_ahead_lets_others_run() {
    let (mut client, mut accepted) = pair().await;
    fill(&mut client).await;
    within(accepted.next()).await.unwrap().unwrap();
    let mut stream = accepted.into_stream().await.unwrap();
    let most = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        // The rest of the first read, at least.
        for _ in 0..4000 {
            stream.read_u8().await.unwrap();
            done.fetch_add(1, Relaxed);
        }
    })
    .await;
    assert!(most <= BUDGET, "{most}");
}

#[tokio::test]
async fn a_task_that_reads_and_writes_bytes_lets_others_run() {
    let (mut client, mut accepted) = byte_pair().await;
    let most = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        for _ in 0..ONE_BY_ONE {
            client.write_u8(1).await.unwrap();
            done.fetch_add(1, Relaxed);
        }
    })
    .await;
    assert!(most <= BUDGET, "{most} writes");
    let most = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        for _ in 0..ONE_BY_ONE {
            accepted.read_u8().await.unwrap();
            done.fetch_add(1, Relaxed);
        }
    })
    .await;
    assert!(most <= BUDGET, "{most} reads");
}

#[tokio::test]
async fn many_that_share_a_sender_let_others_run() {
    let (client, _accepted) = pair().await;
    let (sender, _receiver) = client.split();
    let sender = sender.into_shared();
    let most = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        for _ in 0..COUNT {
            sender.send(message()).await.unwrap();
            done.fetch_add(1, Relaxed);
        }
    })
    .await;
    assert!(most <= BUDGET, "{most}");
}

#[tokio::test]
async fn a_task_that_reads_a_hubs_events_lets_others_run() {
    let (mut client, accepted) = pair().await;
    fill(&mut client).await;
    let mut hub: PipeHub = accepted.into_hub();
    let most = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        for _ in 0..COUNT {
            hub.next().await.unwrap();
            done.fetch_add(1, Relaxed);
        }
    })
    .await;
    assert!(most <= BUDGET, "{most}");
}

#[tokio::test]
async fn a_task_that_accepts_lets_others_run() {
    let name = unique_name("storm");
    let mut server = PipeServer::builder(&name).backlog(200).bind().unwrap();
    let mut clients = Vec::new();
    for _ in 0..ONE_BY_ONE {
        clients.push(within(PipeClient::connect(&name)).await.unwrap());
    }
    let most = most_between_two_runs(Arc::default(), async |done: Arc<AtomicUsize>| {
        for _ in 0..ONE_BY_ONE {
            drop(server.accept().await.unwrap());
            done.fetch_add(1, Relaxed);
        }
    })
    .await;
    assert!(most <= BUDGET, "{most}");
}

#[cfg(feature = "endpoint")]
#[tokio::test]
async fn an_endpoint_that_handles_messages_lets_others_run() {
    let envelope = br#"{"action":"a","from":"x"}"#;
    let count = HOLDS / (envelope.len() + 4);
    let name = unique_name("endpoint");
    let done = Arc::new(AtomicUsize::new(0));
    let handled = done.clone();
    let endpoint = asyncipc::Endpoint::builder(&name).on("a", move |_| {
        handled.fetch_add(1, Relaxed);
        async { Ok(()) }
    });
    let endpoint = endpoint.bind().unwrap();
    let mut client = within(PipeClient::connect(&name)).await.unwrap();
    for _ in 0..count {
        client.feed(Bytes::from_static(envelope)).await.unwrap();
    }
    client.flush().await.unwrap();
    let most = most_between_two_runs(done, async |done: Arc<AtomicUsize>| {
        while done.load(Relaxed) < count {
            yield_now().await;
        }
    })
    .await;
    assert!(most <= MOST, "{most}");
    drop(endpoint);
}
