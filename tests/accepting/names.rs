//! When a name is taken, and when it is free again.

use asyncipc::{Error, PipeClient, PipeListener, PipeServer};
use futures::{FutureExt, SinkExt, StreamExt};

use crate::common::{skipped, under_wine, unique_name, within};
use crate::patient;

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
