//! Pipes of messages in every kind of runtime, and outside of one.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{PipeClient, PipeServer};
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::runtime::{Builder, Runtime};

use crate::common::{PATIENCE, echo, pair_of, sample, stays_pending, unique_name, within};
use crate::{LARGE, collect, ends, messages, poll_once};

/// Runs a future without any runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park_timeout(PATIENCE),
        }
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn the_last_message_of_a_handler_outlives_the_server() {
    for make in [current_thread, multi_thread] {
        for size in [10, 1 << 20] {
            let (builder, client) = messages("vanish");
            let (serving, reading) = (make(), current_thread());
            let server = {
                let _entered = serving.enter();
                builder.bind().unwrap()
            };
            let (accepted, mut came) = tokio::sync::mpsc::unbounded_channel();
            let stop = server.shutdown_handle();
            let thread = std::thread::spawn(move || {
                let serve = server.serve(move |mut conn| {
                    accepted.send(()).unwrap();
                    async move {
                        conn.send(sample(size, 0)).await?;
                        Ok(())
                    }
                });
                let stats = serving.block_on(serve).unwrap();
                drop(serving);
                stats
            });
            reading.block_on(async {
                let conn = within(client.connect()).await.unwrap();
                within(came.recv()).await.unwrap();
                stop.shutdown();
                assert!(collect(conn).await == [sample(size, 0)]);
            });
            assert_eq!(thread.join().unwrap().clients, 1);
        }
    }
}

#[test]
fn a_hundred_clients_at_once_are_served_on_every_kind_of_runtime() {
    for make in [current_thread, multi_thread] {
        let runtime = make();
        runtime.block_on(within(async {
            let (builder, client) = messages("hundred");
            let server = builder.bind().unwrap();
            let stop = server.shutdown_handle();
            let serving = tokio::spawn(server.serve(echo));
            let clients = (0..100).map(|n: usize| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut conn = client.connect().await.unwrap();
                    for size in [0, n, 1000 * n] {
                        let message = sample(size, n);
                        conn.send(message.clone()).await.unwrap();
                        assert!(conn.next().await.unwrap().unwrap() == message);
                    }
                    conn.close().await.unwrap();
                })
            });
            for client in clients.collect::<Vec<_>>() {
                client.await.unwrap();
            }
            stop.shutdown();
            assert_eq!(serving.await.unwrap().unwrap().clients, 100);
        }));
    }
}

#[test]
fn the_peer_of_a_runtime_that_is_shut_down_with_operations_in_flight_sees_the_end() {
    for messages_kept_apart in [true, false] {
        for (ours, at_once) in [
            (current_thread(), true),
            (multi_thread(), true),
            (multi_thread(), false),
        ] {
            let (server, client) = ends("shut-down");
            let (server, client) = match messages_kept_apart {
                true => (server.message_mode(), client.message_mode()),
                false => (server.overlapped_io(), client.overlapped_io()),
            };
            let theirs = current_thread();
            let mut server = {
                let _entered = theirs.enter();
                server.bind().unwrap()
            };
            // One after the other: if two wait, the system chooses their order.
            let mut pair = || {
                let ours = ours.block_on(within(client.connect())).unwrap();
                (ours, theirs.block_on(within(server.accept())).unwrap())
            };
            let ((reading, first), (writing, second)) = (pair(), pair());
            // A read for which nothing arrives, and a write that nobody reads.
            let started = Arc::new(tokio::sync::Semaphore::new(0));
            for (mut conn, send) in [(reading, false), (writing, true)] {
                let started = started.clone();
                ours.spawn(async move {
                    let mut sending = Box::pin(async {
                        match send {
                            true => conn.send(sample(LARGE, 0)).await,
                            false => conn.next().await.unwrap().map(drop),
                        }
                    });
                    assert!(stays_pending(&mut sending).await);
                    started.add_permits(1);
                    sending.await
                });
            }
            ours.block_on(within(started.acquire_many(2)))
                .unwrap()
                .forget();
            match at_once {
                true => ours.shutdown_background(),
                false => drop(ours),
            }
            theirs.block_on(async {
                assert!(collect(first).await.is_empty());
                // What `send` has taken still arrives.
                assert!(collect(second).await == [sample(LARGE, 0)]);
            });
        }
    }
}

#[test]
fn a_connection_works_and_is_dropped_outside_of_its_runtime() {
    let (server, client) = messages("outside");
    let runtime = current_thread();
    let (mut ours, mut theirs) = runtime.block_on(pair_of(&server, &client));
    drop(runtime);
    for size in [0, 10, LARGE] {
        block_on(async {
            let (sent, received) = tokio::join!(ours.send(sample(size, 0)), theirs.next());
            sent.unwrap();
            assert!(received.unwrap().unwrap() == sample(size, 0));
        });
    }
    let mut sending = Box::pin(ours.send(sample(LARGE, 1)));
    assert!(poll_once(sending.as_mut()).is_none());
    drop(sending);
    drop(ours);
    block_on(async {
        assert!(theirs.next().await.unwrap().unwrap() == sample(LARGE, 1));
        assert!(theirs.next().await.is_none());
    });
}

#[tokio::test]
async fn a_server_outlives_the_thread_that_bound_it() {
    let name = unique_name("bound-elsewhere");
    let (runtime, bind) = (tokio::runtime::Handle::current(), name.clone());
    let binding = std::thread::spawn(move || {
        let _entered = runtime.enter();
        PipeServer::bind(&bind).unwrap()
    });
    let mut server = binding.join().unwrap();
    let client = PipeClient::builder(&name).no_wait().connect();
    let (client, accepted) = within(async { tokio::join!(client, server.accept()) }).await;
    client.unwrap();
    accepted.unwrap();
}

/// Dropping polls operations. That must not use up the budget of the task that drops.
#[test]
fn a_connection_can_be_dropped_by_a_task_that_has_used_up_its_budget() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let name = unique_name("budget");
            let mut server = PipeServer::builder(&name).message_mode().bind().unwrap();
            let client = PipeClient::builder(&name).message_mode().connect();
            let (client, _accepted) = tokio::join!(client, server.accept());
            let mut client = client.unwrap();
            // Far more than the pipe holds: the write stays in flight.
            assert!(
                client
                    .send(vec![0; 1 << 20].into())
                    .now_or_never()
                    .is_none()
            );
            while tokio::task::coop::consume_budget().now_or_never().is_some() {}
            drop(client);
        });
        let _ = done.send(());
    });
    is_done.recv_timeout(PATIENCE).expect("dropping hangs");
}
