//! Messages between one client and one server.

mod common;

use std::future::IntoFuture;

use asyncipc::{PipeClient, PipeServer};
use bytes::Bytes;
use common::unique_name;
use futures::{SinkExt, StreamExt};

#[tokio::test]
async fn every_size_comes_back_intact() {
    let name = unique_name("sizes");
    let server = PipeServer::bind(&name).unwrap();
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
    let mut client = PipeClient::connect(&name).await.unwrap();
    for size in [0, 1, 4095, 4096, 4097, 65_535, 65_536, 1 << 20, 16 << 20] {
        let message: Bytes = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        // Both directions at once: the echo begins before the message has gone out entirely.
        let (mut sender, mut receiver) = client.split();
        let (sent, received) = tokio::join!(sender.send(message.clone()), receiver.next());
        sent.unwrap();
        assert!(
            received.unwrap().unwrap() == message,
            "{size} bytes came back otherwise"
        );
        client = receiver.reunite(sender).unwrap();
    }
    client.close().await.unwrap();
    stop.shutdown();
    let stats = serving.await.unwrap().unwrap();
    assert_eq!(
        (stats.clients, stats.connected, stats.traffic.messages_sent),
        (1, 0, 9)
    );
}
