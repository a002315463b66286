//! What only Windows named pipes have.
#![cfg(windows)]

mod common;

use std::future::IntoFuture;

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{Error, PipeClient, PipeServer};
use bytes::Bytes;
use common::unique_name;
use futures::{SinkExt, StreamExt};

#[tokio::test]
async fn native_messages_of_every_size_keep_their_boundaries() {
    let name = unique_name("native");
    let mut server = PipeServer::builder(&name).message_mode().bind().unwrap();
    let client = PipeClient::builder(&name).message_mode().connect();
    let (client, server) = tokio::join!(client, server.accept());
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    for size in [
        0,
        1,
        4095,
        4096,
        4097,
        65_535,
        65_536,
        65_537,
        1 << 20,
        16 << 20,
        0,
        3,
    ] {
        let message: Bytes = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        let (sent, received) = tokio::join!(client.send(message.clone()), server.next());
        sent.unwrap();
        assert!(
            received.unwrap().unwrap() == message,
            "{size} bytes arrived otherwise"
        );
    }
    drop(client);
    assert!(server.next().await.is_none());
}

#[tokio::test]
async fn a_message_client_on_a_pipe_of_bytes_is_a_mode_mismatch() {
    let name = unique_name("mismatch");
    let _server = PipeServer::bind(&name).unwrap();
    let refused = PipeClient::builder(&name).message_mode().connect().await;
    assert!(
        matches!(refused, Err(Error::ModeMismatch { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_thousand_clients_wait_for_sixty_four_places_and_all_are_served() {
    let name = unique_name("wait");
    let server = PipeServer::builder(&name)
        .max_connections(64)
        .bind()
        .unwrap();
    let stop = server.shutdown_handle();
    let serving = tokio::spawn(
        server
            .serve(|mut conn| async move {
                while let Some(message) = conn.next().await {
                    conn.send(message?.freeze()).await?;
                }
                Ok(())
            })
            .into_future(),
    );
    let clients = (0..1000).map(|i: u32| {
        let client = PipeClient::builder(&name).timeout(std::time::Duration::from_secs(300));
        tokio::spawn(async move {
            let mut conn = client.connect().await.unwrap();
            conn.send(Bytes::copy_from_slice(&i.to_le_bytes()))
                .await
                .unwrap();
            assert_eq!(conn.next().await.unwrap().unwrap()[..], i.to_le_bytes());
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    stop.shutdown();
    assert_eq!(serving.await.unwrap().unwrap().clients, 1000);
}

#[tokio::test]
async fn both_ends_tell_the_same_user() {
    for message_mode in [false, true] {
        let name = unique_name("who");
        let (server, client) = (PipeServer::builder(&name), PipeClient::builder(&name));
        let (server, client) = match message_mode {
            true => (server.message_mode(), client.message_mode()),
            false => (server, client),
        };
        let mut server = server.bind().unwrap();
        let client = client.verify_server(true);
        let (client, server) = tokio::join!(client.connect(), server.accept());
        let (client, server) = (
            client.unwrap().peer().unwrap(),
            server.unwrap().peer().unwrap(),
        );
        assert!(
            client.is_same_user() && server.is_same_user(),
            "{client:?} {server:?}"
        );
        assert_eq!(client.process_id, Some(std::process::id()));
        assert_eq!(client, server);
    }
}
