//! The channel is a connection like any other.

use asyncipc::hub::Event;
use asyncipc::{Error, PipeConnection, PipeServer};
use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::process::Command;

use crate::common::{sample, stays_pending, within};
use crate::{REPORT, Reports, ended, exchange, program, said, start};

#[tokio::test]
async fn messages_go_both_ways_and_closing_ends_the_worker() {
    let (mut child, conn) = start(&mut program("echo")).await;
    within(exchange(conn).await.close()).await.unwrap();
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn a_worker_has_workers_of_its_own() {
    let (mut child, mut conn) = start(&mut program("echo of another")).await;
    assert_eq!(said(&mut conn).await, "ready");
    assert_eq!(said(&mut conn).await, "done");
    ended(&mut conn).await;
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let (child, mut conn) = start(&mut program("introduces itself")).await;
    let peer = conn.peer().unwrap();
    assert_eq!(peer.process_id, child.id());
    assert!(peer.is_same_user());
    let introduction = said(&mut conn).await;
    let parent = std::process::id();
    assert_eq!(introduction, format!("{} {parent} true", conn.name()));
}

#[tokio::test]
async fn closing_waits_until_the_worker_has_read_everything() {
    if !cfg!(any(windows, target_os = "linux")) {
        crate::common::skipped("this system does not tell what the peer has read");
        return;
    }
    let mut reports = Reports::listen();
    let mut command = program("reads when it is told to");
    let (mut child, mut conn) = start(command.env(REPORT, &reports.name)).await;
    let mut worker = reports.next().await;
    for n in 0..3 {
        within(conn.send(sample(1000, n))).await.unwrap();
    }
    let mut closing = Box::pin(conn.close());
    assert!(stays_pending(&mut closing).await);
    worker.send("read".into()).await.unwrap();
    within(closing).await.unwrap();
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn the_channel_goes_back_to_bytes_and_into_a_hub() {
    let (_child, conn) = start(&mut program("echo")).await;
    let peer = conn.peer().unwrap();
    let stream = within(conn.into_stream()).await.unwrap();
    assert_eq!(stream.peer().unwrap(), peer);
    let conn = PipeConnection::new(stream, Default::default());

    let mut hub = conn.into_hub();
    let handle = hub.handle();
    let mut said = None;
    within(async {
        while let Some(event) = hub.next().await {
            match event {
                Event::Connected { id, peer: told, .. } => {
                    assert_eq!(told, peer);
                    handle.send(id, "hello".into()).await.unwrap();
                }
                Event::Received { message, .. } => {
                    said = Some(message);
                    handle.shutdown();
                }
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(said, Some(Bytes::from("hello")));
}

#[tokio::test]
async fn a_limit_on_messages_is_the_builders() {
    let mut command = program("echo");
    let worker = PipeServer::worker().max_message_size(10);
    let (_child, mut conn) = within(worker.spawn(&mut command)).await.unwrap();
    let error = conn.send(sample(11, 0)).await.unwrap_err();
    let told = matches!(
        error,
        Error::MessageTooLarge {
            size: 11,
            max: 10,
            ..
        }
    );
    assert!(told, "{error:?}");
    conn.send(sample(10, 0)).await.unwrap();
    assert_eq!(within(conn.next()).await.unwrap().unwrap(), sample(10, 0));
}

#[tokio::test]
async fn a_worker_is_started_from_any_task() {
    let starting = tokio::spawn(async { start(&mut program("echo")).await });
    let (_child, conn) = within(starting).await.unwrap();
    exchange(conn).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_named_in_the_error() {
    let mut command = Command::new("asyncipc-no-such-program");
    let worker = PipeServer::worker();
    let error = within(worker.spawn(&mut command)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error:?}");
    let error = error.to_string();
    assert!(
        error.starts_with(r#"cannot start "asyncipc-no-such-program": "#),
        "{error}"
    );
}

#[test]
fn outside_of_a_runtime_it_is_an_error() {
    let mut command = program("echo");
    let worker = PipeServer::worker();
    let error = worker
        .spawn(&mut command)
        .now_or_never()
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}
