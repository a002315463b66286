//! Clients that come, leave early, and wait to be accepted.

use std::collections::BTreeSet;
#[cfg(windows)]
use std::sync::Arc;
#[cfg(windows)]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
#[cfg(windows)]
use std::time::Duration;

use asyncipc::{Error, PipeClient, PipeServer};
use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::task::yield_now;

use crate::common::{echo, unique_name, within};
use crate::{crowd, echoed, patient};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_leave_at_once_do_not_end_the_server() {
    let name = unique_name("storm");
    let server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let serving = tokio::spawn(server.serve(echo));
    let storms = (0..4).map(|_| {
        let name = name.clone();
        tokio::spawn(async move {
            for _ in 0..250 {
                drop(patient(&name).connect().await.unwrap());
            }
        })
    });
    for storm in join_all(storms).await {
        storm.unwrap();
    }
    within(echoed(&name, "still there")).await;
    stop.shutdown();
    let stats = within(serving).await.unwrap().unwrap();
    assert_eq!(stats.traffic.messages_received, 1);
}

#[tokio::test]
async fn clients_that_left_before_they_were_accepted_do_not_end_the_server() {
    let name = unique_name("left");
    let mut server = PipeServer::bind(&name).unwrap();
    for _ in 0..20 {
        // As many as the server takes without accepting.
        for _ in 0..8 {
            match PipeClient::builder(&name).no_wait().connect().await {
                Ok(_) | Err(Error::Busy { .. }) => {}
                Err(e) => panic!("neither connected nor busy: {e}"),
            }
        }
        let proper = async {
            let mut client = patient(&name).connect().await.unwrap();
            client.send(Bytes::from_static(b"I stay")).await.unwrap();
            assert!(client.next().await.is_none());
        };
        let serve = async {
            loop {
                let mut accepted = server.accept().await.unwrap();
                if let Some(message) = accepted.next().await {
                    assert_eq!(message.unwrap(), "I stay");
                    return;
                }
            }
        };
        within(async { tokio::join!(proper, serve) }).await;
    }
}

#[cfg(windows)]
#[tokio::test]
async fn a_client_that_left_early_is_replaced_without_a_gap() {
    let builder = PipeServer::builder(unique_name("no-gap")).max_connections(1);
    let mut server = builder.bind().unwrap();
    let path = server.name().as_path().to_owned();
    let (left, over) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (path, left, over) = (path.clone(), left.clone(), over.clone());
            std::thread::spawn(move || {
                // A plain file is closed as soon as it is dropped.
                let mut open = std::fs::File::options();
                open.read(true).write(true);
                while !over.load(Ordering::SeqCst) {
                    match open.open(&path) {
                        Ok(client) => {
                            drop(client);
                            left.fetch_add(1, Ordering::SeqCst);
                        }
                        // ERROR_PIPE_BUSY
                        Err(e) if e.raw_os_error() == Some(231) => std::thread::yield_now(),
                        Err(e) => {
                            over.store(true, Ordering::SeqCst);
                            panic!("neither connected nor busy: {e}");
                        }
                    }
                }
            })
        })
        .collect();
    let serve = async {
        for _ in 0..200 {
            // Mostly enough for the next client to come and leave before anyone looks.
            let before = left.load(Ordering::SeqCst);
            for _ in 0..1000 {
                if left.load(Ordering::SeqCst) != before {
                    break;
                }
                std::thread::yield_now();
            }
            if !over.load(Ordering::SeqCst) {
                drop(server.accept().await.unwrap());
            }
        }
    };
    let served = tokio::time::timeout(Duration::from_secs(60), serve).await;
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    served.unwrap();
}

#[tokio::test]
async fn clients_that_connected_before_accept_was_called_are_served() {
    let name = unique_name("early");
    let mut server = PipeServer::builder(&name).backlog(5).bind().unwrap();
    let mut clients = vec![];
    for i in 0..5 {
        // Not accepted, and there already.
        let builder = PipeClient::builder(&name).no_wait();
        let mut client = builder.connect().await.unwrap();
        client.send(i.to_string().into()).await.unwrap();
        clients.push(client);
    }
    let mut heard = BTreeSet::new();
    for _ in 0..5 {
        let mut accepted = within(server.accept()).await.unwrap();
        let message = within(accepted.next()).await.unwrap().unwrap();
        heard.insert(String::from_utf8(message.to_vec()).unwrap());
    }
    assert_eq!(heard, (0..5).map(|i| i.to_string()).collect());
}

#[tokio::test]
async fn what_clients_said_before_they_left_is_heard_when_they_are_accepted() {
    let name = unique_name("said");
    let mut server = PipeServer::builder(&name).backlog(5).bind().unwrap();
    for _ in 0..5 {
        let builder = PipeClient::builder(&name).no_wait();
        let mut client = builder.connect().await.unwrap();
        client.send(Bytes::from_static(b"bye")).await.unwrap();
    }
    for _ in 0..5 {
        let mut accepted = within(server.accept()).await.unwrap();
        assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "bye");
        assert!(within(accepted.next()).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_accepts_lose_no_client() {
    let name = unique_name("cancel");
    let mut server = PipeServer::bind(&name).unwrap();
    assert!(server.accept().now_or_never().is_none());
    let clients: Vec<_> = (0..200)
        .map(|i| {
            let name = name.clone();
            tokio::spawn(async move {
                let mut client = patient(&name).connect().await.unwrap();
                client.send(i.to_string().into()).await.unwrap();
                assert!(client.next().await.is_none());
            })
        })
        .collect();
    let mut heard = BTreeSet::new();
    let hear_all = async {
        while heard.len() < 200 {
            let mut accepted = tokio::select! {
                biased;
                accepted = server.accept() => accepted.unwrap(),
                // Dropped in the middle of waiting, whenever it has to wait at all.
                _ = yield_now() => continue,
            };
            let message = accepted.next().await.unwrap().unwrap();
            let fresh = heard.insert(String::from_utf8(message.to_vec()).unwrap());
            assert!(fresh, "{message:?} came twice");
        }
    };
    within(hear_all).await;
    for client in clients {
        within(client).await.unwrap();
    }
    assert_eq!(server.stats().clients, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_at_once_are_all_served() {
    let name = unique_name("crowd");
    let server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let serving = tokio::spawn(server.serve(echo));
    crowd(&name).await;
    stop.shutdown();
    let stats = within(serving).await.unwrap().unwrap();
    assert_eq!((stats.clients, stats.connected), (200, 0));
    assert_eq!(stats.traffic.messages_sent, 200);
}

#[tokio::test]
async fn a_server_counts_its_clients_and_their_messages() {
    let name = unique_name("stats");
    let mut server = PipeServer::bind(&name).unwrap();
    assert_eq!(server.stats(), Default::default());
    let mut pairs = vec![];
    for i in 1..=3u64 {
        let mut client = within(PipeClient::connect(&name)).await.unwrap();
        let mut accepted = within(server.accept()).await.unwrap();
        client.send(vec![0; i as usize].into()).await.unwrap();
        let message = within(accepted.next()).await.unwrap().unwrap();
        accepted.send(message.freeze()).await.unwrap();
        accepted.send(Bytes::new()).await.unwrap();
        let stats = server.stats();
        assert_eq!((stats.clients, stats.connected), (i, i));
        pairs.push((client, accepted));
    }
    let before = server.stats();
    let (received, sent) = (
        (
            before.traffic.messages_received,
            before.traffic.bytes_received,
        ),
        (before.traffic.messages_sent, before.traffic.bytes_sent),
    );
    assert_eq!((received, sent), ((3, 6), (6, 6)));

    // The client's end alone changes nothing; the server's does.
    let (client, accepted) = pairs.pop().unwrap();
    drop(client);
    assert_eq!(server.stats(), before);
    let (sender, receiver) = accepted.split();
    drop(sender);
    assert_eq!(server.stats(), before);
    drop(receiver);
    let after = server.stats();
    assert_eq!((after.clients, after.connected), (3, 2));
    assert_eq!(after.traffic, before.traffic);
}

#[tokio::test]
async fn connections_outlive_their_server() {
    let name = unique_name("outlive");
    let mut server = PipeServer::bind(&name).unwrap();
    let mut client = within(PipeClient::connect(&name)).await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    drop(server);
    client.send(Bytes::from_static(b"there?")).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "there?");
    accepted.send(Bytes::from_static(b"yes")).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "yes");
    drop(accepted);
    assert!(within(client.next()).await.is_none());
}

#[test]
fn what_outlives_its_runtime_is_dropped_without_a_panic() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let left = runtime.block_on(async {
        let name = unique_name("runtime");
        let mut server = PipeServer::bind(&name).unwrap();
        let client = within(PipeClient::connect(&name)).await.unwrap();
        let mut accepted = within(server.accept()).await.unwrap();
        accepted.send(Bytes::from_static(b"unread")).await.unwrap();
        assert!(server.accept().now_or_never().is_none());
        (client, accepted, server)
    });
    drop(runtime);
    drop(left);
}
