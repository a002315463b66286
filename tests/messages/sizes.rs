//! Messages of every size, and the limit.

use asyncipc::{Error, PipeClient, PipeConnection, PipeServer};
use bytes::{Bytes, BytesMut};
use futures::stream::FusedStream;
use futures::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::task::yield_now;

use crate::common::{echo, pair, pair_of, sample, unique_name, within};
use crate::{frame, hostile_pair};

#[tokio::test]
async fn every_size_comes_back_intact() {
    let name = unique_name("sizes");
    let server = PipeServer::bind(&name).unwrap();
    let stop = server.shutdown_handle();
    let serving = tokio::spawn(server.serve(echo));
    let mut client = PipeClient::connect(&name).await.unwrap();
    for size in [0, 1, 4095, 4096, 4097, 65_535, 65_536, 1 << 20, 16 << 20] {
        let message: Bytes = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        // Both directions at once: the echo begins before the message has gone out entirely.
        let (mut sender, mut receiver) = client.split();
        let (sent, received) = tokio::join!(sender.send(message.clone()), receiver.next());
        sent.unwrap();
        assert!(
            received.unwrap().unwrap() == message,
            "{size} bytes came back otherwise"
        );
        client = receiver.reunite(sender).unwrap();
    }
    client.close().await.unwrap();
    stop.shutdown();
    let stats = serving.await.unwrap().unwrap();
    assert_eq!(
        (stats.clients, stats.connected, stats.traffic.messages_sent),
        (1, 0, 9)
    );
}

#[tokio::test]
async fn an_empty_message_is_a_message() {
    let (mut client, mut server) = pair().await;
    for message in ["", "", "between", ""] {
        client.send(message.into()).await.unwrap();
    }
    for message in ["", "", "between", ""] {
        assert_eq!(within(server.next()).await.unwrap().unwrap(), message);
    }
    drop(client);
    assert!(within(server.next()).await.is_none());
}

#[tokio::test]
async fn fed_messages_arrive_in_order_whatever_their_sizes() {
    let (mut client, mut server) = pair().await;
    // Around every threshold of buffers, many small and some large.
    let sizes = [
        0, 3, 17, 500, 1024, 1025, 4092, 4096, 4097, 9000, 65_532, 70_000,
    ];
    let message = |n: usize| sample(sizes[n * 7 % sizes.len()], n);
    const COUNT: usize = 3000;
    let sending = async {
        for n in 0..COUNT {
            client.feed(message(n)).await.unwrap();
        }
        client.flush().await.unwrap();
    };
    let receiving = async {
        for n in 0..COUNT {
            let received = server.next().await.unwrap().unwrap();
            assert!(received == message(n), "message {n} came otherwise");
        }
    };
    within(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn both_directions_run_at_full_speed_at_once() {
    let (client, server) = pair().await;
    // Each message alone is far above what the pipe holds.
    let message = sample(512 << 10, 0);
    let run = |conn: PipeConnection| {
        let message = message.clone();
        let (mut sender, mut receiver) = conn.split();
        let outgoing = message.clone();
        let sending = tokio::spawn(async move {
            for _ in 0..16 {
                sender.send(outgoing.clone()).await.unwrap();
            }
            sender
        });
        async move {
            for n in 0..16 {
                let received = receiver.next().await.unwrap().unwrap();
                assert!(received == message, "message {n} came otherwise");
            }
            // Kept until both are done: a dropped end would not be what this is about.
            (sending.await.unwrap(), receiver)
        }
    };
    within(async { tokio::join!(run(client), run(server)) }).await;
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_before_sending_and_the_connection_goes_on() {
    let name = unique_name("limit");
    let (mut client, mut server) = pair_of(
        &PipeServer::builder(&name),
        &PipeClient::builder(&name).max_message_size(100),
    )
    .await;
    client.feed(sample(100, 1)).await.unwrap();
    let refused = client.send(sample(101, 2)).await;
    assert!(
        matches!(
            refused,
            Err(Error::MessageTooLarge {
                size: 101,
                max: 100,
                ..
            })
        ),
        "{refused:?}"
    );
    client.send(sample(100, 3)).await.unwrap();
    for seed in [1, 3] {
        assert_eq!(
            within(server.next()).await.unwrap().unwrap(),
            sample(100, seed)
        );
    }
    assert_eq!(client.stats().messages_sent, 2);
}

#[tokio::test]
async fn a_message_above_the_limit_ends_the_receiving_side() {
    let (mut raw, mut conn) = hostile_pair(100).await;
    raw.write_all(&frame(&sample(100, 0))).await.unwrap();
    // Refused by its header alone: nothing follows.
    raw.write_all(&101_u32.to_be_bytes()).await.unwrap();
    assert_eq!(within(conn.next()).await.unwrap().unwrap(), sample(100, 0));
    let refused = within(conn.next()).await.unwrap();
    assert!(
        matches!(
            refused,
            Err(Error::MessageTooLarge {
                size: 101,
                max: 100,
                ..
            })
        ),
        "{refused:?}"
    );
    assert!(conn.is_terminated());
    for _ in 0..3 {
        assert!(within(conn.next()).await.is_none());
    }
}

#[tokio::test]
async fn the_limit_can_be_all_that_a_header_can_announce() {
    let (mut raw, mut conn) = hostile_pair(usize::MAX).await;
    raw.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    raw.write_all(b"so far").await.unwrap();
    drop(raw);
    let error = within(conn.next()).await.unwrap().unwrap_err();
    let Error::Truncated {
        received, expected, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((received, expected), (10, Some(4 + u32::MAX as usize)));
}

#[tokio::test]
async fn received_into_a_buffer_of_ones_own_messages_are_the_same() {
    let (mut client, mut server) = pair().await;
    let sizes = [0, 1, 64, 1000, 70_000, 300_000, 3, 16 << 10, 0];
    let sending = async {
        for (seed, size) in sizes.into_iter().enumerate() {
            client.send(sample(size, seed)).await.unwrap();
        }
        drop(client);
    };
    let receiving = async {
        let mut buf = BytesMut::from("before");
        for (seed, size) in sizes.into_iter().enumerate() {
            assert_eq!(server.recv_into(&mut buf).await.unwrap(), Some(size));
            assert_eq!(&buf[..6], b"before");
            assert_eq!(&buf[6..], sample(size, seed));
            buf.truncate(6);
        }
        assert_eq!(server.recv_into(&mut buf).await.unwrap(), None);
        assert_eq!(server.recv_into(&mut buf).await.unwrap(), None);
        assert_eq!(buf, "before");
    };
    within(async { tokio::join!(sending, receiving) }).await;
}

/// Sizes around everything that makes a difference inside, cut into pieces that have nothing to do
/// with them, received in either way.
#[tokio::test]
async fn messages_of_any_sizes_in_pieces_of_any_sizes_arrive_as_they_were_sent() {
    let sizes = [
        0, 1, 1019, 1020, 1021, 4096, 16_380, 16_381, 73_724, 73_725, 147_451, 300_000,
    ];
    let pieces = [1, 3, 4, 5, 1000, 70_000, 400_000];
    for seed in 0..40_usize {
        let (mut raw, mut conn) = hostile_pair(1 << 20).await;
        let pick = |from: &[usize], n: usize| from[(n * n + n * seed + seed / 3) % from.len()];
        let messages: Vec<_> = (0..60)
            // Often some of the same size in a row.
            .map(|n| sample(pick(&sizes, n / (1 + seed % 4)), n))
            .collect();
        let wire: Vec<u8> = messages.iter().flat_map(|it| frame(it)).collect();
        let sending = async {
            let (mut rest, mut n) = (&wire[..], 0);
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(pick(&pieces, n).min(rest.len()));
                raw.write_all(piece).await.unwrap();
                if (n + seed) % 3 == 0 {
                    yield_now().await;
                }
                (rest, n) = (behind, n + 1);
                if n % 64 == 0 {
                    // Long messages in tiny pieces would take for ever.
                    let (piece, behind) = rest.split_at(rest.len() / 4);
                    raw.write_all(piece).await.unwrap();
                    rest = behind;
                }
            }
            drop(raw);
        };
        let receiving = async {
            let mut buf = BytesMut::new();
            for (n, message) in messages.iter().enumerate() {
                if (n + seed) % 5 < 3 {
                    assert_eq!(conn.next().await.unwrap().unwrap(), message, "{seed}");
                } else {
                    assert_eq!(conn.recv_into(&mut buf).await.unwrap(), Some(message.len()));
                    assert_eq!(buf.split(), message, "{seed}");
                }
            }
            assert!(conn.next().await.is_none());
        };
        within(async { tokio::join!(sending, receiving) }).await;
    }
}
