//! A server that runs a handler for each client, from the first to the end of draining.

mod common;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use asyncipc::{
    BoxError, Error, PipeClient, PipeConnection, PipeServer, Serve, ServerStats, ShutdownHandle,
};
use common::{HOLDS, Log, echo, sample, stays_pending, unique_name, within};
use futures::{SinkExt, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio::task::JoinHandle;

type Serving = JoinHandle<Result<ServerStats, Error>>;

fn spawn_echo(server: PipeServer) -> (Serving, ShutdownHandle) {
    let stop = server.shutdown_handle();
    (tokio::spawn(server.serve(echo)), stop)
}

async fn round_trip(client: &mut PipeConnection, message: &'static str) {
    client.send(message.into()).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), message);
}

/// Waits until the server takes nobody any more. A client that still gets through, because the
/// listener was just about to go, must see the end.
async fn refused(name: &str) {
    let client = PipeClient::builder(name).no_wait();
    within(async {
        loop {
            match client.connect().await {
                Ok(mut conn) => while conn.next().await.is_some_and(|it| it.is_ok()) {},
                // On Windows the name lives on with the connected clients, busy forever.
                Err(Error::NotFound { .. } | Error::Busy { .. }) => break,
                Err(e) => panic!("{e}"),
            }
        }
    })
    .await;
}

/// Says when it is dropped, as part of a handler's future.
struct OnDrop(mpsc::UnboundedSender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn handlers_that_panic_or_fail_harm_nobody_else() {
    let name = unique_name("panic");
    let server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let number = AtomicU32::new(0);
    let serving = tokio::spawn(server.serve(move |mut conn| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        assert_ne!(number, 1, "on purpose, in the call");
        async move {
            assert_ne!(number, 2, "on purpose, before the first await");
            match number {
                3 => {
                    let message = conn.next().await;
                    panic!("on purpose, after an await: {message:?}");
                }
                4 => Err("on purpose".into()),
                _ => echo(conn).await,
            }
        }
    }));
    let mut bystander = PipeClient::connect(&name).await.unwrap();
    round_trip(&mut bystander, "before").await;
    for _ in 1..=4 {
        let mut client = PipeClient::connect(&name).await.unwrap();
        // May be too late already.
        let _ = client.send("hello".into()).await;
        assert!(within(client.next()).await.is_none());
        round_trip(&mut bystander, "meanwhile").await;
    }
    let mut late = PipeClient::connect(&name).await.unwrap();
    round_trip(&mut late, "after").await;
    drop((late, bystander));
    stop.shutdown();
    let stats = within(serving).await.unwrap().unwrap();
    assert_eq!((stats.clients, stats.connected), (6, 0));
}

/// An error that leaves it to its source to say why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
struct Because {
    action: &'static str,
    source: BoxError,
}

#[tokio::test]
async fn a_handler_that_fails_is_logged_with_all_sources_of_its_error_each_once() {
    let (log, _logging) = Log::begin();
    let name = unique_name("sources");
    let server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let serving = server.serve(|_| async {
        let file = std::io::Error::other("the disk is full");
        let save = Because {
            action: "write the file",
            // Says what its own source says, and has it as a source as well.
            source: Error::from(file).into(),
        };
        let source = save.into();
        let action = "save";
        Err(Because { action, source }.into())
    });
    let client = async {
        let mut client = PipeClient::connect(&name).await.unwrap();
        assert!(within(client.next()).await.is_none());
        stop.shutdown();
    };
    let (stats, ()) = within(async { tokio::join!(serving, client) }).await;
    assert_eq!(stats.unwrap().clients, 1);
    let text = log.text();
    let error = "cannot save: cannot write the file: pipe I/O: the disk is full\n";
    assert!(text.contains(error), "{text}");
    assert_eq!(text.matches("the disk is full").count(), 1, "{text}");
}

#[tokio::test]
async fn handlers_run_at_the_same_time() {
    let name = unique_name("together");
    let server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let all = Arc::new(Barrier::new(20));
    let serving = tokio::spawn(server.serve(move |mut conn| {
        let all = all.clone();
        async move {
            // Nobody gets through before everybody is here.
            all.wait().await;
            conn.send("welcome".into()).await?;
            Ok(())
        }
    }));
    let mut clients = vec![];
    for _ in 0..20 {
        clients.push(PipeClient::connect(&name).await.unwrap());
    }
    for client in &mut clients {
        assert_eq!(within(client.next()).await.unwrap().unwrap(), "welcome");
    }
    stop.shutdown();
    let stats = within(serving).await.unwrap().unwrap();
    assert_eq!((stats.clients, stats.traffic.messages_sent), (20, 20));
}

#[tokio::test]
async fn draining_takes_nobody_and_lets_handlers_finish() {
    let name = unique_name("drain");
    let (mut serving, stop) = spawn_echo(PipeServer::bind(&name).unwrap());
    let mut client = PipeClient::connect(&name).await.unwrap();
    round_trip(&mut client, "before").await;
    stop.shutdown();
    refused(&name).await;
    round_trip(&mut client, "while draining").await;
    assert!(
        stays_pending(&mut serving).await,
        "a handler is still at work"
    );
    round_trip(&mut client, "at last").await;
    drop(client);
    let stats = within(serving).await.unwrap().unwrap();
    assert_eq!(stats.connected, 0);
    assert_eq!(stats.traffic.messages_received, 3);
    assert_eq!(stats.traffic.messages_sent, 3);
    assert_eq!(
        stats.traffic.bytes_sent,
        ("before".len() + "while draining".len() + "at last".len()) as u64
    );
}

#[tokio::test]
async fn handlers_are_cut_at_the_drain_deadline() {
    let name = unique_name("deadline");
    let server = PipeServer::builder(&name)
        .drain_timeout(Duration::from_millis(50))
        .bind()
        .unwrap();
    let stop = server.shutdown_handle();
    let (dropped, mut drops) = mpsc::unbounded_channel();
    let serving = tokio::spawn(server.serve(move |mut conn| {
        let on_drop = OnDrop(dropped.clone());
        async move {
            let _on_drop = on_drop;
            conn.send("welcome".into()).await?;
            pending().await
        }
    }));
    let mut clients = [
        PipeClient::connect(&name).await.unwrap(),
        PipeClient::connect(&name).await.unwrap(),
    ];
    for client in &mut clients {
        assert_eq!(within(client.next()).await.unwrap().unwrap(), "welcome");
    }
    stop.shutdown();
    let stats = within(serving).await.unwrap().unwrap();
    // Gone before the server says that it is done.
    assert_eq!((stats.clients, stats.connected), (2, 0));
    for client in &mut clients {
        drops.try_recv().unwrap();
        assert!(within(client.next()).await.is_none());
    }
}

#[tokio::test]
async fn dropping_the_serve_future_cancels_the_handlers() {
    let name = unique_name("dropped");
    let server = PipeServer::bind(&name).unwrap();
    let (dropped, mut drops) = mpsc::unbounded_channel();
    let mut serving = server.serve(move |mut conn| {
        let on_drop = OnDrop(dropped.clone());
        async move {
            let _on_drop = on_drop;
            conn.send("welcome".into()).await?;
            pending().await
        }
    });
    let mut client = tokio::select! {
        biased;
        ended = &mut serving => panic!("{ended:?}"),
        client = within(async {
            let mut client = PipeClient::connect(&name).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), "welcome");
            client
        }) => client,
    };
    drop(serving);
    within(drops.recv()).await.unwrap();
    assert!(within(client.next()).await.is_none());
    refused(&name).await;
}

#[tokio::test]
async fn a_signal_shuts_the_server_down() {
    let name = unique_name("signal");
    let server = PipeServer::bind(&name).unwrap();
    let (signal, signalled) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(server.serve(echo).with_graceful_shutdown(signalled));
    let mut client = PipeClient::connect(&name).await.unwrap();
    round_trip(&mut client, "before").await;
    assert!(stays_pending(&mut serving).await);
    signal.send(()).unwrap();
    refused(&name).await;
    round_trip(&mut client, "while draining").await;
    drop(client);
    assert_eq!(within(serving).await.unwrap().unwrap().clients, 1);
}

#[tokio::test]
async fn a_handle_shuts_the_server_down_beside_a_signal_that_never_comes() {
    let name = unique_name("handle");
    let server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let serving = tokio::spawn(server.serve(echo).with_graceful_shutdown(pending::<()>()));
    let mut client = PipeClient::connect(&name).await.unwrap();
    round_trip(&mut client, "before").await;
    drop(client);
    // Twice is as good as once.
    stop.clone().shutdown();
    stop.shutdown();
    assert_eq!(within(serving).await.unwrap().unwrap().clients, 1);
}

#[tokio::test]
async fn the_first_of_several_signals_shuts_the_server_down() {
    for which in 0..2 {
        let server = PipeServer::bind(unique_name("signals")).unwrap();
        let (first, one) = oneshot::channel::<()>();
        let (second, two) = oneshot::channel::<()>();
        let mut serving = server
            .serve(echo)
            .with_graceful_shutdown(one)
            .with_graceful_shutdown(two);
        assert!(stays_pending(&mut serving).await);
        let mut signals = [Some(first), Some(second)];
        signals[which].take().unwrap().send(()).unwrap();
        within(serving).await.unwrap();
    }
}

#[tokio::test]
async fn servers_with_different_handlers_are_of_one_type_and_are_joined_as_they_are() {
    let names = [unique_name("one"), unique_name("two")];
    let servers = [&names[0], &names[1]].map(|name| PipeServer::bind(name).unwrap());
    let handles = [0, 1].map(|n| servers[n].shutdown_handle());
    let [one, two] = servers;
    let greet = |mut conn: PipeConnection| async move {
        conn.send("welcome".into()).await?;
        Ok(())
    };
    let (signal, signalled) = oneshot::channel::<()>();
    let serving: Vec<Serve> = vec![
        one.serve(echo),
        two.serve(greet).with_graceful_shutdown(signalled),
    ];
    let serving = tokio::spawn(futures::future::try_join_all(serving));
    let mut client = PipeClient::connect(&names[0]).await.unwrap();
    round_trip(&mut client, "hello").await;
    drop(client);
    let mut client = PipeClient::connect(&names[1]).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "welcome");
    handles[0].shutdown();
    signal.send(()).unwrap();
    let stats = within(serving).await.unwrap().unwrap();
    assert_eq!([1, 1], [0, 1].map(|n| stats[n].clients));
    // The signal is told to whoever has a handle.
    assert!(handles[1].is_shut_down());
}

#[tokio::test]
async fn what_a_server_has_done_can_be_read_while_it_serves_and_afterwards() {
    let name = unique_name("stats");
    let server = PipeServer::bind(&name).unwrap();
    let stats = server.stats_handle();
    let (serving, stop) = spawn_echo(server);
    assert_eq!(stats.stats(), ServerStats::default());
    let mut client = PipeClient::connect(&name).await.unwrap();
    round_trip(&mut client, "hello").await;
    let now = stats.stats();
    assert_eq!((now.clients, now.connected), (1, 1));
    assert_eq!(now.traffic.messages_received, 1);
    assert_eq!(now.traffic.bytes_received, 5);
    drop(client);
    stop.shutdown();
    let served = within(serving).await.unwrap().unwrap();
    assert_eq!((served.clients, served.connected), (1, 0));
    assert_eq!(served.traffic.messages_sent, 1);
    assert_eq!(stats.clone().stats(), served);
}

#[tokio::test]
async fn a_server_that_is_shut_down_accepts_nobody() {
    let name = unique_name("itself");
    let mut server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    assert!(!stop.is_shut_down());
    server.shutdown();
    assert!(stop.is_shut_down());
    let error = within(server.accept()).await.unwrap_err();
    assert!(matches!(error, Error::ShutDown { .. }), "{error}");
    assert!(within(server.next()).await.is_none());
    // The name is free again.
    drop(PipeServer::bind(&name).unwrap());
}

#[tokio::test]
async fn a_server_that_was_shut_down_before_it_serves_ends_at_once() {
    let name = unique_name("early");
    let server = PipeServer::bind(&name).unwrap();
    server.shutdown_handle().shutdown();
    let stats = within(server.serve(echo)).await.unwrap();
    assert_eq!(stats, ServerStats::default());
    // The name is free again.
    drop(PipeServer::bind(&name).unwrap());
}

#[tokio::test]
async fn a_client_that_was_never_accepted_sees_the_end_when_the_server_goes() {
    for looked in [false, true] {
        let name = unique_name("embryo");
        let mut server = PipeServer::bind(&name).unwrap();
        assert!(stays_pending(&mut Box::pin(server.accept())).await);
        // Nothing in here lets the server see its client.
        let mut client = PipeClient::connect(&name).await.unwrap();
        if looked {
            tokio::task::yield_now().await;
        }
        drop(server);
        assert!(within(client.next()).await.is_none(), "looked: {looked}");
    }
}

#[tokio::test]
async fn nobody_can_connect_any_more_once_the_server_is_dropped() {
    let name = unique_name("gone-at-once");
    let mut server = PipeServer::bind(&name).unwrap();
    assert!(stays_pending(&mut Box::pin(server.accept())).await);
    drop(server);
    let refused = PipeClient::builder(&name).no_wait().connect().await;
    assert!(
        matches!(refused, Err(Error::NotFound { .. })),
        "{refused:?}"
    );
}

/// A server in a thread and a runtime of its own, which end as soon as it has drained. Each
/// handler sends `size` bytes to its client and returns.
fn serve_and_vanish(
    name: &str,
    runtime: fn() -> Runtime,
    size: usize,
    drain_timeout: Duration,
) -> (
    std::thread::JoinHandle<ServerStats>,
    ShutdownHandle,
    mpsc::UnboundedReceiver<()>,
) {
    let (accepted, handlers) = mpsc::unbounded_channel();
    let runtime = runtime();
    let server = {
        let _entered = runtime.enter();
        let builder = PipeServer::builder(name).drain_timeout(drain_timeout);
        builder.bind().unwrap()
    };
    let stop = server.shutdown_handle();
    let thread = std::thread::spawn(move || {
        let serving = server.serve(move |mut conn| {
            accepted.send(()).unwrap();
            async move {
                conn.send(sample(size, 0)).await?;
                Ok(())
            }
        });
        let stats = runtime.block_on(serving).unwrap();
        drop(runtime);
        stats
    });
    (thread, stop, handlers)
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_last_message_of_a_handler_outlives_the_server() {
    // Larger than the pipe, and about as large.
    for size in [1 << 20, 100 << 10] {
        for runtime in [current_thread, multi_thread] {
            for _ in 0..5 {
                let name = unique_name("last");
                let (server, stop, mut handlers) =
                    serve_and_vanish(&name, runtime, size, Duration::from_secs(30));
                let mut client = PipeClient::connect(&name).await.unwrap();
                within(handlers.recv()).await.unwrap();
                stop.shutdown();
                refused(&name).await;
                assert!(within(client.next()).await.unwrap().unwrap() == sample(size, 0));
                assert!(within(client.next()).await.is_none());
                let ended = tokio::task::spawn_blocking(|| server.join().unwrap());
                assert_eq!(within(ended).await.unwrap().connected, 0);
            }
        }
    }
}

#[tokio::test]
async fn a_client_can_read_its_last_message_when_the_server_is_long_gone() {
    let name = unique_name("gone");
    // Where the system cannot promise it, the server waits for the client until its deadline.
    let (server, stop, mut handlers) =
        serve_and_vanish(&name, current_thread, HOLDS, Duration::from_millis(50));
    let mut client = PipeClient::connect(&name).await.unwrap();
    within(handlers.recv()).await.unwrap();
    stop.shutdown();
    within(tokio::task::spawn_blocking(|| server.join().unwrap()))
        .await
        .unwrap();
    assert!(within(client.next()).await.unwrap().unwrap() == sample(HOLDS, 0));
    assert!(within(client.next()).await.is_none());
}

#[test]
fn serving_works_on_every_kind_of_runtime() {
    for runtime in [current_thread(), multi_thread()] {
        let stats = runtime.block_on(async {
            let name = unique_name("runtime");
            let (serving, stop) = spawn_echo(PipeServer::bind(&name).unwrap());
            let clients = (0..10).map(|n| {
                let name = name.clone();
                tokio::spawn(async move {
                    let mut client = PipeClient::connect(&name).await.unwrap();
                    for m in 0..20 {
                        let message = sample(n * 500 + m, m);
                        client.send(message.clone()).await.unwrap();
                        assert_eq!(within(client.next()).await.unwrap().unwrap(), message);
                    }
                    client.close().await.unwrap();
                })
            });
            for client in clients.collect::<Vec<_>>() {
                within(client).await.unwrap();
            }
            stop.shutdown();
            within(serving).await.unwrap().unwrap()
        });
        let bytes = (0..10).map(|n| n * 500 * 20 + 190).sum::<u64>();
        assert_eq!((stats.clients, stats.connected), (10, 0));
        let traffic = stats.traffic;
        assert_eq!(
            (traffic.messages_received, traffic.bytes_received),
            (200, bytes)
        );
        assert_eq!((traffic.messages_sent, traffic.bytes_sent), (200, bytes));
    }
}

#[tokio::test]
async fn a_handler_can_let_an_idle_client_go_when_the_server_is_shut_down() {
    let name = unique_name("requested");
    let server = PipeServer::bind(&name).unwrap();
    let (stop, signal) = (
        server.shutdown_handle(),
        Arc::new(tokio::sync::Notify::new()),
    );
    let (handle, asked) = (stop.clone(), signal.clone());
    let serving = server
        .serve(move |mut conn| {
            let stop = handle.clone();
            async move {
                conn.send("welcome".into()).await?;
                stop.requested().await;
                Ok(conn.close().await?)
            }
        })
        .with_graceful_shutdown(async move { asked.notified().await });
    let serving = tokio::spawn(serving);
    let mut client = PipeClient::connect(&name).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "welcome");
    assert!(!stop.is_shut_down());

    // The client stays, and says nothing.
    signal.notify_one();
    assert!(within(client.next()).await.is_none());
    assert_eq!(within(serving).await.unwrap().unwrap().clients, 1);
    assert!(stop.is_shut_down());
}
