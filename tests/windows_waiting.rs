//! Waiting for a free instance of a busy pipe, and what waits and connections leave behind.
#![cfg(windows)]

mod common;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{ClientBuilder, Error, PipeClient, PipeConnection, PipeServer, ServerBuilder};
use bytes::BytesMut;
use common::{Log, PATIENCE, handles, stays_pending, transports, unique_name, within};
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::runtime::Builder;

/// With an end, and without.
const TIMEOUTS: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(1_000_000),
    Duration::MAX,
];

/// Builders for both ends of a pipe of messages.
fn messages(what: &str) -> (ServerBuilder, ClientBuilder) {
    let name = unique_name(what);
    let (server, client) = (PipeServer::builder(&name), PipeClient::builder(&name));
    (
        server.message_mode().linger(PATIENCE),
        client.message_mode().linger(PATIENCE),
    )
}

/// A server with one place, and the client that has it.
async fn full(
    server: &ServerBuilder,
    client: &ClientBuilder,
) -> (PipeServer, PipeConnection, PipeConnection) {
    let mut server = server.clone().max_connections(1).bind().unwrap();
    let (client, accepted) =
        within(async { tokio::join!(client.connect(), server.accept()) }).await;
    (server, client.unwrap(), accepted.unwrap())
}

async fn receive(conn: &mut PipeConnection) -> BytesMut {
    within(conn.next()).await.expect("a message").unwrap()
}

/// Runs `test` in a runtime whose clock stands still: nobody there can ask again after a pause, and
/// no deadline comes. Only the system, whose clock goes on, can end a wait.
fn while_the_clock_stands_still<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let log = Log::default();
    let (done, finished) = channel();
    let writer = log.clone();
    let thread = std::thread::spawn(move || {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        // While a blocking call goes on, the clock does not leap to the next timer either.
        let (until_here, call) = channel::<()>();
        runtime.spawn_blocking(move || call.recv());
        runtime.block_on(test());
        drop(until_here);
        done.send(()).unwrap();
    });
    match finished.recv_timeout(PATIENCE) {
        Err(RecvTimeoutError::Timeout) => {
            panic!("hung for {PATIENCE:?}, and logged\n{}", log.text())
        }
        // Also when it has panicked.
        _ => thread
            .join()
            .unwrap_or_else(|e| std::panic::resume_unwind(e)),
    }
}

/// Fails where FSCTL_PIPE_WAIT is not answered: then clients would ask again after pauses.
#[test]
fn the_system_tells_who_waits_for_a_busy_pipe_that_a_place_is_free() {
    while_the_clock_stands_still(async || {
        for timeout in TIMEOUTS {
            for (_, builder, client) in transports("told") {
                let client = client.timeout(timeout);
                let (mut server, first, accepted) = full(&builder, &client).await;
                let mut waiting = Box::pin(client.connect());
                assert!(stays_pending(&mut waiting).await);
                drop((first, accepted));
                let (second, accepted) = tokio::join!(waiting, server.accept());
                second.unwrap().send("hello".into()).await.unwrap();
                assert_eq!(receive(&mut accepted.unwrap()).await, "hello");
            }
        }
    });
}

#[test]
fn the_system_tells_who_waits_that_the_servers_default_timeout_has_passed() {
    while_the_clock_stands_still(async || {
        for timeout in TIMEOUTS {
            let (builder, client) = messages("default-told");
            let client = client.server_default_timeout().timeout(timeout);
            let (_server, _first, _accepted) = full(&builder, &client).await;
            let error = client.connect().await.unwrap_err();
            assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        }
    });
}

#[test]
fn a_client_whose_own_clock_stands_still_waits_on_when_its_time_has_passed_for_the_system() {
    while_the_clock_stands_still(async || {
        let (builder, client) = messages("own-clock");
        let client = client.timeout(Duration::from_millis(1));
        let (mut server, first, accepted) = full(&builder, &client).await;
        let mut waiting = Box::pin(client.connect());
        // Several times as long as the system is given for so short a time.
        let passing = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(4)));
        tokio::select! {
            biased;
            gave_up = &mut waiting => panic!("{gave_up:?}"),
            passed = passing => passed.unwrap(),
        }
        drop((first, accepted));
        let (second, accepted) = tokio::join!(waiting, server.accept());
        second.unwrap().send("hello".into()).await.unwrap();
        assert_eq!(receive(&mut accepted.unwrap()).await, "hello");
    });
}

#[tokio::test]
async fn of_clients_that_wait_for_one_place_the_slower_ones_go_on_waiting() {
    let (builder, client) = messages("race");
    let client = client.timeout(Duration::MAX);
    let (mut server, first, accepted) = full(&builder, &client).await;
    let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(client.connect())).collect();
    for it in &mut waiting {
        assert!(stays_pending(it).await);
    }
    let mut taken = (first, accepted);
    while !waiting.is_empty() {
        drop(taken);
        let racing = futures::future::select_all(waiting);
        let ((winner, _, others), accepted) =
            within(async { tokio::join!(racing, server.accept()) }).await;
        waiting = others;
        for it in &mut waiting {
            assert!(stays_pending(it).await, "there is one place");
        }
        taken = (winner.unwrap(), accepted.unwrap());
    }
}

#[tokio::test]
async fn waiting_for_a_busy_pipe_ends_at_the_deadline() {
    let (builder, client) = messages("deadline");
    let (_server, _first, _accepted) = full(&builder, &client).await;
    for timeout in [
        Duration::from_nanos(1),
        Duration::from_millis(1),
        Duration::from_millis(50),
        Duration::from_secs(2),
    ] {
        let error = within(client.clone().timeout(timeout).connect())
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::TimedOut { waited, .. } if waited >= timeout),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn the_servers_default_timeout_is_kept_by_clients_that_ask_for_it() {
    for (default, least) in [(Duration::from_millis(80), 80), (Duration::ZERO, 50)] {
        let (builder, client) = messages("default-timeout");
        let builder = builder.default_timeout(default);
        let (_server, _first, _accepted) = full(&builder, &client).await;
        let client = client.server_default_timeout().timeout(Duration::MAX);
        let error = within(client.connect()).await.unwrap_err();
        let Error::TimedOut { waited, .. } = error else {
            panic!("{error:?}");
        };
        // The system's clock ticks every 16 ms.
        assert!(waited >= Duration::from_millis(least - 16), "{waited:?}");
    }
}

#[tokio::test]
async fn a_clients_own_deadline_is_kept_when_the_servers_default_is_longer() {
    let (builder, client) = messages("longer-default");
    let builder = builder.default_timeout(10 * PATIENCE);
    let (_server, _first, _accepted) = full(&builder, &client).await;
    let client = client
        .server_default_timeout()
        .timeout(Duration::from_millis(50));
    let error = within(client.connect()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
}

/// A client waits for the place, and the server goes away, with its end of the connection. The client
/// that has the other end keeps it or not.
async fn a_server_goes_away(what: &str, client_stays: bool) {
    let (builder, client) = messages(what);
    let client = client.timeout(Duration::MAX);
    let (server, first, accepted) = full(&builder, &client).await;
    let mut waiting = Box::pin(client.connect());
    assert!(stays_pending(&mut waiting).await);
    let _kept = client_stays.then_some(first);
    drop((server, accepted));
    let error = within(waiting).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_goes_away_while_it_is_waited_for_is_not_found() {
    a_server_goes_away("goes-away", false).await;
}

#[tokio::test]
async fn a_server_that_goes_away_is_not_found_although_its_client_keeps_the_other_end() {
    a_server_goes_away("goes-away-alone", true).await;
}

/// Under Wine 8 the system's wait goes on, whoever has given it up.
#[tokio::test]
async fn a_wait_that_is_given_up_keeps_no_waker() {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }
    for timeout in TIMEOUTS {
        let (builder, client) = messages("no-waker");
        let client = client.timeout(timeout);
        let (_server, _first, _accepted) = full(&builder, &client).await;
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(woken.clone());
        let mut waiting = Box::pin(client.connect());
        let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        drop(waker);
        assert!(Arc::strong_count(&woken) > 1, "nobody would be woken");
        drop(waiting);
        assert_eq!(Arc::strong_count(&woken), 1, "{timeout:?}");
        assert!(!woken.0.load(Relaxed), "the place was taken all the time");
    }
}

/// Runs `counting` in a process of its own: other tests would open handles meanwhile.
async fn alone(test: &'static str, counting: impl Future<Output = ()>) {
    if common::role().is_some() {
        return counting.await;
    }
    let child = move || common::run_as("alone", &mut common::itself(test));
    tokio::task::spawn_blocking(child).await.unwrap();
}

/// Waits until the process has no more than so many handles: some are closed by other threads.
async fn settle(most: usize) {
    let settling = async {
        while handles() > most {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(PATIENCE, settling).await.is_err() {
        panic!("{} handles are open, {most} at most should be", handles());
    }
}

#[tokio::test]
async fn waits_that_are_given_up_leave_no_handle_behind_and_take_no_place() {
    alone(
        "waits_that_are_given_up_leave_no_handle_behind_and_take_no_place",
        async {
            let (builder, client) = messages("given-up");
            let client = client.timeout(Duration::MAX);
            let (mut server, first, accepted) = full(&builder, &client).await;
            let give_up = || assert!(client.connect().now_or_never().is_none());
            give_up();
            let before = handles();
            for _ in 0..500 {
                give_up();
            }
            settle(before + 8).await;
            drop((first, accepted));
            // None of them takes the place that is free now.
            let (client, accepted) =
                within(async { tokio::join!(client.connect(), server.accept()) }).await;
            client.unwrap().send("me".into()).await.unwrap();
            assert_eq!(receive(&mut accepted.unwrap()).await, "me");
        },
    )
    .await;
}

#[tokio::test]
async fn a_thousand_connections_leave_no_handle_behind() {
    alone("a_thousand_connections_leave_no_handle_behind", async {
        for (_, builder, client) in transports("handles") {
            let mut server = builder.bind().unwrap();
            let mut before = None;
            for n in 0..1000 {
                let (client, accepted) =
                    within(async { tokio::join!(client.connect(), server.accept()) }).await;
                let (mut client, mut accepted) = (client.unwrap(), accepted.unwrap());
                client.send("hello".into()).await.unwrap();
                assert_eq!(receive(&mut accepted).await, "hello");
                drop((client, accepted));
                // Threads of the pools come and stay.
                if n == 200 {
                    before = Some(handles());
                }
            }
            settle(before.unwrap() + 20).await;
        }
    })
    .await;
}
