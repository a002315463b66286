//! What a client meets: no server, a busy one, and one that comes late.

mod common;

use std::io;
use std::time::Duration;

use asyncipc::{ClientBuilder, Error, PipeClient, PipeListener, PipeServer};
use bytes::Bytes;
use common::{fill, itself, role, run_as, stays_pending, unique_name, within};
use futures::{FutureExt, SinkExt, StreamExt};

const LONG: Duration = Duration::from_secs(1000);

/// A client that waits for everything.
fn patient(name: &str) -> ClientBuilder {
    PipeClient::builder(name)
        .timeout(LONG)
        .wait_for_server(true)
}

#[tokio::test]
async fn an_unknown_server_fails_at_once() {
    let name = unique_name("unknown");
    let builder = PipeClient::builder(&name).timeout(LONG);
    // Ready when polled once: nothing is waited for.
    let error = builder.connect().now_or_never().unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { pipe, .. } if pipe.to_string().contains(&name)),
        "{error:?}"
    );
    assert!(error.to_string().contains(&name), "{error}");
    let error = builder.connect_bytes().now_or_never().unwrap().unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_gone_is_unknown() {
    let name = unique_name("gone");
    let server = PipeServer::bind(&name).unwrap();
    drop(server);
    let error = PipeClient::connect(&name).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_patient_client_waits_for_the_server_to_come() {
    let name = unique_name("late");
    let builder = patient(&name);
    let mut connecting = Box::pin(builder.connect());
    assert!(connecting.as_mut().now_or_never().is_none());

    let mut server = PipeServer::bind(&name).unwrap();
    let (client, accepted) = within(async { tokio::join!(connecting, server.accept()) }).await;
    let (mut client, mut accepted) = (client.unwrap(), accepted.unwrap());
    client.send(Bytes::from_static(b"at last")).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "at last");
}

#[tokio::test]
async fn a_busy_server_is_waited_for() {
    let name = unique_name("busy");
    let mut server = PipeServer::builder(&name).backlog(1).bind().unwrap();
    let clients = fill(&name).await;
    let builder = PipeClient::builder(&name).timeout(LONG);
    let mut connecting = Box::pin(builder.connect());
    assert!(connecting.as_mut().now_or_never().is_none());

    let accept_all = async {
        let mut accepted = vec![];
        while accepted.len() <= clients.len() {
            accepted.push(server.accept().await.unwrap());
        }
        accepted
    };
    let (client, mut accepted) = within(async { tokio::join!(connecting, accept_all) }).await;
    let message = Bytes::from_static(b"my turn");
    client.unwrap().send(message.clone()).await.unwrap();
    let mut last = accepted.pop().unwrap();
    assert_eq!(within(last.next()).await.unwrap().unwrap(), message);
}

// The clock of the next tests stands still, and jumps to whatever is waited for.

#[tokio::test(start_paused = true)]
async fn waiting_for_a_missing_server_ends_at_the_deadline() {
    let name = unique_name("missing");
    let timeout = Duration::from_secs(20);
    let error = patient(&name).timeout(timeout).connect().await.unwrap_err();
    timed_out(&error, &name, timeout, "no server");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_busy_server_ends_at_the_deadline() {
    let name = unique_name("full");
    let _server = PipeServer::builder(&name).backlog(1).bind().unwrap();
    let _clients = fill(&name).await;
    let timeout = Duration::from_millis(12_345);
    let builder = PipeClient::builder(&name).timeout(timeout);
    let error = builder.connect().await.unwrap_err();
    timed_out(&error, &name, timeout, "busy");
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_waited_for_five_seconds_unless_told_otherwise() {
    let name = unique_name("default");
    let _server = PipeServer::builder(&name).backlog(1).bind().unwrap();
    let _clients = fill(&name).await;
    let error = PipeClient::connect(&name).await.unwrap_err();
    timed_out(&error, &name, Duration::from_secs(5), "busy");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shorter_than_a_pause_is_kept() {
    let name = unique_name("short");
    let timeout = Duration::from_micros(100);
    let error = patient(&name).timeout(timeout).connect().await.unwrap_err();
    timed_out(&error, &name, timeout, "no server");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_meanwhile_is_not_waited_for() {
    let name = unique_name("leaves");
    let server = PipeServer::builder(&name).backlog(1).bind().unwrap();
    let clients = fill(&name).await;
    let builder = PipeClient::builder(&name).timeout(LONG);
    let mut connecting = Box::pin(builder.connect());
    assert!(connecting.as_mut().now_or_never().is_none());
    drop((server, clients));
    let error = connecting.await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_without_an_end_outlasts_a_year() {
    let name = unique_name("forever");
    let builder = patient(&name).timeout(Duration::MAX);
    let connecting = builder.connect();
    let mut connecting = Box::pin(tokio::task::unconstrained(connecting));
    assert!(connecting.as_mut().now_or_never().is_none());
    tokio::time::advance(Duration::from_secs(366 * 24 * 3600)).await;
    assert!(connecting.as_mut().now_or_never().is_none());
}

#[track_caller]
fn timed_out(error: &Error, name: &str, timeout: Duration, why: &str) {
    let Error::TimedOut {
        pipe,
        waited,
        reason,
        ..
    } = error
    else {
        panic!("not timed out: {error:?}");
    };
    assert!(pipe.to_string().contains(name), "{error}");
    assert!(reason.contains(why), "{error}");
    // The clock of these tests is exact, to the millisecond of tokio's timer.
    let tick = Duration::from_millis(1);
    assert!(
        (timeout..=timeout + tick).contains(waited),
        "{waited:?} instead of {timeout:?}"
    );
    let text = error.to_string();
    assert!(text.contains(name) && text.contains(reason), "{text}");
}

#[tokio::test]
async fn a_client_that_does_not_wait_is_told_what_is_the_matter() {
    let name = unique_name("now");
    let builder = patient(&name).no_wait();
    let error = builder.connect().now_or_never().unwrap().unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");

    let _server = PipeServer::builder(&name).backlog(1).bind().unwrap();
    let clients = fill(&name).await;
    assert!(!clients.is_empty());
    let error = builder.connect().now_or_never().unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Busy { pipe, .. } if pipe.to_string().contains(&name)),
        "{error:?}"
    );
    assert!(error.to_string().contains(&name), "{error}");
}

#[tokio::test]
async fn a_builder_connects_any_number_of_times() {
    let name = unique_name("again");
    let mut server = PipeServer::bind(&name).unwrap();
    let builder = PipeClient::builder(&name);
    for _ in 0..3 {
        within(builder.connect()).await.unwrap();
        within(server.accept()).await.unwrap();
    }
    assert_eq!(server.stats().clients, 3);
}

#[tokio::test]
async fn a_dropped_wait_for_a_missing_server_leaves_no_client_behind() {
    let name = unique_name("drop-missing");
    let builder = patient(&name);
    for _ in 0..20 {
        let mut connecting = Box::pin(builder.connect());
        assert!(connecting.as_mut().now_or_never().is_none());
    }
    let task = tokio::spawn({
        let builder = builder.clone();
        async move { builder.connect().await }
    });
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());

    let mut server = PipeServer::bind(&name).unwrap();
    only_this_client(&name, &mut server).await;
}

#[tokio::test]
async fn a_dropped_wait_for_a_busy_server_leaves_no_client_behind() {
    let name = unique_name("drop-busy");
    let mut server = PipeServer::builder(&name).backlog(1).bind().unwrap();
    let clients = fill(&name).await;
    let builder = PipeClient::builder(&name).timeout(LONG);
    for _ in 0..20 {
        let mut connecting = Box::pin(builder.connect());
        assert!(connecting.as_mut().now_or_never().is_none());
    }
    for _ in &clients {
        within(server.accept()).await.unwrap();
    }
    only_this_client(&name, &mut server).await;
}

/// The next client of the server is the one that connects here, and there is none behind it.
async fn only_this_client(name: &str, server: &mut PipeServer) {
    let mut client = PipeClient::connect(name).await.unwrap();
    client.send(Bytes::from_static(b"only me")).await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "only me");
    assert!(stays_pending(&mut Box::pin(server.accept())).await);
}

#[cfg(target_os = "linux")]
#[test]
fn a_dropped_wait_leaves_no_descriptor_behind() {
    let test = "a_dropped_wait_leaves_no_descriptor_behind";
    if role().is_none() {
        // Other tests open and close descriptors at the same time.
        return run_as("alone", &mut itself(test));
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (missing, full) = (unique_name("fd-missing"), unique_name("fd-full"));
        let _server = PipeServer::builder(&full).backlog(1).bind().unwrap();
        let _clients = fill(&full).await;
        let before = open();
        for name in [&missing, &full] {
            let builder = patient(name);
            let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(builder.connect())).collect();
            for connecting in &mut waiting {
                assert!(connecting.as_mut().now_or_never().is_none());
            }
            assert_eq!(open(), before, "waiting takes descriptors");
            drop(waiting);
            assert_eq!(open(), before);
        }
    });
}

#[test]
fn outside_of_a_runtime_everything_is_an_error_and_not_a_panic() {
    let name = unique_name("outside");
    let errors = [
        PipeServer::bind(&name).unwrap_err(),
        PipeListener::bind(&name).unwrap_err(),
        PipeClient::connect(&name)
            .now_or_never()
            .unwrap()
            .unwrap_err(),
        PipeClient::builder(&name)
            .wait_for_server(true)
            .connect_bytes()
            .now_or_never()
            .unwrap()
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&name) && text.contains("runtime"), "{text}");
    }
}

#[tokio::test]
async fn both_ends_are_told_the_peers_process() {
    let name = unique_name("peer");
    let mut server = PipeServer::bind(&name).unwrap();
    let client = within(PipeClient::connect(&name)).await.unwrap();
    let accepted = within(server.accept()).await.unwrap();
    let this = Some(std::process::id());
    assert_eq!(client.peer().unwrap().process_id, this);
    assert_eq!(accepted.peer().unwrap().process_id, this);

    let (client, accepted) = (client.into_stream(), accepted.into_stream());
    assert_eq!(client.await.unwrap().peer().unwrap().process_id, this);
    assert_eq!(accepted.await.unwrap().peer().unwrap().process_id, this);
}

#[tokio::test]
async fn the_peers_process_is_that_of_the_other_end() {
    let test = "the_peers_process_is_that_of_the_other_end";
    if let Some(role) = role() {
        let (name, server) = role.split_once(' ').unwrap();
        let mut client = within(PipeClient::connect(name)).await.unwrap();
        assert_eq!(client.peer().unwrap().process_id, server.parse().ok());
        let mine = std::process::id().to_string();
        client.send(mine.into()).await.unwrap();
        // The other process asks before it closes.
        assert!(within(client.next()).await.is_none());
        return;
    }
    let name = unique_name("peer-process");
    let mut server = PipeServer::bind(&name).unwrap();
    let role = format!("{name} {}", std::process::id());
    let child = tokio::task::spawn_blocking(move || run_as(&role, &mut itself(test)));
    let mut accepted = within(server.accept()).await.unwrap();
    let said = within(accepted.next()).await.unwrap().unwrap();
    let told = accepted.peer().unwrap().process_id.unwrap();
    assert_ne!(told, std::process::id());
    assert_eq!(said, told.to_string());
    drop(accepted);
    within(child).await.unwrap();
}

#[tokio::test]
async fn an_error_keeps_its_kind_and_its_text_as_an_io_error() {
    fn same(error: Error, kind: io::ErrorKind) {
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        let error = io::Error::from(error);
        assert_eq!(error.kind(), kind, "{text}");
        assert_eq!(error.to_string(), text);
        assert!(error.get_ref().unwrap().is::<Error>());
    }
    let name = unique_name("kinds");
    let missing = PipeClient::connect(&name).await.unwrap_err();
    same(missing, io::ErrorKind::NotFound);
    let bad = PipeClient::connect("a/b").await.unwrap_err();
    same(bad, io::ErrorKind::InvalidInput);
    let timeout = Duration::from_millis(1);
    let late = patient(&name).timeout(timeout).connect().await.unwrap_err();
    same(late, io::ErrorKind::TimedOut);

    let mut server = PipeServer::builder(&name).backlog(1).bind().unwrap();
    let _clients = fill(&name).await;
    let busy = PipeClient::builder(&name).no_wait();
    same(busy.connect().await.unwrap_err(), io::ErrorKind::WouldBlock);
    let option = PipeServer::builder(&name).backlog(0).bind().unwrap_err();
    same(option, io::ErrorKind::InvalidInput);
    server.shutdown_handle().shutdown();
    same(
        server.accept().await.unwrap_err(),
        io::ErrorKind::NotConnected,
    );
}
