//! Many ends that are closed or dropped while their peers do not read: they hold up nobody else.

mod common;

use std::time::Duration;

use asyncipc::{Error, PipeConnection};
use common::{HOLDS, PATIENCE, pair_of, pairs, sample, stays_pending, transports, within};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, SinkExt, StreamExt};

/// On Windows, more than the crate has threads, and more than a Tokio runtime has for blocking calls.
/// Elsewhere no thread waits, and a process may have few descriptors.
const MANY: usize = if cfg!(windows) { 150 } else { 60 };
const MORE: usize = if cfg!(windows) { 522 } else { 60 };

/// None of them gives up during a test.
const LONG: Duration = PATIENCE.saturating_mul(10);

/// Ends that wait for their peers to read.
struct Crowd {
    closing: FuturesUnordered<BoxFuture<'static, Result<(), Error>>>,
    /// Each has one message to read: of clients that are closed, and of servers that are closed or were
    /// dropped.
    of_clients: Vec<PipeConnection>,
    of_servers: Vec<PipeConnection>,
}

impl Crowd {
    /// Over each transport: as many client's ends as server's ends are closed, and as many server's ends
    /// dropped.
    async fn gather(size: usize) -> Self {
        let mut crowd = Crowd {
            closing: FuturesUnordered::new(),
            of_clients: vec![],
            of_servers: vec![],
        };
        let transports = transports("crowd");
        let of_each = size / transports.len();
        for (_, server, client) in transports {
            let (server, client) = (server.linger(LONG), client.linger(LONG));
            for n in 0..of_each {
                let (client, server) = pair_of(&server, &client).await;
                let (mut ours, theirs) = match n % 3 {
                    0 => (client, server),
                    _ => (server, client),
                };
                ours.send(sample(HOLDS, n)).await.unwrap();
                match n % 3 {
                    0 => crowd.of_clients.push(theirs),
                    _ => crowd.of_servers.push(theirs),
                }
                match n % 3 {
                    2 => drop(ours),
                    _ => crowd.closing.push(ours.close().boxed()),
                }
            }
        }
        assert!(stays_pending(&mut crowd.closing.next()).await);
        crowd
    }

    /// Waits for `future`, which is to be ready before one of them is.
    async fn is_overtaken_by<F: Future>(&mut self, future: F) -> F::Output {
        tokio::select! {
            biased;
            closed = self.closing.next() => panic!("nobody of the crowd has read: {closed:?}"),
            output = within(future) => output,
        }
    }
}

#[tokio::test]
async fn ends_that_wait_for_their_peers_hold_up_neither_others_nor_blocking_tasks() {
    let mut crowd = Crowd::gather(MORE).await;
    for (transport, mut ours, mut theirs) in pairs("reader").await {
        ours.send("read".into()).await.unwrap();
        assert_eq!(within(theirs.next()).await.unwrap().unwrap(), "read");
        let closed = crowd.is_overtaken_by(ours.close()).await;
        assert!(closed.is_ok(), "{transport}: {closed:?}");
    }
    let task = tokio::task::spawn_blocking(|| "done");
    assert_eq!(crowd.is_overtaken_by(task).await.unwrap(), "done");
}

#[tokio::test]
async fn each_end_of_a_crowd_is_told_when_its_peer_has_read() {
    let crowd = Crowd::gather(MANY).await;
    let (mut closing, peers) = (crowd.closing, [crowd.of_servers, crowd.of_clients]);
    let reading = async {
        for mut peer in peers.into_iter().flatten() {
            assert_eq!(within(peer.next()).await.unwrap().unwrap().len(), HOLDS);
            assert!(within(peer.next()).await.is_none());
        }
    };
    let told = async {
        while let Some(closed) = closing.next().await {
            closed.unwrap();
        }
    };
    tokio::join!(reading, told);
}

#[cfg(any(windows, target_os = "linux"))] // Others do not tell what the peer has read.
#[tokio::test]
async fn no_end_of_a_crowd_is_told_that_its_peer_has_read_when_it_has_left_without_reading() {
    let mut crowd = Crowd::gather(MANY).await;
    drop((crowd.of_clients, crowd.of_servers));
    while let Some(closed) = within(crowd.closing.next()).await {
        assert!(closed.is_err());
    }
}

#[tokio::test]
async fn ends_of_a_crowd_whose_close_is_cancelled_let_go_of_their_pipes() {
    let crowd = Crowd::gather(MANY).await;
    drop(crowd.closing);
    for mut peer in crowd.of_clients {
        // It does not have to read for that.
        within(async { while peer.send(sample(HOLDS, 0)).await.is_ok() {} }).await;
    }
    // A server's end stays for the linger time, like one that is dropped.
    for mut peer in crowd.of_servers {
        assert_eq!(within(peer.next()).await.unwrap().unwrap().len(), HOLDS);
        assert!(within(peer.next()).await.is_none());
    }
}

#[test]
fn closing_needs_none_of_the_runtimes_threads_for_blocking_calls() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let (done, busy) = std::sync::mpsc::channel::<()>();
    runtime.spawn_blocking(move || busy.recv());
    runtime.block_on(async {
        for (transport, mut ours, mut theirs) in pairs("busy").await {
            ours.send("read".into()).await.unwrap();
            assert_eq!(within(theirs.next()).await.unwrap().unwrap(), "read");
            let closed = within(ours.close()).await;
            assert!(closed.is_ok(), "{transport}: {closed:?}");
        }
    });
    drop(done);
}
