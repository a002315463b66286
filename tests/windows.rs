//! What only Windows named pipes have: messages that the system keeps apart, overlapped I/O, access,
//! and identity.
#![cfg(windows)]

mod common;

use std::future::{Future, IntoFuture};
use std::os::windows::io::{AsRawHandle, RawHandle};
use std::pin::{Pin, pin};
use std::ptr::null_mut;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use asyncipc::windows::{ClientBuilderExt, Impersonation, ServerBuilderExt};
use asyncipc::{
    Access, ClientBuilder, Error, MessageCodec, PipeClient, PipeConnection, PipeServer, PipeStream,
    ServerBuilder,
};
use bytes::{Bytes, BytesMut};
use common::{
    HOLDS, PATIENCE, pair_of, sample, skipped, stays_pending, under_wine, unique_name, within,
};
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use windows_sys::Win32::Foundation::{CloseHandle, ERROR_SUCCESS, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1,
    SE_KERNEL_OBJECT,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, ImpersonateSelf, OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR,
    RevertToSelf, SecurityImpersonation, TOKEN_QUERY,
};
use windows_sys::Win32::System::Threading::{GetCurrentThread, OpenThreadToken};

/// More than a pipe holds while nobody reads, which is 64 KiB unless told otherwise.
const LARGE: usize = 300_000;

/// Builders for both ends of a pipe of messages that have all the time they need.
fn messages(what: &str) -> (ServerBuilder, ClientBuilder) {
    let (server, client) = ends(what);
    (server.message_mode(), client.message_mode())
}

fn ends(what: &str) -> (ServerBuilder, ClientBuilder) {
    let name = unique_name(what);
    let server = PipeServer::builder(&name).linger(PATIENCE);
    let client = PipeClient::builder(&name)
        .linger(PATIENCE)
        .timeout(PATIENCE);
    (server, client)
}

/// Sends until the other end is gone.
async fn send_to_the_end(conn: &mut PipeConnection) {
    let error = within(async {
        loop {
            if let Err(error) = conn.send("anybody there?".into()).await {
                break error;
            }
        }
    });
    let error = error.await;
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn a_dropped_server_end_stays_for_its_client_as_long_as_the_linger() {
    // Time goes on by leaps, in which nothing is waited for. They are much longer than the test.
    async fn leap(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }
    for overlapped in [false, true] {
        let (mut server, client) = ends("lingers");
        if overlapped {
            server = server.overlapped_io();
        }
        let server = server.linger(Duration::from_secs(10_000));
        let (mut client, mut accepted) = pair_of(&server, &client).await;
        // More than the client's end reads ahead.
        accepted.send(sample(HOLDS, 0)).await.unwrap();
        drop(accepted);
        // It reads and throws away, so that the client gets on.
        for seconds in [0, 9_000] {
            leap(Duration::from_secs(seconds)).await;
            for _ in 0..100 {
                within(client.send("still there?".into())).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
        leap(Duration::from_secs(2_000)).await;
        send_to_the_end(&mut client).await;
        assert!(receive(&mut client).await == sample(HOLDS, 0));
        assert!(within(client.next()).await.is_none());
    }
}

/// The two ends of a pipe of messages, both ways around: each behaviour holds for either end.
async fn both_ways(what: &str) -> [(PipeConnection, PipeConnection); 2] {
    let (server, client) = messages(what);
    let (a, b) = pair_of(&server, &client).await;
    let (server, client) = messages(what);
    let (d, c) = pair_of(&server, &client).await;
    [(a, b), (c, d)]
}

async fn receive(conn: &mut PipeConnection) -> BytesMut {
    within(conn.next()).await.expect("a message").unwrap()
}

/// Everything up to the clean end.
async fn collect(mut conn: PipeConnection) -> Vec<BytesMut> {
    let mut all = vec![];
    while let Some(message) = within(conn.next()).await {
        all.push(message.unwrap());
    }
    all
}

/// Polls once, and says whether that was enough.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    future.now_or_never()
}

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

// ---- Messages ----

#[tokio::test]
async fn native_messages_of_every_size_keep_their_boundaries() {
    for (mut ours, mut theirs) in both_ways("native").await {
        for size in [
            0,
            1,
            1023,
            1024,
            1025,
            4095,
            4096,
            4097,
            65_535,
            65_536,
            65_537,
            1 << 20,
            16 << 20,
            0,
            3,
        ] {
            let message = sample(size, size);
            let sending = ours.send(message.clone());
            let (sent, received) = within(async { tokio::join!(sending, theirs.next()) }).await;
            sent.unwrap();
            let received = received.unwrap().unwrap();
            assert!(received == message, "{size} bytes arrived otherwise");
        }
        drop(ours);
        assert!(within(theirs.next()).await.is_none());
    }
}

#[tokio::test]
async fn many_small_messages_arrive_in_order() {
    const COUNT: usize = 2000;
    for (mut ours, theirs) in both_ways("small").await {
        let sending = tokio::spawn(async move {
            for n in 0..COUNT {
                // The sizes go past what is copied out, and past the first read.
                ours.feed(sample(n * 7 % 5000, n)).await.unwrap();
            }
            ours.close().await.unwrap();
        });
        let received = collect(theirs).await;
        assert_eq!(received.len(), COUNT);
        for (n, message) in received.iter().enumerate() {
            assert!(*message == sample(n * 7 % 5000, n), "message {n}");
        }
        within(sending).await.unwrap();
    }
}

#[tokio::test]
async fn empty_messages_are_messages_and_not_the_end() {
    for (mut ours, theirs) in both_ways("empty").await {
        for message in ["", "", "between", ""] {
            ours.send(message.into()).await.unwrap();
        }
        drop(ours);
        assert_eq!(collect(theirs).await, ["", "", "between", ""]);
    }
}

#[tokio::test]
async fn a_message_above_the_limit_is_not_sent_and_the_connection_goes_on() {
    let (server, client) = messages("limit-sending");
    let (server, client) = (server.max_message_size(10), client.max_message_size(10));
    let (client, server) = pair_of(&server, &client).await;
    let mut ends = [client, server];
    for _ in 0..2 {
        let [ours, theirs] = &mut ends;
        let error = within(ours.send(sample(11, 0))).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::MessageTooLarge {
                    size: 11,
                    max: 10,
                    ..
                }
            ),
            "{error:?}"
        );
        ours.send(sample(10, 1)).await.unwrap();
        assert!(receive(theirs).await == sample(10, 1));
        ends.reverse();
    }
}

#[tokio::test]
async fn a_received_message_above_the_limit_is_an_error_that_tells_its_size() {
    // Found out with the first read, and after it.
    for (max, sent) in [
        (0, 1),
        (10, 11),
        (10, LARGE),
        (5000, 5001),
        (LARGE, LARGE + 1),
    ] {
        let (server, client) = messages("limit-receiving");
        let (client, server) = pair_of(&server, &client.max_message_size(max)).await;
        let (mut theirs, mut ours) = (server, client);
        theirs.feed(sample(max, 0)).await.unwrap();
        let sending = tokio::spawn(async move {
            // It may never be read to its end.
            let _ = theirs.send(sample(sent, 0)).await;
            theirs
        });
        assert!(receive(&mut ours).await == sample(max, 0));
        let error = within(ours.next()).await.unwrap().unwrap_err();
        let Error::MessageTooLarge {
            size, max: told, ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((size, told), (sent, max));
        assert!(within(ours.next()).await.is_none());
        drop(ours);
        within(sending).await.unwrap();
    }
}

#[tokio::test]
async fn split_halves_in_two_tasks_send_and_receive_at_once_far_above_the_quota() {
    const COUNT: usize = 8;
    let (server, client) = messages("halves");
    let (client, server) = pair_of(&server, &client).await;
    let ends = [client, server].map(|conn| {
        let (mut sender, mut receiver) = conn.split();
        let sending = tokio::spawn(async move {
            for n in 0..COUNT {
                sender.send(sample((1 << 20) + n, n)).await.unwrap();
            }
            sender
        });
        let receiving = tokio::spawn(async move {
            for n in 0..COUNT {
                let message = receiver.next().await.unwrap().unwrap();
                assert!(message == sample((1 << 20) + n, n), "message {n}");
            }
            receiver
        });
        async move {
            let (sender, receiver) = (sending.await.unwrap(), receiving.await.unwrap());
            receiver.reunite(sender).unwrap()
        }
    });
    let [a, b] = ends;
    let (a, b) = within(async { tokio::join!(a, b) }).await;
    within(async { tokio::try_join!(a.close(), b.close()) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_cancelled_next_loses_nothing() {
    for (mut ours, mut theirs) in both_ways("cancelled").await {
        for n in 0..100 {
            let size = [0, 3, 5000, LARGE][n % 4];
            let mut sending = pin!(ours.send(sample(size, n)));
            let mut sent = false;
            // Given up after each poll, in whatever state it is.
            let message = within(async {
                loop {
                    sent = sent || poll_once(sending.as_mut()).is_some_and(|it| it.is_ok());
                    match poll_once(pin!(theirs.next())) {
                        Some(message) => break message,
                        None => tokio::task::yield_now().await,
                    }
                }
            });
            let message = message.await.unwrap().unwrap();
            assert!(message == sample(size, n), "message {n} arrived otherwise");
            if !sent {
                within(sending).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    for (mut ours, mut theirs) in both_ways("slow").await {
        let mut taken = 0;
        loop {
            let mut sending = Box::pin(ours.send(sample(4 << 10, taken)));
            taken += 1;
            if stays_pending(&mut sending).await {
                break;
            }
            assert!(taken < 1000, "nothing holds the sender back");
        }
        // The last one was taken when it was given up, and goes out when there is room.
        for n in 0..taken {
            assert!(
                receive(&mut theirs).await == sample(4 << 10, n),
                "message {n}"
            );
        }
        within(ours.send("free again".into())).await.unwrap();
        assert_eq!(receive(&mut theirs).await, "free again");
    }
}

#[tokio::test]
async fn close_waits_until_the_peer_has_read_every_message() {
    for size in [0, 1, 20_000, LARGE] {
        for (mut ours, mut theirs) in both_ways("close").await {
            ours.feed("first".into()).await.unwrap();
            ours.feed(sample(size, 0)).await.unwrap();
            let mut closing = Box::pin(ours.close());
            assert!(stays_pending(&mut closing).await, "nothing was read");
            tokio::select! {
                biased;
                _ = &mut closing => panic!("{size}: one of two was read at most"),
                first = receive(&mut theirs) => assert_eq!(first, "first"),
            }
            let (closed, rest) = within(async { tokio::join!(closing, collect(theirs)) }).await;
            closed.unwrap();
            assert!(rest == [sample(size, 0)]);
        }
    }
}

#[tokio::test]
async fn close_gives_up_at_the_linger_deadline_and_the_messages_stay_readable() {
    let linger = Duration::from_millis(50);
    let (server, client) = messages("linger");
    let (mut ours, theirs) = pair_of(&server, &client.linger(linger)).await;
    ours.send("unread".into()).await.unwrap();
    let error = within(ours.close()).await.unwrap_err();
    assert!(
        matches!(error, Error::TimedOut { waited, .. } if waited == linger),
        "{error:?}"
    );
    assert_eq!(collect(theirs).await, ["unread"]);
}

#[tokio::test]
async fn close_fails_when_the_client_leaves_without_reading() {
    let (builder, client) = messages("unread");
    let (theirs, mut ours) = pair_of(&builder, &client).await;
    ours.send("unread".into()).await.unwrap();
    let mut closing = Box::pin(ours.close());
    assert!(stays_pending(&mut closing).await);
    drop(theirs);
    let error = within(closing).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn sending_to_a_peer_that_has_left_fails_with_closed() {
    for (mut ours, theirs) in both_ways("left").await {
        drop(theirs);
        assert!(within(ours.next()).await.is_none());
        let error = within(ours.send("too late".into())).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_blocked_send_fails_when_the_client_leaves() {
    let (builder, client) = messages("blocked");
    let (theirs, mut ours) = pair_of(&builder, &client).await;
    let mut sending = Box::pin(ours.send(sample(4 << 20, 0)));
    assert!(stays_pending(&mut sending).await);
    drop(theirs);
    let error = within(sending).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn the_last_message_before_a_drop_arrives() {
    for size in [0, 1, 20_000, 4 << 20] {
        for (mut ours, mut theirs) in both_ways("last").await {
            ours.feed("first".into()).await.unwrap();
            ours.feed("second".into()).await.unwrap();
            {
                let mut sending = Box::pin(ours.send(sample(size, 0)));
                let _ = poll_once(sending.as_mut());
            }
            drop(ours);
            assert_eq!(receive(&mut theirs).await, "first");
            assert_eq!(receive(&mut theirs).await, "second");
            assert!(collect(theirs).await == [sample(size, 0)], "{size}");
        }
    }
}

#[tokio::test]
async fn the_last_messages_of_both_ends_arrive_although_both_are_dropped() {
    let (server, client) = messages("last-both");
    let (mut client, mut server) = pair_of(&server, &client).await;
    let sent = async { tokio::join!(stuck(&mut client), stuck(&mut server)) };
    within(sent).await;
    // Each waits for the other to read; whoever reads to the end gets everything.
    drop(client);
    assert!(collect(server).await == [sample(4 << 20, 0)]);
}

/// Begins to send more than the pipe holds.
async fn stuck(conn: &mut PipeConnection) {
    let mut sending = Box::pin(conn.send(sample(4 << 20, 0)));
    assert!(stays_pending(&mut sending).await);
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
                let stats = serving.block_on(serve.into_future()).unwrap();
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
            let serving = tokio::spawn(server.serve(echo).into_future());
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

async fn echo(mut conn: PipeConnection) -> Result<(), asyncipc::BoxError> {
    while let Some(message) = conn.next().await {
        conn.send(message?.freeze()).await?;
    }
    Ok(())
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
            // One after the other: the order of two that wait is the system's.
            let mut pair = || {
                let ours = ours.block_on(within(client.connect())).unwrap();
                (ours, theirs.block_on(within(server.accept())).unwrap())
            };
            let ((reading, first), (writing, second)) = (pair(), pair());
            // A read that nothing comes for, and a write that nobody takes.
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
                // What was taken to be sent still arrives.
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
async fn an_empty_message_ends_one_direction_where_it_is_taken_so() {
    let (server, client) = messages("half-close");
    let (server, client) = (server.end_on_empty_message(), client.end_on_empty_message());
    let (client, server) = pair_of(&server, &client).await;
    let mut ends = [client, server];
    for _ in 0..2 {
        let [ours, theirs] = &mut ends;
        ours.feed("question".into()).await.unwrap();
        ours.close_write().await.unwrap();
        let error = ours.send("more".into()).await.unwrap_err();
        assert!(matches!(error, Error::Closed { .. }), "{error:?}");
        assert_eq!(receive(theirs).await, "question");
        assert!(within(theirs.next()).await.is_none());
        // The other direction goes on, until it is ended itself.
        ends.reverse();
    }
    let [ours, theirs] = ends;
    within(async { tokio::try_join!(ours.close(), theirs.close()) })
        .await
        .unwrap();
}

#[tokio::test]
async fn the_end_of_one_direction_is_an_empty_message_to_everybody_else() {
    for (mut ours, mut theirs) in both_ways("half-close-plain").await {
        ours.close_write().await.unwrap();
        assert_eq!(receive(&mut theirs).await, "");
        theirs.send("still here".into()).await.unwrap();
        assert_eq!(receive(&mut ours).await, "still here");
        drop(ours);
        assert!(within(theirs.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_pipe_of_bytes_cannot_be_closed_by_half() {
    let (server, client) = ends("half-close-bytes");
    for (server, client) in [
        (server.clone(), client.clone()),
        (server.overlapped_io(), client.overlapped_io()),
    ] {
        let (mut ours, mut theirs) = pair_of(&server, &client).await;
        for conn in [&mut ours, &mut theirs] {
            let error = conn.close_write().await.unwrap_err();
            assert!(matches!(error, Error::ModeMismatch { .. }), "{error:?}");
        }
        // Nothing has happened to it.
        ours.send("still open".into()).await.unwrap();
        assert_eq!(receive(&mut theirs).await, "still open");
    }
}

#[tokio::test]
async fn as_a_stream_of_bytes_a_pipe_of_messages_has_no_boundaries() {
    for (mut ours, mut theirs) in both_ways("into-stream").await {
        ours.send("one".into()).await.unwrap();
        ours.send("".into()).await.unwrap();
        ours.send(sample(LARGE / 10, 0)).await.unwrap();
        assert_eq!(receive(&mut theirs).await, "one");
        assert!(poll_once(pin!(theirs.next())).is_none_or(|it| it.unwrap().unwrap().is_empty()));

        let mut theirs = theirs.into_stream().await.unwrap();
        let mut bytes = vec![0; LARGE / 10];
        within(theirs.read_exact(&mut bytes)).await.unwrap();
        assert!(bytes == sample(LARGE / 10, 0));
        // The other way, each write is a message.
        for write in [&b"a"[..], b"few", b"writes"] {
            theirs.write_all(write).await.unwrap();
            theirs.flush().await.unwrap();
        }
        drop(theirs);
        assert_eq!(collect(ours).await, ["a", "few", "writes"]);
    }
}

#[tokio::test]
async fn messages_survive_the_way_to_bytes_and_back() {
    for (mut ours, theirs) in both_ways("and-back").await {
        let mut theirs = theirs.into_stream().await.unwrap();
        ours.send("as bytes".into()).await.unwrap();
        let mut bytes = [0; 8];
        within(theirs.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(&bytes, b"as bytes");
        let mut theirs = PipeConnection::new(theirs, MessageCodec::default());
        ours.send("as".into()).await.unwrap();
        ours.send("messages".into()).await.unwrap();
        assert_eq!(receive(&mut theirs).await, "as");
        assert_eq!(receive(&mut theirs).await, "messages");
    }
}

#[tokio::test]
async fn a_client_of_bytes_on_a_pipe_of_messages_reads_bytes_and_writes_messages() {
    let (server, client) = ends("byte-client");
    let server = server.message_mode();
    for client in [client.clone(), client.overlapped_io()] {
        let mut server = server.bind().unwrap();
        let mut client = within(client.connect_bytes()).await.unwrap();
        let mut accepted = within(server.accept()).await.unwrap();
        for message in ["one", "two"] {
            accepted.send(message.into()).await.unwrap();
        }
        let mut bytes = [0; 6];
        within(client.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(&bytes, b"onetwo");
        for write in [&b"three"[..], b"four"] {
            client.write_all(write).await.unwrap();
            client.flush().await.unwrap();
        }
        assert_eq!(receive(&mut accepted).await, "three");
        assert_eq!(receive(&mut accepted).await, "four");
    }
}

#[tokio::test]
async fn a_message_client_on_a_pipe_of_bytes_is_a_mode_mismatch() {
    let name = unique_name("mismatch");
    let _server = PipeServer::bind(&name).unwrap();
    let refused = PipeClient::builder(&name).message_mode().connect().await;
    assert!(
        matches!(refused, Err(Error::ModeMismatch { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_thousand_clients_wait_for_sixty_four_places_and_all_are_served() {
    let name = unique_name("wait");
    let server = PipeServer::builder(&name)
        .max_connections(64)
        .bind()
        .unwrap();
    let stop = server.shutdown_handle();
    let serving = tokio::spawn(
        server
            .serve(|mut conn| async move {
                while let Some(message) = conn.next().await {
                    conn.send(message?.freeze()).await?;
                }
                Ok(())
            })
            .into_future(),
    );
    let clients = (0..1000).map(|i: u32| {
        let client = PipeClient::builder(&name).timeout(std::time::Duration::from_secs(300));
        tokio::spawn(async move {
            let mut conn = client.connect().await.unwrap();
            conn.send(Bytes::copy_from_slice(&i.to_le_bytes()))
                .await
                .unwrap();
            assert_eq!(conn.next().await.unwrap().unwrap()[..], i.to_le_bytes());
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    stop.shutdown();
    assert_eq!(serving.await.unwrap().unwrap().clients, 1000);
}

#[tokio::test]
async fn both_ends_tell_the_same_user() {
    for message_mode in [false, true] {
        let name = unique_name("who");
        let (server, client) = (PipeServer::builder(&name), PipeClient::builder(&name));
        let (server, client) = match message_mode {
            true => (server.message_mode(), client.message_mode()),
            false => (server, client),
        };
        let mut server = server.bind().unwrap();
        let client = client.verify_server(true);
        let (client, server) = tokio::join!(client.connect(), server.accept());
        let (client, server) = (
            client.unwrap().peer().unwrap(),
            server.unwrap().peer().unwrap(),
        );
        assert!(
            client.is_same_user() && server.is_same_user(),
            "{client:?} {server:?}"
        );
        assert_eq!(client.process_id, Some(std::process::id()));
        assert_eq!(client, server);
    }
}

// ---- Bytes by overlapped I/O ----

/// Which ends of a pipe of bytes use overlapped I/O of this crate.
const OVERLAPPED: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

fn bytes(what: &str, overlapped: (bool, bool)) -> (ServerBuilder, ClientBuilder) {
    let (mut server, mut client) = ends(what);
    if overlapped.0 {
        server = server.overlapped_io();
    }
    if overlapped.1 {
        client = client.overlapped_io();
    }
    (server, client)
}

#[tokio::test]
async fn overlapped_ends_and_others_exchange_messages_of_every_size() {
    for overlapped in OVERLAPPED {
        let (server, client) = bytes("overlapped", overlapped);
        let (client, server) = pair_of(&server, &client).await;
        let mut ends = [client, server];
        for _ in 0..2 {
            let [ours, theirs] = &mut ends;
            for size in [
                0,
                1,
                4091,
                4092,
                4093,
                65_531,
                65_532,
                65_533,
                1 << 20,
                5 << 20,
                3,
            ] {
                let sending = ours.send(sample(size, size));
                let exchange = async { tokio::join!(sending, theirs.next()) };
                let (sent, received) = within(exchange).await;
                sent.unwrap();
                assert!(
                    received.unwrap().unwrap() == sample(size, size),
                    "{size} bytes arrived otherwise, {overlapped:?}"
                );
            }
            ends.reverse();
        }
        let [ours, theirs] = ends;
        let (closed, rest) = within(async { tokio::join!(ours.close(), collect(theirs)) }).await;
        closed.unwrap();
        assert!(rest.is_empty());
    }
}

#[tokio::test]
async fn thirty_two_mebibytes_pass_both_ways_at_once_by_overlapped_io() {
    const SIZE: usize = 32 << 20;
    for overlapped in OVERLAPPED {
        let (server, client) = bytes("overlapped-both", overlapped);
        let mut server = server.bind_bytes().unwrap();
        let (client, accepted) =
            within(async { tokio::join!(client.connect_bytes(), server.accept()) }).await;
        let tasks = [client.unwrap(), accepted.unwrap()].map(|stream| {
            let (mut read, mut write) = stream.into_split();
            let writing = tokio::spawn(async move {
                write.write_all(&sample(SIZE, 0)).await.unwrap();
                write.flush().await.unwrap();
                write
            });
            let reading = tokio::spawn(async move {
                let mut bytes = vec![0; SIZE];
                read.read_exact(&mut bytes).await.unwrap();
                assert!(bytes == sample(SIZE, 0));
                read
            });
            [
                writing.map(|it| drop(it.unwrap())).boxed(),
                reading.map(|it| drop(it.unwrap())).boxed(),
            ]
        });
        let [[a, b], [c, d]] = tasks;
        within(async { tokio::join!(a, b, c, d) }).await;
    }
}

#[tokio::test]
async fn the_last_bytes_of_a_dropped_overlapped_stream_arrive() {
    for overlapped in OVERLAPPED {
        for ours_is_client in [true, false] {
            let (server, client) = bytes("overlapped-last", overlapped);
            let mut server = server.bind_bytes().unwrap();
            let (client, accepted) =
                within(async { tokio::join!(client.connect_bytes(), server.accept()) }).await;
            let (client, accepted) = (client.unwrap(), accepted.unwrap());
            let (mut ours, mut theirs) = match ours_is_client {
                true => (client, accepted),
                false => (accepted, client),
            };
            let mut written = 0;
            loop {
                let bytes = sample(LARGE, written);
                let n = match poll_once(pin!(ours.write(&bytes))) {
                    Some(n) => n.unwrap(),
                    None => break,
                };
                written += n;
            }
            drop(ours);
            let mut read = vec![];
            within(theirs.read_to_end(&mut read)).await.unwrap();
            assert_eq!(read.len(), written, "{overlapped:?} {ours_is_client}");
        }
    }
}

// ---- Access ----

/// Who owns the pipe, and who may do what, as the system tells it.
fn descriptor(pipe: &PipeStream) -> String {
    let handle: RawHandle = pipe.as_raw_handle();
    let mut descriptor = null_mut();
    // SAFETY: the handle is open; `descriptor` is written on success, and freed below.
    unsafe {
        let error = GetSecurityInfo(
            handle,
            SE_KERNEL_OBJECT,
            PARTS,
            null_mut(),
            null_mut(),
            null_mut(),
            null_mut(),
            &mut descriptor,
        );
        assert_eq!(error, ERROR_SUCCESS);
        text(descriptor)
    }
}

const PARTS: u32 = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;

/// A descriptor as the system writes it, which abbreviates in its own way.
fn as_the_system_writes_it(sddl: &str) -> String {
    let wide: Vec<u16> = sddl.encode_utf16().chain([0]).collect();
    let mut descriptor = null_mut();
    // SAFETY: the text ends with NUL; `descriptor` is written on success, and freed by `text`.
    unsafe {
        let done = ConvertStringSecurityDescriptorToSecurityDescriptorW(
            wide.as_ptr(),
            SDDL_REVISION_1,
            &mut descriptor,
            null_mut(),
        );
        assert_ne!(done, 0, "{sddl}");
        text(descriptor)
    }
}

/// # Safety
///
/// `descriptor` was allocated by the system, and is freed here.
unsafe fn text(descriptor: PSECURITY_DESCRIPTOR) -> String {
    let (mut text, mut len) = (null_mut(), 0);
    // SAFETY: on success `text` has `len` units, which are freed here as well.
    unsafe {
        let done = ConvertSecurityDescriptorToStringSecurityDescriptorW(
            descriptor,
            SDDL_REVISION_1,
            PARTS,
            &mut text,
            &mut len,
        );
        assert_ne!(done, 0, "{}", std::io::Error::last_os_error());
        let units = std::slice::from_raw_parts(text, len as usize);
        let string = String::from_utf16(units).unwrap();
        LocalFree(text.cast());
        LocalFree(descriptor);
        string.trim_end_matches('\0').into()
    }
}

/// The client's end of a pipe made as `builder` says, the connection kept alive, and this user.
async fn opened(builder: &ServerBuilder, client: &ClientBuilder) -> (PipeStream, String) {
    let mut server = builder.bind_bytes().unwrap();
    let (client, accepted) =
        within(async { tokio::join!(client.connect_bytes(), server.accept()) }).await;
    let user = accepted.unwrap().peer().unwrap().user.unwrap();
    (client.unwrap(), user.to_string())
}

#[tokio::test]
async fn a_pipe_belongs_to_its_user_and_others_may_do_what_access_says() {
    for (access, others) in [
        (None, ""),
        (Some(Access::Owner), ""),
        (Some(Access::Group), "(A;;0x12019b;;;AU)"),
        (Some(Access::Everyone), "(A;;0x12019b;;;WD)"),
    ] {
        let (mut builder, client) = ends("access");
        if let Some(access) = access {
            builder = builder.access(access);
        }
        let (pipe, user) = opened(&builder, &client).await;
        let expected = format!("O:{user}D:P(A;;FA;;;{user})(A;;FA;;;SY){others}");
        assert_eq!(
            descriptor(&pipe),
            as_the_system_writes_it(&expected),
            "{access:?}"
        );
    }
}

#[tokio::test]
async fn a_descriptor_of_ones_own_is_taken_in_place_of_the_access() {
    let (builder, client) = messages("user");
    let (_, user) = opened(&builder, &client).await;
    let (builder, client) = messages("descriptor");
    let sddl = format!("O:{user}D:P(A;;FA;;;{user})(D;;FA;;;NU)(A;;0x12019b;;;IU)");
    let builder = builder.access(Access::Everyone).security_descriptor(&sddl);
    let (pipe, _) = opened(&builder, &client).await;
    assert_eq!(descriptor(&pipe), as_the_system_writes_it(&sddl));
}

#[tokio::test]
async fn a_bad_descriptor_is_refused_with_its_place() {
    let (builder, client) = ends("bad-descriptor");
    for (sddl, place) in [
        (
            "D:P(A;;FA;;;SY)(A;;nonsense;;;WD)",
            Some((15, "(A;;nonsense;;;WD)")),
        ),
        (
            "D:P(A;;FA;;;SY)S:(ML;;BAD;;;LW)",
            Some((17, "(ML;;BAD;;;LW)")),
        ),
        ("D:P(A;;FA;;;NOBODY)", Some((3, "(A;;FA;;;NOBODY)"))),
        ("nonsense", None),
        ("D:P(A;;FA;;;SY", None),
    ] {
        let error = builder
            .clone()
            .security_descriptor(sddl)
            .bind()
            .unwrap_err();
        let Error::InvalidOption { option, rule, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(option, "security_descriptor");
        assert!(rule.contains(&format!("{sddl:?}")), "{rule}");
        if let Some((at, part)) = place {
            assert!(rule.contains(&format!("{part:?} at byte {at} ")), "{rule}");
        }
    }
    let error = client.no_wait().connect().await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_name_that_another_program_listens_on_is_refused() {
    if under_wine() {
        return skipped("Wine does not enforce FILE_FLAG_FIRST_PIPE_INSTANCE");
    }
    let name = unique_name("squatted");
    let path = format!(r"\\.\pipe\{name}");
    let squatter = tokio::net::windows::named_pipe::ServerOptions::new();
    let _squatter = squatter.create(&path).unwrap();
    let verbatim = format!(r"\\?\pipe\{name}");
    for builder in [
        PipeServer::builder(&name),
        PipeServer::builder(&name).message_mode(),
        PipeServer::builder(&verbatim),
    ] {
        let error = builder.bind().unwrap_err();
        assert!(matches!(error, Error::AddressInUse { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn remote_clients_are_rejected_unless_they_are_allowed() {
    if under_wine() {
        return skipped("Wine has no remote pipes");
    }
    let (allowed, refused) = (unique_name("remote"), unique_name("remote"));
    let builder = PipeServer::builder(&allowed).access(Access::Everyone);
    let mut server = builder.allow_remote_clients().bind().unwrap();
    let _refusing = PipeServer::builder(&refused)
        .access(Access::Everyone)
        .bind()
        .unwrap();
    for host in ["localhost", "127.0.0.1"] {
        let remote = |name| PipeClient::builder(format!(r"\\{host}\pipe\{name}")).no_wait();
        // What is allowed tells whether this machine serves pipes to others at all.
        let mut client = match within(remote(&allowed).connect()).await {
            Ok(client) => client,
            Err(e) => {
                skipped(format_args!("{host} serves no pipes: {e}"));
                continue;
            }
        };
        client.send("from afar".into()).await.unwrap();
        let mut accepted = within(server.accept()).await.unwrap();
        assert_eq!(receive(&mut accepted).await, "from afar");
        let error = within(remote(&refused).connect()).await.unwrap_err();
        assert!(
            !matches!(error, Error::ModeMismatch { .. } | Error::TimedOut { .. }),
            "{error:?}"
        );
    }
}

// ---- Identity ----

#[tokio::test]
async fn an_anonymous_client_cannot_be_impersonated() {
    for anonymous in [true, false] {
        let (builder, client) = messages("anonymous");
        let client = match anonymous {
            true => client.impersonation(Impersonation::Anonymous),
            false => client.impersonation(Impersonation::Identification),
        };
        let (mut client, mut accepted) = pair_of(&builder, &client).await;
        client.send("hello".into()).await.unwrap();
        assert_eq!(receive(&mut accepted).await, "hello");
        let peer = accepted.peer().unwrap();
        if anonymous && under_wine() && peer.is_same_user() {
            skipped("Wine does not keep clients anonymous");
            continue;
        }
        assert_eq!(peer.is_same_user(), !anonymous, "{peer:?}");
        assert_eq!(peer.process_id, Some(std::process::id()));
    }
}

#[tokio::test]
async fn asking_for_the_peer_leaves_the_thread_as_it_was() {
    let (builder, client) = messages("thread");
    let (mut client, mut accepted) = pair_of(&builder, &client).await;
    client.send("hello".into()).await.unwrap();
    receive(&mut accepted).await;
    for _ in 0..100 {
        assert!(accepted.peer().unwrap().is_same_user());
        // What the thread does next, it does as itself: with the client's identity alone, no pipe
        // can be made.
        PipeServer::bind(unique_name("thread")).unwrap();
    }
}

#[tokio::test]
async fn a_server_whose_pipe_belongs_to_somebody_else_is_refused_before_anything_is_sent() {
    for message_mode in [true, false] {
        let (builder, client) = if message_mode {
            messages("not-mine")
        } else {
            ends("not-mine")
        };
        // Administrators may give what they make to all of them; nobody may give it to one other.
        let builder = builder.security_descriptor("O:BAD:P(A;;FA;;;WD)");
        let mut server = match builder.bind() {
            Ok(server) => server,
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(1307) => {
                return skipped("only an administrator can make a pipe with another owner");
            }
            Err(e) => panic!("{e}"),
        };
        let error = within(client.clone().verify_server(true).connect())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
        assert!(error.to_string().contains("S-1-5-32-544"), "{error}");
        let accepted = within(server.accept()).await.unwrap();
        assert!(collect(accepted).await.is_empty());

        let trusting = within(client.connect()).await.unwrap();
        assert!(!trusting.peer().unwrap().is_same_user());
    }
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

#[tokio::test]
async fn read_as_bytes_a_pipe_of_messages_ends_at_the_empty_one_if_told_so() {
    let name = unique_name("empty-end");
    let mut server = PipeServer::builder(&name).message_mode().bind().unwrap();
    let client = PipeClient::builder(&name)
        .message_mode()
        .end_on_empty_message();
    let mut client = client.connect_bytes().await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    accepted.send("request".into()).await.unwrap();
    accepted.close_write().await.unwrap();
    let mut all = vec![];
    within(tokio::io::AsyncReadExt::read_to_end(&mut client, &mut all))
        .await
        .unwrap();
    assert_eq!(all, b"request");
}

#[tokio::test]
async fn the_rest_of_a_message_that_was_begun_as_bytes_is_a_message_of_its_own() {
    let (server, client) = messages("rest");
    let mut server = server.bind().unwrap();
    let mut client = client.connect_bytes().await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    let large = sample(LARGE, 1);
    accepted.send("hello world".into()).await.unwrap();
    accepted.send("second".into()).await.unwrap();
    let sending = async {
        accepted.send(large.clone()).await.unwrap();
        accepted.send("last".into()).await.unwrap();
    };
    let receiving = async {
        client.read_exact(&mut [0; 5]).await.unwrap();
        let mut messages = PipeConnection::new(client, MessageCodec::default());
        assert_eq!(messages.next().await.unwrap().unwrap(), " world");
        assert_eq!(messages.next().await.unwrap().unwrap(), "second");

        let mut client = messages.into_stream().await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        let mut messages = PipeConnection::new(client, MessageCodec::default());
        assert_eq!(messages.next().await.unwrap().unwrap(), large[5..]);
        assert_eq!(messages.next().await.unwrap().unwrap(), "last");
    };
    within(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn a_shared_sender_keeps_messages_apart_and_in_order() {
    for (sending, mut receiving) in both_ways("shared").await {
        let (sender, _receiver) = sending.split();
        let sender = sender.into_shared();
        let sizes = [5, 0, LARGE, 1, 70_000, 0, 64];
        let send = async {
            for (seed, size) in sizes.into_iter().enumerate() {
                sender.send(sample(size, seed)).await.unwrap();
            }
            sender.flush().await.unwrap();
            sender.close().await.unwrap();
        };
        let receive = async {
            for (seed, size) in sizes.into_iter().enumerate() {
                let message = receiving.next().await.unwrap().unwrap();
                assert_eq!(message, sample(size, seed));
            }
        };
        within(async { tokio::join!(send, receive) }).await;
    }
}

#[tokio::test]
async fn an_empty_message_as_the_end_takes_a_pipe_of_messages() {
    let (server, client) = ends("empty-end-of-bytes");
    let server = server.end_on_empty_message().overlapped_io();
    let client = client.end_on_empty_message();
    for error in [
        server.bind().map(drop).unwrap_err(),
        within(client.connect()).await.map(drop).unwrap_err(),
    ] {
        let Error::InvalidOption { option, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(option, "end_on_empty_message");
    }
    let server = server.message_mode();
    pair_of(&server, &client.message_mode()).await;
}

#[tokio::test]
async fn a_descriptor_without_an_owner_makes_the_pipe_the_users_own() {
    let (server, client) = ends("no-owner");
    let server = server.security_descriptor("D:P(A;;FA;;;WD)");
    let mut server = server.bind().unwrap();
    let connecting = client.verify_server(true).connect();
    let (client, accepted) = within(async { tokio::join!(connecting, server.accept()) }).await;
    accepted.unwrap();
    assert!(client.unwrap().peer().unwrap().is_same_user());
}

#[tokio::test]
async fn a_descriptor_that_keeps_the_server_from_making_instances_is_refused_when_binding() {
    if under_wine() {
        return skipped("Wine does not ask for the right to make instances");
    }
    let (server, _) = ends("no-instances");
    // Everybody may talk, nobody may make instances.
    let server = server.security_descriptor("D:P(A;;0x12019b;;;WD)");
    let error = server.bind().unwrap_err();
    assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
}

#[tokio::test]
async fn asking_who_the_client_is_keeps_whom_the_thread_impersonates() {
    let (server, client) = messages("impersonating");
    let (mut client, mut accepted) = pair_of(&server, &client).await;
    client.send("known".into()).await.unwrap();
    within(accepted.next()).await.unwrap().unwrap();

    let impersonates = || {
        let mut token = null_mut();
        // SAFETY: the pseudo-handle is valid; `token` is written on success, and closed then.
        unsafe {
            let found = OpenThreadToken(GetCurrentThread(), TOKEN_QUERY, 1, &mut token) != 0;
            if found {
                CloseHandle(token);
            }
            found
        }
    };
    accepted.peer().unwrap();
    assert!(!impersonates());
    // SAFETY: no preconditions; undone below.
    assert_ne!(unsafe { ImpersonateSelf(SecurityImpersonation) }, 0);
    accepted.peer().unwrap();
    let kept = impersonates();
    // SAFETY: no preconditions.
    assert_ne!(unsafe { RevertToSelf() }, 0);
    assert!(kept);
}

#[tokio::test]
async fn a_server_on_another_machine_is_asked_until_the_deadline_and_not_on_the_runtimes_thread() {
    // An address that nobody has (RFC 5737).
    let client = PipeClient::builder(r"\\192.0.2.1\pipe\nobody");
    let client = client.timeout(Duration::from_millis(50));
    let error = within(client.connect()).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
}

#[tokio::test]
async fn a_descriptor_with_a_nul_is_refused() {
    let builder = PipeServer::builder(unique_name("nul"));
    let error = builder
        .security_descriptor("D:P(A;;FA;;;WD)\0 and more")
        .bind()
        .unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
}

/// Dropping polls operations, which must not count against the task that drops.
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
