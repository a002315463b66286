//! Messages between one client and one server.

mod common;

use std::fmt::Debug;
use std::future::IntoFuture;
use std::time::Duration;

use asyncipc::{Error, MessageCodec, PipeClient, PipeConnection, PipeServer, PipeStream};
use bytes::{Bytes, BytesMut};
use common::{PATIENCE, byte_pair, pair, pair_of, sample, stays_pending, unique_name, within};
use futures::stream::FusedStream;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// What a message looks like on the wire, written down once more.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// One end that sends whatever bytes a test likes, and one that expects messages.
async fn hostile_pair(max: usize) -> (PipeStream, PipeConnection) {
    let (raw, stream) = byte_pair().await;
    (raw, PipeConnection::new(stream, MessageCodec::new(max)))
}

#[tokio::test]
async fn every_size_comes_back_intact() {
    let name = unique_name("sizes");
    let server = PipeServer::bind(&name).unwrap();
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
    assert_eq!((received, expected), (10, 4 + u32::MAX as usize));
}

#[tokio::test]
async fn an_end_inside_a_message_is_told_from_a_clean_end() {
    let whole = frame(b"whole");
    // How many bytes of the last frame come, and how many are then known to be expected.
    for (cut, expected) in [
        (0, None),
        (1, Some(4)),
        (3, Some(4)),
        (4, Some(9)),
        (8, Some(9)),
    ] {
        let (mut raw, mut conn) = hostile_pair(100).await;
        raw.write_all(&whole).await.unwrap();
        raw.write_all(&whole[..cut]).await.unwrap();
        drop(raw);
        assert_eq!(within(conn.next()).await.unwrap().unwrap(), "whole");
        let end = within(conn.next()).await;
        match expected {
            None => assert!(end.is_none(), "{end:?}"),
            Some(expected) => assert!(
                matches!(
                    end,
                    Some(Err(Error::Truncated { received, expected: e, .. }))
                        if received == cut && e == expected
                ),
                "{cut}: {end:?}"
            ),
        }
        assert!(conn.is_terminated());
        for _ in 0..3 {
            assert!(within(conn.next()).await.is_none());
        }
    }
}

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

#[tokio::test]
async fn the_halves_work_in_two_tasks_and_reunite() {
    let (client, mut server) = pair().await;
    let (mut sender, mut receiver) = client.split();
    assert_eq!(sender.id(), receiver.id());
    let sending = tokio::spawn(async move {
        for n in 0..100 {
            sender.send(sample(n * 100, n)).await.unwrap();
        }
        sender
    });
    let receiving = tokio::spawn(async move {
        for n in 0..100 {
            assert_eq!(receiver.next().await.unwrap().unwrap(), sample(n * 100, n));
        }
        receiver
    });
    within(async {
        for _ in 0..100 {
            let message = server.next().await.unwrap().unwrap();
            server.send(message.freeze()).await.unwrap();
        }
        let (sender, receiver) = (sending.await.unwrap(), receiving.await.unwrap());
        let mut client = receiver.reunite(sender).unwrap();
        client.send("whole again".into()).await.unwrap();
        assert_eq!(server.next().await.unwrap().unwrap(), "whole again");
    })
    .await;
}

#[tokio::test]
async fn strangers_do_not_reunite_and_are_given_back() {
    let (one, other) = pair().await;
    let ids = (one.id(), other.id());
    assert_ne!(ids.0, ids.1);
    let (sender, own_receiver) = one.split();
    let (own_sender, receiver) = other.split();
    let error = receiver.reunite(sender).unwrap_err();
    assert!(!error.to_string().is_empty());
    let asyncipc::ReuniteError(receiver, sender) = error;
    assert_eq!((sender.id(), receiver.id()), ids);
    let mut one = own_receiver.reunite(sender).unwrap();
    let mut other = receiver.reunite(own_sender).unwrap();
    one.send("still fine".into()).await.unwrap();
    assert_eq!(within(other.next()).await.unwrap().unwrap(), "still fine");
}

#[tokio::test]
async fn going_back_to_bytes_keeps_what_was_read_ahead_and_sends_what_was_fed() {
    let (mut raw, mut conn) = hostile_pair(100).await;
    let mut bytes = frame(b"a message");
    bytes.extend_from_slice(b"then ");
    // In one write, so that the bytes behind the message are read with it.
    raw.write_all(&bytes).await.unwrap();
    assert_eq!(within(conn.next()).await.unwrap().unwrap(), "a message");
    conn.feed("an answer".into()).await.unwrap();
    let mut stream = within(conn.into_stream()).await.unwrap();

    raw.write_all(b"bytes").await.unwrap();
    let mut received = [0; 10];
    within(stream.read_exact(&mut received)).await.unwrap();
    assert_eq!(&received, b"then bytes");
    let mut answer = [0; 13];
    within(raw.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[..], frame(b"an answer"));
}

#[tokio::test]
async fn messages_survive_the_way_to_bytes_and_back() {
    let (mut raw, mut conn) = hostile_pair(100).await;
    let wire = [frame(b"one"), frame(b"two"), frame(b"three")].concat();
    raw.write_all(&wire[..wire.len() - 2]).await.unwrap();
    assert_eq!(within(conn.next()).await.unwrap().unwrap(), "one");
    let stream = within(conn.into_stream()).await.unwrap();
    // The halves of the stream keep them as well.
    let (reader, writer) = stream.into_split();
    let stream = reader.reunite(writer).unwrap();
    let mut conn = PipeConnection::new(stream, MessageCodec::default());
    assert_eq!(within(conn.next()).await.unwrap().unwrap(), "two");
    raw.write_all(&wire[wire.len() - 2..]).await.unwrap();
    assert_eq!(within(conn.next()).await.unwrap().unwrap(), "three");
}

#[tokio::test]
async fn messages_can_follow_a_handshake_in_bytes() {
    let (mut client, mut server) = byte_pair().await;
    client.write_all(b"HELLO 1\n").await.unwrap();
    let mut hello = [0; 8];
    within(server.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"HELLO 1\n");
    let mut client = PipeConnection::new(client, MessageCodec::default());
    let mut server = PipeConnection::new(server, MessageCodec::default());
    server.send("welcome".into()).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "welcome");
}

/// Sends messages of many sizes from `$from` to `$to`.
macro_rules! pass_messages {
    ($from:expr, $to:expr) => {
        let sizes = [0, 1, 5, 4096, 65_536, 1 << 20];
        let sending = async {
            for size in sizes {
                $from.send(sample(size, size)).await.unwrap();
            }
        };
        let receiving = async {
            for size in sizes {
                let message = $to.next().await.unwrap().unwrap();
                assert!(message == sample(size, size), "{size} bytes came otherwise");
            }
        };
        within(async { tokio::join!(sending, receiving) }).await;
    };
}

#[tokio::test]
async fn the_other_end_can_be_a_framed_stream_with_length_delimited_codec() {
    let (client, server) = byte_pair().await;
    let mut framed = Framed::new(client, LengthDelimitedCodec::new());
    let mut conn = PipeConnection::new(server, MessageCodec::default());
    pass_messages!(framed, conn);
    pass_messages!(conn, framed);
    drop(conn);
    assert!(within(framed.next()).await.is_none());

    let (client, server) = byte_pair().await;
    let mut conn = PipeConnection::new(client, MessageCodec::default());
    let mut framed = Framed::new(server, LengthDelimitedCodec::new());
    pass_messages!(framed, conn);
    pass_messages!(conn, framed);
    drop(framed);
    assert!(within(conn.next()).await.is_none());
}

#[tokio::test]
async fn the_codec_works_in_a_framed_stream() {
    let (client, server) = byte_pair().await;
    let mut framed = Framed::new(client, MessageCodec::new(1 << 20));
    let mut conn = PipeConnection::new(server, MessageCodec::default());
    pass_messages!(framed, conn);
    pass_messages!(conn, framed);
    let refused = framed.send(sample((1 << 20) + 1, 0)).await;
    assert!(
        matches!(refused, Err(Error::MessageTooLarge { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn every_message_is_counted_where_it_was_sent_and_received() {
    let name = unique_name("stats");
    let mut server = PipeServer::bind(&name).unwrap();
    let connect = PipeClient::connect(&name);
    let (client, accepted) = within(async { tokio::join!(connect, server.accept()) }).await;
    let (mut client, mut accepted) = (client.unwrap(), accepted.unwrap());
    for size in [0, 10, 5000] {
        client.send(sample(size, 0)).await.unwrap();
        within(accepted.next()).await.unwrap().unwrap();
    }
    accepted.send(sample(7, 0)).await.unwrap();
    within(client.next()).await.unwrap().unwrap();

    let seen = client.stats();
    assert_eq!((seen.messages_sent, seen.bytes_sent), (3, 5010));
    assert_eq!((seen.messages_received, seen.bytes_received), (1, 7));
    let seen = accepted.stats();
    assert_eq!((seen.messages_received, seen.bytes_received), (3, 5010));
    assert_eq!((seen.messages_sent, seen.bytes_sent), (1, 7));
    let live = server.stats();
    assert_eq!((live.clients, live.connected, live.traffic), (1, 1, seen));
    drop(accepted);
    let ended = server.stats();
    assert_eq!(
        (ended.clients, ended.connected, ended.traffic),
        (1, 0, seen)
    );
}

/// Checked by the compiler.
#[test]
fn what_is_public_can_be_sent_debugged_and_moved() {
    fn shared<T: Send + Sync + Debug + Unpin + 'static>() {}
    shared::<PipeConnection>();
    shared::<asyncipc::PipeSender>();
    shared::<PipeServer>();
    shared::<asyncipc::PipeListener>();
    shared::<asyncipc::ReuniteError>();
    shared::<PipeStream>();
    shared::<asyncipc::OwnedReadHalf>();
    shared::<asyncipc::OwnedWriteHalf>();
    shared::<asyncipc::StreamReuniteError>();
    shared::<asyncipc::PipeReceiver>();
    shared::<asyncipc::PipeName>();
    shared::<asyncipc::InvalidName>();
    shared::<Error>();
    shared::<MessageCodec>();
    shared::<PipeClient>();
    shared::<asyncipc::ClientBuilder>();
    shared::<asyncipc::ServerBuilder>();
    shared::<asyncipc::ShutdownHandle>();
    shared::<asyncipc::Peer>();
    shared::<asyncipc::ConnectionStats>();
    shared::<asyncipc::ServerStats>();

    fn future<T: Send>(_: T) {}
    #[expect(dead_code, reason = "only compiled")]
    fn futures(mut server: PipeServer, mut conn: PipeConnection, stream: PipeStream) {
        future(server.accept());
        future(conn.next());
        future(conn.send(Bytes::new()));
        future(conn.into_stream());
        future(stream.close());
        future(PipeClient::connect("name"));
        future(server.serve(|_| async { Ok(()) }).into_future());
    }
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

#[tokio::test]
async fn a_connection_that_waits_busily_lets_other_tasks_run_and_sleeps_when_its_time_is_over() {
    for limit in [PATIENCE, Duration::from_micros(20)] {
        let name = unique_name("busy");
        let server = PipeServer::builder(&name).low_latency(limit);
        let client = PipeClient::builder(&name).low_latency(limit);
        let (mut client, server) = pair_of(&server, &client).await;
        let (mut sender, mut receiver) = server.split();
        let echoing = tokio::spawn(async move {
            while let Some(message) = receiver.next().await {
                sender.send(message.unwrap().freeze()).await.unwrap();
            }
        });
        for size in [64, 4096, 300_000, 0, 1] {
            let message = sample(size, size);
            within(async {
                assert!(stays_pending(&mut client.next()).await);
                client.send(message.clone()).await.unwrap();
            })
            .await;
            assert_eq!(within(client.next()).await.unwrap().unwrap(), message);
        }
        drop(client);
        within(echoing).await.unwrap();
    }
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
