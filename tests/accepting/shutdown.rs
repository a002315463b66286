//! A server that is shut down accepts nobody.

use asyncipc::{Error, PipeClient, PipeServer};
use futures::stream::FusedStream;
use futures::{FutureExt, StreamExt};

use crate::common::{unique_name, within};

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
