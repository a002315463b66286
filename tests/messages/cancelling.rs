//! A call that is cancelled loses and splits nothing.

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::task::yield_now;

use crate::common::{pair, sample, within};
use crate::{frame, hostile_pair};

#[tokio::test]
async fn a_cancelled_next_loses_nothing() {
    let (mut raw, mut conn) = hostile_pair(usize::MAX).await;
    let messages = [
        sample(0, 0),
        sample(1, 1),
        sample(300, 2),
        sample(20_000, 3),
        sample(2, 4),
    ];
    let wire: Vec<u8> = messages.iter().flat_map(|it| frame(it)).collect();
    let dribble = tokio::spawn(async move {
        let (bytewise, rest) = wire.split_at(400);
        for byte in bytewise {
            raw.write_all(std::slice::from_ref(byte)).await.unwrap();
            yield_now().await;
        }
        for piece in rest.chunks(997) {
            raw.write_all(piece).await.unwrap();
            yield_now().await;
        }
    });
    let mut cancelled = 0;
    for expected in &messages {
        let message = within(async {
            loop {
                tokio::select! {
                    biased;
                    message = conn.next() => break message,
                    () = yield_now() => cancelled += 1,
                }
            }
        });
        assert_eq!(message.await.unwrap().unwrap(), *expected);
    }
    dribble.await.unwrap();
    assert!(within(conn.next()).await.is_none());
    assert!(cancelled > 100, "cancelled {cancelled} times only");
}

#[tokio::test]
async fn a_cancelled_send_never_splits_a_message() {
    let (mut client, mut server) = pair().await;
    const COUNT: usize = 400;
    let message = |n: usize| {
        let mut message = BytesMut::from(&(n as u32).to_be_bytes()[..]);
        message.extend_from_slice(&sample([10, 30_000, 5_000, 200_000][n % 4], n));
        message.freeze()
    };
    let sending = async {
        let (mut done, mut cancelled) = (vec![], 0);
        for n in 0..COUNT {
            tokio::select! {
                biased;
                sent = client.send(message(n)) => {
                    sent.unwrap();
                    done.push(n);
                }
                () = yield_now() => cancelled += 1,
            }
        }
        client.close().await.unwrap();
        (done, cancelled)
    };
    let receiving = async {
        let mut received = vec![];
        while let Some(it) = server.next().await {
            let it = it.unwrap();
            let n = u32::from_be_bytes(it[..4].try_into().unwrap()) as usize;
            assert!(it == message(n), "message {n} came otherwise");
            received.push(n);
        }
        received
    };
    let ((done, cancelled), received) = within(async { tokio::join!(sending, receiving) }).await;
    assert!(received.is_sorted_by(|a, b| a < b), "out of order or twice");
    assert!(done.iter().all(|it| received.binary_search(it).is_ok()));
    assert!(cancelled > 20, "cancelled {cancelled} times only");
}

#[tokio::test]
async fn a_cancelled_send_that_took_its_message_is_finished_by_the_next_flush() {
    let (mut client, mut server) = pair().await;
    let message = sample(4 << 20, 0);
    // The pipe does not hold it, so the send cannot finish at once, but has begun.
    tokio::select! {
        biased;
        _ = client.send(message.clone()) => panic!("nobody has read it yet"),
        () = yield_now() => {}
    }
    let (flushed, received) = within(async { tokio::join!(client.flush(), server.next()) }).await;
    flushed.unwrap();
    assert!(received.unwrap().unwrap() == message);
}
