//! Servers coming and going, clients coming and going, and the limits in between.

mod common;

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::sync::Arc;
#[cfg(windows)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use asyncipc::{ClientBuilder, Error, PipeClient, PipeConnection, PipeListener, PipeServer};
use bytes::Bytes;
use common::{fill, skipped, stays_pending, under_wine, unique_name, within};
use futures::future::join_all;
use futures::stream::FusedStream;
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::task::yield_now;

/// A client that waits for its turn however long that takes.
fn patient(name: &str) -> ClientBuilder {
    PipeClient::builder(name).timeout(Duration::MAX)
}

/// Connects, and has `text` echoed.
async fn echoed(name: &str, text: impl Into<Bytes>) {
    let text = text.into();
    let mut client = patient(name).connect().await.unwrap();
    client.send(text.clone()).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), text);
}

async fn echo(mut conn: PipeConnection) -> Result<(), asyncipc::BoxError> {
    while let Some(message) = conn.next().await {
        conn.send(message?.freeze()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_server_on_one_name_is_refused() {
    if under_wine() {
        skipped("Wine does not enforce FILE_FLAG_FIRST_PIPE_INSTANCE");
        return;
    }
    let name = unique_name("twice");
    let _first = PipeServer::bind(&name).unwrap();
    for _ in 0..3 {
        let error = PipeServer::bind(&name).unwrap_err();
        assert!(
            matches!(&error, Error::AddressInUse { pipe, .. } if pipe.to_string().contains(&name)),
            "{error:?}"
        );
        assert!(error.to_string().contains(&name), "{error}");
    }
    let error = PipeListener::bind(&name).unwrap_err();
    assert_eq!(
        std::io::Error::from(error).kind(),
        std::io::ErrorKind::AddrInUse
    );
}

#[tokio::test]
async fn the_name_is_free_again_when_the_server_is_dropped() {
    let name = unique_name("again");
    for _ in 0..3 {
        drop(PipeServer::bind(&name).unwrap());
        let error = PipeClient::connect(&name).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn the_name_is_free_again_when_a_server_that_accepted_is_dropped() {
    let name = unique_name("again-used");
    for _ in 0..3 {
        let mut server = PipeServer::bind(&name).unwrap();
        assert!(server.accept().now_or_never().is_none());
        let client = within(PipeClient::connect(&name)).await.unwrap();
        let accepted = within(server.accept()).await.unwrap();
        assert!(server.accept().now_or_never().is_none());
        drop((accepted, client, server));
        let error = PipeClient::connect(&name).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_thousand_servers_one_after_the_other_on_one_name_lose_nothing() {
    let name = unique_name("bind-race");
    let builder = PipeServer::builder(&name).backlog(2);
    for round in 0..1000 {
        let mut server = builder.bind().unwrap();
        let client = async {
            let mut client = patient(&name).connect().await.unwrap();
            for part in 0..3 {
                let text = format!("{round} {part}");
                client.send(text.into()).await.unwrap();
            }
        };
        let serve = async {
            let mut accepted = server.accept().await.unwrap();
            for part in 0..3 {
                let message = accepted.next().await.unwrap().unwrap();
                assert_eq!(message, format!("{round} {part}"));
            }
            assert!(accepted.next().await.is_none());
        };
        within(async { tokio::join!(client, serve) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_leave_at_once_do_not_end_the_server() {
    let name = unique_name("storm");
    let server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let serving = tokio::spawn(server.serve(echo).into_future());
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_at_its_limit_is_busy_between_two_clients_and_never_missing() {
    let name = unique_name("never-missing");
    let builder = PipeServer::builder(&name).max_connections(1);
    let mut server = builder.bind().unwrap();
    let stop = server.shutdown_handle();
    let accepting = tokio::spawn(async move {
        loop {
            match server.accept().await {
                Ok(accepted) => drop(accepted),
                Err(e) => return e,
            }
        }
    });
    let clients = (0..3).map(|_| {
        let once = PipeClient::builder(&name).no_wait();
        tokio::spawn(async move {
            let mut connected = 0;
            while connected < 100 {
                match once.connect().await {
                    Ok(_) => connected += 1,
                    Err(Error::Busy { .. }) => yield_now().await,
                    Err(e) => panic!("neither connected nor busy after {connected}: {e}"),
                }
            }
        })
    });
    let ended = join_all(clients).await;
    stop.shutdown();
    let error = within(accepting).await.unwrap();
    assert!(matches!(error, Error::ShutDown { .. }), "{error:?}");
    for client in ended {
        client.unwrap();
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

#[tokio::test]
async fn accept_after_shutdown_fails() {
    let name = unique_name("shut");
    let mut server = PipeServer::bind(&name).unwrap();
    // This client is too late, though it is there before.
    let _client = within(PipeClient::connect(&name)).await.unwrap();
    server.shutdown_handle().shutdown();
    for _ in 0..3 {
        let error = within(server.accept()).await.unwrap_err();
        assert!(
            matches!(&error, Error::ShutDown { pipe, .. } if pipe.to_string().contains(&name)),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn shutdown_aborts_a_pending_accept() {
    let name = unique_name("abort");
    let mut server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let mut accepting = Box::pin(server.accept());
    assert!(accepting.as_mut().now_or_never().is_none());
    let accepting = async {
        let error = accepting.await.unwrap_err();
        assert!(matches!(error, Error::ShutDown { .. }), "{error:?}");
    };
    within(async { tokio::join!(accepting, async { stop.shutdown() }) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_from_another_thread_aborts_a_pending_accept() {
    let mut server = PipeServer::bind(unique_name("abort-thread")).unwrap();
    let stop = server.shutdown_handle();
    let (waits, waiting) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        waiting.recv().unwrap();
        stop.shutdown();
    });
    let accepting = tokio::spawn(async move {
        let mut accepting = Box::pin(server.accept());
        assert!(accepting.as_mut().now_or_never().is_none());
        waits.send(()).unwrap();
        accepting.await.map(drop)
    });
    let error = within(accepting).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::ShutDown { .. }), "{error:?}");
    thread.join().unwrap();
}

#[tokio::test]
async fn a_server_that_is_shut_down_is_no_longer_found() {
    let name = unique_name("shut-gone");
    let mut server = PipeServer::bind(&name).unwrap();
    assert!(server.accept().now_or_never().is_none());
    server.shutdown_handle().shutdown();
    within(server.accept()).await.unwrap_err();
    let error = PipeClient::connect(&name).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn the_stream_of_connections_ends_for_good_when_the_server_is_shut_down() {
    let name = unique_name("stream");
    let mut server = PipeServer::bind(&name).unwrap();
    for _ in 0..3 {
        let _client = within(PipeClient::connect(&name)).await.unwrap();
        within(server.next()).await.unwrap().unwrap();
    }
    assert!(!server.is_terminated());
    assert!(server.next().now_or_never().is_none());
    server.shutdown_handle().shutdown();
    for _ in 0..3 {
        assert!(within(server.next()).await.is_none());
        assert!(server.is_terminated());
    }
    assert_eq!(server.stats().clients, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_at_once_are_all_served() {
    let name = unique_name("crowd");
    let server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let serving = tokio::spawn(server.serve(echo).into_future());
    crowd(&name).await;
    stop.shutdown();
    let stats = within(serving).await.unwrap().unwrap();
    assert_eq!((stats.clients, stats.connected), (200, 0));
    assert_eq!(stats.traffic.messages_sent, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_are_served_three_at_a_time() {
    let name = unique_name("queue");
    let builder = PipeServer::builder(&name).max_connections(3);
    let server = builder.bind().unwrap();
    let stop = server.shutdown_handle();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let serving = {
        let most = most.clone();
        let handler = move |mut conn: PipeConnection| {
            let (now, most) = (now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                while let Some(message) = conn.next().await {
                    conn.send(message?.freeze()).await?;
                }
                // Counted as gone before it is.
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        };
        tokio::spawn(server.serve(handler).into_future())
    };
    crowd(&name).await;
    stop.shutdown();
    let stats = within(serving).await.unwrap().unwrap();
    assert_eq!((stats.clients, stats.connected), (200, 0));
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?} at a time");
}

/// Two hundred clients, each of which is echoed one message.
async fn crowd(name: &str) {
    let clients = (0..200).map(|i| {
        let name = name.to_string();
        tokio::spawn(async move { echoed(&name, i.to_string()).await })
    });
    for client in within(join_all(clients)).await {
        client.unwrap();
    }
}

#[tokio::test]
async fn at_the_limit_the_next_client_waits_until_one_leaves() {
    for limit in [1, 2] {
        let name = unique_name("limit");
        let builder = PipeServer::builder(&name).max_connections(limit);
        let mut server = builder.bind().unwrap();
        let mut inside = vec![];
        for _ in 0..limit {
            let client = within(PipeClient::connect(&name)).await.unwrap();
            inside.push((client, within(server.accept()).await.unwrap()));
        }
        let next = patient(&name);
        let mut connecting = Box::pin(next.connect());
        let mut connected = connecting.as_mut().now_or_never();
        if cfg!(windows) {
            assert!(connected.is_none(), "not busy");
            let once = PipeClient::builder(&name).no_wait();
            let error = once.connect().await.unwrap_err();
            assert!(matches!(error, Error::Busy { .. }), "{error:?}");
        }
        assert!(stays_pending(&mut Box::pin(server.accept())).await);

        let (client, accepted) = inside.pop().unwrap();
        drop((client, accepted));
        let connect = async {
            match connected.take() {
                Some(client) => client.unwrap(),
                None => connecting.await.unwrap(),
            }
        };
        let (mut client, accepted) = within(async { tokio::join!(connect, server.accept()) }).await;
        client.send(Bytes::from_static(b"my turn")).await.unwrap();
        let mut accepted = accepted.unwrap();
        assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "my turn");
        assert_eq!(server.stats().connected, limit as u64);
    }
}

#[tokio::test]
async fn a_place_is_free_again_when_both_halves_of_a_connection_are_gone() {
    let name = unique_name("halves");
    let builder = PipeServer::builder(&name).max_connections(1);
    let mut server = builder.bind().unwrap();
    let first = within(PipeClient::connect(&name)).await.unwrap();
    let (sender, receiver) = within(server.accept()).await.unwrap().split();
    drop(sender);
    assert!(stays_pending(&mut Box::pin(server.accept())).await);
    drop((first, receiver));
    let next = patient(&name);
    let (_client, accepted) = within(async { tokio::join!(next.connect(), server.accept()) }).await;
    accepted.unwrap();
}

#[tokio::test]
async fn a_limit_of_zero_is_no_limit_that_can_be_kept() {
    let name = unique_name("zero");
    let builder = PipeServer::builder(&name);
    for (option, builder) in [
        ("max_connections", builder.clone().max_connections(0)),
        ("backlog", builder.clone().backlog(0)),
    ] {
        for error in [
            builder.bind().unwrap_err(),
            builder.bind_bytes().unwrap_err(),
        ] {
            assert!(
                matches!(&error, Error::InvalidOption { option: it, .. } if *it == option),
                "{error:?}"
            );
            assert!(error.to_string().contains(option), "{error}");
        }
    }
    let error = PipeClient::connect(&name).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_may_have_any_limit_that_is_not_zero() {
    for builder in [
        PipeServer::builder(unique_name("huge")).max_connections(usize::MAX),
        PipeServer::builder(unique_name("narrow"))
            .backlog(1)
            .max_connections(1),
        PipeServer::builder(unique_name("wide"))
            .backlog(u32::MAX)
            .max_connections(4),
    ] {
        let mut server = builder.bind().unwrap();
        let name = server.name().clone();
        within(PipeClient::connect(name)).await.unwrap();
        within(server.accept()).await.unwrap();
    }
}

#[tokio::test]
async fn no_more_clients_wait_than_the_backlog_has_places() {
    let name = unique_name("backlog");
    let mut server = PipeServer::builder(&name).backlog(3).bind().unwrap();
    let clients = fill(&name).await;
    // Linux lets one more in than it was told.
    assert!((3..=4).contains(&clients.len()), "{}", clients.len());
    for _ in &clients {
        within(server.accept()).await.unwrap();
    }
    let again = fill(&name).await;
    assert_eq!(again.len(), clients.len());
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
