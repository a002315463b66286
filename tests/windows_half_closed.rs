//! Ends whose peer has ended its own direction by an empty message, and still reads.
#![cfg(windows)]

mod common;

use std::time::Duration;

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{ClientBuilder, Error, PipeClient, PipeServer, ServerBuilder};
use common::{PATIENCE, pair_of, sample, stays_pending, unique_name, within};
use futures::{SinkExt, StreamExt};

fn ends(what: &str) -> (ServerBuilder, ClientBuilder) {
    let name = unique_name(what);
    (
        PipeServer::builder(&name)
            .message_mode()
            .end_on_empty_message(),
        PipeClient::builder(&name)
            .message_mode()
            .end_on_empty_message(),
    )
}

#[tokio::test]
async fn a_client_whose_message_was_refused_can_read_the_answer_after_the_server_has_given_up() {
    let (server, client) = ends("refused");
    let server = server
        .max_message_size(100)
        .linger(Duration::from_millis(200));
    let (mut client, mut server) = pair_of(&server, &client).await;
    client.send(sample(1000, 0)).await.unwrap();
    client.close_write().await.unwrap();
    let error = within(server.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::MessageTooLarge { .. }), "{error}");
    server.send("too large".into()).await.unwrap();
    let closed = within(server.close()).await;
    assert!(matches!(closed, Err(Error::TimedOut { .. })), "{closed:?}");
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "too large");
    assert!(within(client.next()).await.is_none());
}

#[tokio::test]
async fn a_server_that_shuts_down_waits_until_the_client_has_read_the_last_message() {
    let (server, client) = ends("last");
    let server = server.drain_timeout(PATIENCE).linger(PATIENCE);
    let server = server.bind().unwrap();
    let stop = server.shutdown_handle();
    let (accepted, mut came) = tokio::sync::mpsc::unbounded_channel();
    let serving = server.serve(move |mut conn| {
        accepted.send(()).unwrap();
        async move {
            let question = conn.next().await.expect("a question")?;
            conn.send(question.freeze()).await?;
            Ok(())
        }
    });
    let mut serving = tokio::spawn(serving);
    let mut client = within(client.connect()).await.unwrap();
    client.send("hello".into()).await.unwrap();
    client.close_write().await.unwrap();
    within(came.recv()).await.unwrap();
    stop.shutdown();
    assert!(stays_pending(&mut serving).await);
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "hello");
    assert!(within(client.next()).await.is_none());
    within(serving).await.unwrap().unwrap();
}
