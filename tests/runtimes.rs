//! Connections that are used elsewhere than in the runtime in which they were made.
//!
//! What tokio's own sockets pass, connections have to pass: where it exists, the same test is done
//! with one of them.

mod common;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use asyncipc::{Error, PipeClient, PipeConnection, PipeServer};
use bytes::Bytes;
use common::{
    PATIENCE, byte_pair, pair, pair_of, sample, stays_pending, transports, unique_name, within,
};
#[cfg(unix)]
use common::{itself, role, run_as};
#[cfg(unix)]
use futures::FutureExt;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

/// More than a pipe holds and less than would be written at once.
const LARGE: usize = 4 << 20;

fn with_threads() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Goes on only while somebody blocks on it.
fn of_one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// An executor that is not tokio's, and has no timers.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

/// Fails when the thread hangs.
#[track_caller]
fn finishes<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || done.send(what()));
    match result.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("hung for {PATIENCE:?}"),
        Err(_) => panic!("panicked: {:?}", thread.join().map(drop)),
    }
}

/// So many connections that further ones are not watched for writing from the beginning.
async fn many() -> Vec<(PipeConnection, PipeConnection)> {
    let processors = thread::available_parallelism()
        .map_or(4, usize::from)
        .max(4);
    let mut held = vec![];
    for _ in 0..=processors {
        held.push(pair().await);
    }
    held
}

/// Polls once, in `runtime`.
fn poll_once_in<F: Future + Unpin>(runtime: &Runtime, future: &mut F) -> Option<F::Output> {
    runtime.block_on(async {
        futures::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    })
}

/// Writes from short-lived runtimes until it has to wait, and then from one that stays.
fn write_from_many_runtimes<W, R>(made_in: &Runtime, mut ours: W, mut theirs: R)
where
    W: AsyncWrite + Unpin,
    R: AsyncRead + Unpin + Send + 'static,
{
    let piece = sample(64 << 10, 0);
    let mut written = 0;
    for round in 0..10 {
        let short_lived = of_one_thread();
        loop {
            let mut writing = Box::pin(ours.write(&piece));
            match poll_once_in(&short_lived, &mut writing) {
                Some(n) => written += n.unwrap(),
                None => break,
            }
        }
        drop(short_lived);
        if round % 2 == 1 {
            // With room again, and then none.
            let mut read = vec![0; 300_000.min(written)];
            made_in
                .block_on(within(theirs.read_exact(&mut read)))
                .unwrap();
            written -= read.len();
        }
    }
    let reading = made_in.spawn(async move {
        let mut rest = vec![];
        theirs.read_to_end(&mut rest).await.map(|_| rest.len())
    });
    let last = of_one_thread();
    last.block_on(within(ours.write_all(&piece))).unwrap();
    last.block_on(within(ours.flush())).unwrap();
    // For a pipe, after its last write is done.
    drop(ours);
    let read = made_in.block_on(within(reading)).unwrap().unwrap();
    assert_eq!(read, written + piece.len());
}

#[test]
fn writes_wait_in_runtimes_that_come_and_go() {
    let made_in = with_threads();
    let _held = made_in.block_on(many());
    let (ours, theirs) = made_in.block_on(byte_pair());
    write_from_many_runtimes(&made_in, ours, theirs);
}

#[cfg(unix)]
#[test]
fn writes_of_tokios_socket_wait_in_runtimes_that_come_and_go() {
    let made_in = with_threads();
    let (ours, theirs) = made_in.block_on(async { tokio::net::UnixStream::pair().unwrap() });
    write_from_many_runtimes(&made_in, ours, theirs);
}

/// Talks under an executor that is not tokio's.
fn talk_without_tokio<S>(mut ours: S, mut theirs: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    finishes(move || {
        let there = thread::spawn(move || {
            block_on(async {
                let mut read = vec![0; LARGE];
                theirs.read_exact(&mut read).await.unwrap();
                theirs.write_all(&read).await.unwrap();
                theirs.flush().await.unwrap();
                read
            })
        });
        let message = sample(LARGE, 1);
        block_on(async {
            ours.write_all(&message).await.unwrap();
            ours.flush().await.unwrap();
            let mut read = vec![0; LARGE];
            ours.read_exact(&mut read).await.unwrap();
            assert!(read == message);
        });
        assert!(there.join().unwrap() == message);
    });
}

#[test]
fn bytes_are_written_and_read_under_an_executor_that_is_not_tokios() {
    let made_in = with_threads();
    let _held = made_in.block_on(many());
    let (ours, theirs) = made_in.block_on(byte_pair());
    talk_without_tokio(ours, theirs);
}

#[cfg(unix)]
#[test]
fn tokios_socket_is_written_and_read_under_an_executor_that_is_not_tokios() {
    let made_in = with_threads();
    let (ours, theirs) = made_in.block_on(async { tokio::net::UnixStream::pair().unwrap() });
    talk_without_tokio(ours, theirs);
}

#[test]
fn messages_are_sent_received_and_closed_under_an_executor_that_is_not_tokios() {
    let made_in = with_threads();
    let _held = made_in.block_on(many());
    for (_, server, client) in transports("no-tokio") {
        let (mut ours, mut theirs) = made_in.block_on(pair_of(&server, &client));
        finishes(move || {
            let there = thread::spawn(move || {
                block_on(async {
                    while let Some(message) = theirs.next().await {
                        theirs.send(message.unwrap().freeze()).await.unwrap();
                    }
                    theirs.close().await.unwrap();
                });
            });
            block_on(async {
                let message = sample(LARGE, 2);
                for _ in 0..3 {
                    ours.send(message.clone()).await.unwrap();
                    assert!(ours.next().await.unwrap().unwrap() == message);
                }
                ours.close().await.unwrap();
            });
            there.join().unwrap();
        });
    }
}

#[cfg(any(windows, target_os = "linux"))] // Others do not tell what the peer has read.
#[test]
fn close_gives_up_in_time_under_an_executor_that_is_not_tokios() {
    let made_in = with_threads();
    for (transport, server, client) in transports("elsewhere") {
        let client = client.linger(Duration::from_millis(50));
        let (mut plain, _unread) = made_in.block_on(pair_of(&server, &client));
        let (bytes, _unread_too) = made_in.block_on(pair_of(&server, &client));
        let (shared, _nor_this) = made_in.block_on(pair_of(&server, &client));
        let (shared, _receiver) = shared.split();
        let errors = finishes(move || {
            block_on(async {
                let unread = sample(common::HOLDS, 0);
                plain.send(unread.clone()).await.unwrap();
                let mut bytes = bytes.into_stream().await.unwrap();
                bytes.write_all(&unread).await.unwrap();
                let shared = shared.into_shared();
                shared.send(unread).await.unwrap();
                shared.flush().await.unwrap();
                [
                    plain.close().await.unwrap_err(),
                    bytes.close().await.unwrap_err(),
                    shared.close().await.unwrap_err(),
                ]
            })
        });
        for error in errors {
            assert!(
                matches!(error, Error::TimedOut { .. }),
                "{transport}: {error}"
            );
        }
    }
}

#[test]
fn a_cancelled_send_is_finished_by_a_flush_in_another_runtime() {
    let made_in = with_threads();
    let _held = made_in.block_on(many());
    for (transport, server, client) in transports("cancelled") {
        let (mut ours, theirs) = made_in.block_on(pair_of(&server, &client));
        // Nobody goes on with it, and it is not dropped either.
        let stopped = of_one_thread();
        let message = sample(LARGE, 3);
        let mut sending = Box::pin(ours.send(message.clone()));
        assert!(poll_once_in(&stopped, &mut sending).is_none());
        drop(sending);
        let reading = made_in.spawn(theirs.into_future());
        of_one_thread().block_on(within(ours.flush())).unwrap();
        let (received, _theirs) = made_in.block_on(within(reading)).unwrap();
        assert!(received.unwrap().unwrap() == message, "{transport}");
    }
}

#[test]
fn a_close_goes_on_in_another_runtime_and_gives_up_in_time() {
    let made_in = with_threads();
    let name = unique_name("moves");
    for ended in [false, true] {
        let (server, client) = (PipeServer::builder(&name), PipeClient::builder(&name));
        let client = client.linger(Duration::from_millis(50));
        let (mut ours, _theirs) = made_in.block_on(pair_of(&server, &client));
        let first = of_one_thread();
        // More than the pipe holds.
        let _ = poll_once_in(&first, &mut Box::pin(ours.feed(sample(LARGE, 4))));
        let mut closing = Box::pin(ours.close());
        assert!(poll_once_in(&first, &mut closing).is_none());
        let _first = (!ended).then_some(first);
        let error = finishes(|| of_one_thread().block_on(closing).unwrap_err());
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    }
}

#[cfg(any(windows, target_os = "linux"))] // Others do not tell what the peer has read.
#[test]
fn waiting_for_the_peer_to_read_goes_on_in_another_runtime() {
    let made_in = with_threads();
    for ended in [false, true] {
        let (mut ours, theirs) = made_in.block_on(pair());
        let first = of_one_thread();
        let mut closing = Box::pin(async {
            ours.send("last".into()).await.unwrap();
            ours.close().await
        });
        assert!(poll_once_in(&first, &mut closing).is_none());
        let _first = (!ended).then_some(first);
        let reading = made_in.spawn(async move {
            let mut theirs = theirs;
            theirs.next().await.unwrap().unwrap()
        });
        of_one_thread().block_on(within(closing)).unwrap();
        assert_eq!(made_in.block_on(within(reading)).unwrap(), "last");
    }
}

#[test]
fn a_write_that_would_wait_is_an_error_when_the_connections_runtime_has_ended() {
    let others = with_threads();
    // With and without others that take the places of those that are watched both ways.
    for held in [vec![], others.block_on(many())] {
        let made_in = of_one_thread();
        let (mut ours, _theirs) = made_in.block_on(pair());
        drop(made_in);
        let error = others
            .block_on(within(ours.send(sample(LARGE, 5))))
            .unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        drop(held);
    }
}

#[test]
fn a_write_that_waits_ends_with_the_connections_runtime() {
    let others = with_threads();
    for held in [vec![], others.block_on(many())] {
        let made_in = of_one_thread();
        let (mut ours, _theirs) = made_in.block_on(pair());
        let sending = others.spawn(async move { ours.send(sample(LARGE, 5)).await });
        // It waits by now, or will find out at once.
        others.block_on(tokio::task::yield_now());
        drop(made_in);
        let error = others.block_on(within(sending)).unwrap().unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        drop(held);
    }
}

#[test]
fn a_shared_sender_is_written_by_the_connections_runtime_whoever_sends() {
    let made_in = with_threads();
    let _held = made_in.block_on(many());
    let (ours, mut theirs) = made_in.block_on(pair());
    let (sender, _receiver) = ours.split();
    let sender = sender.into_shared();
    // Enough to fill the pipe and the batch, by senders that are cancelled as well.
    let message = sample(10_000, 6);
    let mut sent = 0;
    loop {
        let short_lived = of_one_thread();
        let mut sending = Box::pin(sender.send(message.clone()));
        if short_lived.block_on(stays_pending(&mut sending)) {
            break;
        }
        sent += 1;
    }
    // One more without any runtime, while what was sent is read.
    let reading = made_in.spawn(async move {
        for _ in 0..sent {
            assert_eq!(theirs.next().await.unwrap().unwrap(), message);
        }
        assert_eq!(theirs.next().await.unwrap().unwrap(), "without tokio");
        theirs
    });
    let other = sender.clone();
    finishes(move || {
        block_on(async {
            other.send("without tokio".into()).await.unwrap();
            other.flush().await.unwrap();
        });
    });
    let theirs = made_in.block_on(within(reading)).unwrap();
    made_in.block_on(within(sender.close())).unwrap();
    drop(theirs);
}

#[test]
fn a_shared_sender_says_that_the_connections_runtime_has_ended() {
    let others = with_threads();
    for used_before in [false, true] {
        let made_in = of_one_thread();
        let (sender, _receiver, _theirs) = made_in.block_on(async {
            let (ours, theirs) = pair().await;
            let (sender, receiver) = ours.split();
            (sender.into_shared(), receiver, theirs)
        });
        if used_before {
            made_in.block_on(async {
                sender.send(Bytes::from("while it lives")).await.unwrap();
                sender.flush().await.unwrap();
            });
        }
        drop(made_in);
        let error = others
            .block_on(within(sender.send("too late".into())))
            .unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}

#[test]
fn what_a_shared_sender_has_taken_is_an_error_of_flush_when_the_runtime_has_ended() {
    let others = with_threads();
    let made_in = of_one_thread();
    let (sender, _receiver, _theirs) = made_in.block_on(async {
        let (ours, theirs) = pair().await;
        let (sender, receiver) = ours.split();
        (sender.into_shared(), receiver, theirs)
    });
    // Nobody writes it: the runtime stands still.
    block_on(sender.send("never".into())).unwrap();
    let flushing = {
        let sender = sender.clone();
        others.spawn(async move { sender.flush().await })
    };
    others.block_on(tokio::task::yield_now());
    drop(made_in);
    let error = others.block_on(within(flushing)).unwrap().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let error = others.block_on(within(sender.flush())).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn a_connection_can_be_closed_after_its_runtime_has_ended() {
    let others = with_threads();
    let (made_in, reading) = (of_one_thread(), with_threads());
    let name = unique_name("closed-later");
    let mut server = {
        let _entered = reading.enter();
        PipeServer::bind(&name).unwrap()
    };
    let ours = made_in.block_on(async {
        let mut client = PipeClient::connect(&name).await.unwrap();
        client.send("last words".into()).await.unwrap();
        client
    });
    drop(made_in);
    let peer = reading.spawn(async move {
        let mut conn = server.accept().await.unwrap();
        conn.next().await.unwrap().unwrap()
    });
    others.block_on(within(ours.close())).unwrap();
    assert_eq!(reading.block_on(within(peer)).unwrap(), "last words");
}

#[cfg(target_os = "linux")] // Windows hands bytes over through the connection's runtime alone.
#[test]
fn two_ends_close_at_once_although_nobody_drives_their_runtime() {
    let name = unique_name("stands-still");
    let (server, client) = (PipeServer::builder(&name), PipeClient::builder(&name));
    for ended in [false, true] {
        let made_in = of_one_thread();
        let (mut ours, mut theirs) = made_in.block_on(pair_of(&server, &client));
        let made_in = (!ended).then_some(made_in);
        let closed = of_one_thread().block_on(within(async {
            ours.send("unread".into()).await.unwrap();
            theirs.send("unread too".into()).await.unwrap();
            tokio::join!(ours.close(), theirs.close())
        }));
        assert!(matches!(closed, (Ok(()), Ok(()))), "{ended}: {closed:?}");
        drop(made_in);
    }
}

#[cfg(unix)]
#[test]
fn a_write_without_a_descriptor_left_waits_wherever_it_is_polled() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let test = "a_write_without_a_descriptor_left_waits_wherever_it_is_polled";
    if role().is_none() {
        return run_as("process", &mut itself(test));
    }
    let made_in = with_threads();
    let _held = made_in.block_on(many());
    let (mut ours, theirs) = made_in.block_on(pair());
    let (short_lived, last) = (of_one_thread(), of_one_thread());
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(3),
        ..limit
    };
    setrlimit(Resource::Nofile, none).unwrap();
    std::fs::File::open("/").unwrap_err();

    let message = sample(LARGE, 7);
    let mut sending = Box::pin(ours.send(message.clone()));
    assert!(poll_once_in(&short_lived, &mut sending).is_none());
    drop(sending);
    drop(short_lived);
    assert!(poll_once_in(&last, &mut ours.flush()).is_none());
    let reading = made_in.spawn(theirs.into_future());
    let mut ours = finishes(move || {
        block_on(ours.flush()).unwrap();
        ours
    });
    let (received, _theirs) = made_in.block_on(within(reading)).unwrap();
    assert!(received.unwrap().unwrap() == message);

    let mut sending = Box::pin(ours.send(message.clone()));
    assert!(poll_once_in(&last, &mut sending).is_none());
    drop(made_in);
    let error = last.block_on(within(sending)).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn clients_are_accepted_under_an_executor_that_is_not_tokios() {
    let bound_in = with_threads();
    for (transport, server, client) in transports("accepts") {
        let mut server = bound_in.block_on(async { server.bind().unwrap() });
        let answer = bound_in.spawn(async move {
            let mut conn = client.connect().await.unwrap();
            conn.send("hello".into()).await.unwrap();
            conn.next().await.unwrap().unwrap()
        });
        finishes(move || {
            block_on(async {
                let mut conn = server.accept().await.unwrap();
                let message = conn.next().await.unwrap().unwrap();
                conn.send(message.freeze()).await.unwrap();
                conn.close().await.unwrap();
            });
        });
        let answer = bound_in.block_on(within(answer)).unwrap();
        assert_eq!(answer, "hello", "{transport}");
    }
}

#[test]
fn an_accepted_connection_outlives_the_runtime_that_accepted_it() {
    let bound_in = with_threads();
    for (transport, server, client) in transports("outlives") {
        let mut server = bound_in.block_on(async { server.bind().unwrap() });
        let mut theirs = bound_in.block_on(within(client.connect())).unwrap();
        let mut ours = of_one_thread().block_on(within(server.accept())).unwrap();
        let received = of_one_thread().block_on(async {
            let mut receiving = Box::pin(ours.next());
            assert!(stays_pending(&mut receiving).await, "{transport}");
            theirs.send("hello".into()).await.unwrap();
            within(receiving).await
        });
        assert_eq!(received.unwrap().unwrap(), "hello", "{transport}");
    }
}

#[cfg(unix)]
#[test]
fn accepting_pauses_after_an_error_under_an_executor_that_is_not_tokios() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let test = "accepting_pauses_after_an_error_under_an_executor_that_is_not_tokios";
    if role().is_none() {
        return run_as("process", &mut itself(test));
    }
    let bound_in = with_threads();
    let name = unique_name("pauses");
    let mut server = bound_in.block_on(async { PipeServer::bind(&name).unwrap() });
    let _client = bound_in
        .block_on(within(PipeClient::connect(&name)))
        .unwrap();
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(3),
        ..limit
    };
    setrlimit(Resource::Nofile, none).unwrap();
    let (log, _guard) = common::Log::begin();
    while !log.text().contains("cannot accept a client yet") {
        assert!(server.accept().now_or_never().is_none());
        thread::yield_now();
    }
    setrlimit(Resource::Nofile, limit).unwrap();
    finishes(move || block_on(server.accept()).unwrap());
}

#[cfg(windows)]
#[test]
fn a_server_end_that_is_dropped_outside_of_any_runtime_stays_for_its_client() {
    let made_in = with_threads();
    for (transport, server, client) in transports("stays") {
        let server = server.linger(PATIENCE);
        let (mut client, mut accepted) = made_in.block_on(pair_of(&server, &client));
        // More than the client's end reads ahead.
        made_in
            .block_on(within(accepted.send(sample(common::HOLDS, 0))))
            .unwrap();
        drop(accepted);
        made_in.block_on(async {
            for _ in 0..100 {
                let sent = within(client.send("still there?".into())).await;
                assert!(sent.is_ok(), "{transport}: {sent:?}");
                tokio::task::yield_now().await;
            }
            let received = within(client.next()).await.unwrap().unwrap();
            assert!(received == sample(common::HOLDS, 0), "{transport}");
        });
    }
}
