//! How many clients are connected, and how many wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use asyncipc::{Error, PipeClient, PipeConnection, PipeServer};
use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::task::yield_now;

use crate::common::{fill, stays_pending, unique_name, within};
use crate::{crowd, patient};

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
        tokio::spawn(server.serve(handler))
    };
    crowd(&name).await;
    stop.shutdown();
    let stats = within(serving).await.unwrap().unwrap();
    assert_eq!((stats.clients, stats.connected), (200, 0));
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?} at a time");
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
