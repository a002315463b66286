//! What was begun in one runtime goes on in another.

use std::time::Duration;

use asyncipc::{Error, PipeClient, PipeServer};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Runtime;

use crate::common::{
    byte_pair, pair, pair_of, sample, stays_pending, transports, unique_name, within,
};
use crate::{LARGE, block_on, finishes, many, of_one_thread, poll_once_in, with_threads};

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
