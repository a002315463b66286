//! Connections under an executor that is not tokio's.

use std::thread;
#[cfg(any(windows, target_os = "linux"))]
use std::time::Duration;

use asyncipc::Error;
#[cfg(unix)]
use asyncipc::{PipeClient, PipeServer};
#[cfg(unix)]
use futures::FutureExt;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::common::{byte_pair, pair_of, sample, transports, within};
#[cfg(unix)]
use crate::common::{itself, pair, role, run_as, unique_name};
use crate::{LARGE, block_on, finishes, many, with_threads};
#[cfg(unix)]
use crate::{of_one_thread, poll_once_in};

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
                let unread = sample(crate::common::HOLDS, 0);
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

#[cfg(unix)]
#[test]
fn a_write_without_a_descriptor_left_waits_wherever_it_is_polled() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let test = "executors::a_write_without_a_descriptor_left_waits_wherever_it_is_polled";
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

#[cfg(unix)]
#[test]
fn accepting_pauses_after_an_error_under_an_executor_that_is_not_tokios() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let test = "executors::accepting_pauses_after_an_error_under_an_executor_that_is_not_tokios";
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
    let (log, _guard) = crate::common::Log::begin();
    while !log.text().contains("cannot accept a client yet") {
        assert!(server.accept().now_or_never().is_none());
        thread::yield_now();
    }
    setrlimit(Resource::Nofile, limit).unwrap();
    finishes(move || block_on(server.accept()).unwrap());
}
