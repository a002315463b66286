//! Each end sees when the other one has ended.

use std::process::Stdio;

use asyncipc::{Error, PipeServer};
use futures::{FutureExt, SinkExt};

use crate::common::{PATIENCE, within};
use crate::{REPORT, Reports, ended, program, said, start};

#[tokio::test]
async fn the_worker_sees_the_end_when_the_parent_drops_the_connection() {
    let (mut child, conn) = start(&mut program("echo")).await;
    drop(conn);
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn what_a_worker_says_before_it_ends_is_read_and_then_the_end() {
    for _ in 0..5 {
        let (mut child, mut conn) = start(&mut program("says a word and ends")).await;
        assert!(within(child.wait()).await.unwrap().success());
        assert_eq!(said(&mut conn).await, "a word");
        ended(&mut conn).await;
    }
}

#[tokio::test]
async fn a_worker_that_has_ended_before_the_parent_looks_is_heard_nevertheless() {
    let (named, name) = std::sync::mpsc::channel();
    let (ending, end) = std::sync::mpsc::channel();
    let reporting = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let mut reports = Reports::listen();
            named.send(reports.name.clone()).unwrap();
            let mut worker = reports.next().await;
            assert_eq!(said(&mut worker).await, "said");
            ended(&mut worker).await;
            ending.send(()).unwrap();
        });
    });
    let mut command = program("says a word, and has a report that ends with it");
    command.env(REPORT, name.recv_timeout(PATIENCE).unwrap());
    let mut starting = Box::pin(PipeServer::worker().spawn(&mut command));
    let started = (&mut starting).now_or_never();
    // This thread, which would do everything else, waits for the worker's end.
    end.recv_timeout(PATIENCE).unwrap();
    let started = match started {
        Some(started) => started,
        None => within(starting).await,
    };
    let (_child, mut conn) = started.unwrap();
    assert_eq!(said(&mut conn).await, "a word");
    ended(&mut conn).await;
    reporting.join().unwrap();
}

#[tokio::test]
async fn the_parent_sees_the_end_of_a_worker_that_is_killed() {
    let (mut child, mut conn) = start(&mut program("says ready and waits")).await;
    assert_eq!(said(&mut conn).await, "ready");
    child.start_kill().unwrap();
    ended(&mut conn).await;
    let error = within(async {
        loop {
            if let Err(error) = conn.send("?".into()).await {
                break error;
            }
        }
    })
    .await;
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    assert!(!within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn a_worker_sees_the_end_of_a_parent_that_is_killed() {
    let mut reports = Reports::listen();
    let mut parent = program("has a worker, which reports its end");
    let mut parent = parent.env(REPORT, &reports.name).spawn().unwrap();
    let mut worker = reports.next().await;
    assert_eq!(said(&mut worker).await, "ready");
    within(parent.kill()).await.unwrap();
    assert_eq!(said(&mut worker).await, "end");
}

#[tokio::test]
async fn the_end_is_seen_while_a_process_that_the_worker_started_lives_on() {
    let mut command = program("leaves a process behind");
    let (mut child, mut conn) = start(command.stdin(Stdio::piped())).await;
    // What the process lives on.
    let stdin = child.stdin.take();
    assert!(stdin.is_some(), "the standard streams stay the user's");
    assert_eq!(said(&mut conn).await, "ready");
    child.start_kill().unwrap();
    ended(&mut conn).await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_end_of_a_worker_that_never_takes_its_channel_is_the_end_of_the_channel() {
    let (mut child, mut conn) = start(&mut program("ends without a word")).await;
    ended(&mut conn).await;
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(3));
}

#[cfg(windows)]
#[tokio::test]
async fn a_worker_that_ends_before_it_has_connected_is_an_error_with_its_code() {
    let mut command = program("ends without a word");
    // Longer than the test waits.
    let worker = PipeServer::worker().timeout(10 * PATIENCE);
    match within(worker.spawn(&mut command)).await.unwrap_err() {
        Error::WorkerEnded { status, .. } => assert_eq!(status.code(), Some(3)),
        other => panic!("{other:?}"),
    }
}

#[cfg(windows)]
#[tokio::test]
async fn a_worker_that_does_not_connect_in_time_is_an_error() {
    let mut command = program("lives while stdin does");
    command.stdin(Stdio::piped());
    let worker = PipeServer::worker().timeout(std::time::Duration::from_millis(10));
    let error = within(worker.spawn(&mut command)).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
}

#[cfg(windows)]
#[tokio::test]
async fn a_worker_is_killed_when_starting_it_is_cancelled() {
    let mut reports = Reports::listen();
    let mut command = program("never connects");
    command.env(REPORT, &reports.name).kill_on_drop(false);
    let mut starting = Box::pin(PipeServer::worker().spawn(&mut command));
    let mut worker = tokio::select! {
        started = &mut starting => panic!("{started:?}"),
        worker = reports.next() => worker,
    };
    assert_eq!(said(&mut worker).await, "here");
    drop(starting);
    ended(&mut worker).await;
}
