//! What a connection is to other code: a codec, a stream, a sink, and its numbers.

use std::fmt::Debug;
use std::time::Duration;

use asyncipc::{Error, MessageCodec, PipeClient, PipeConnection, PipeServer, PipeStream};
use bytes::Bytes;
use futures::stream::FusedStream;
use futures::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::common::{PATIENCE, byte_pair, pair_of, sample, stays_pending, unique_name, within};
use crate::{frame, hostile_pair};

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
                        if received == cut && e == Some(expected)
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
    shared::<asyncipc::ReuniteError<asyncipc::PipeReceiver, asyncipc::PipeSender>>();
    shared::<PipeStream>();
    shared::<asyncipc::OwnedReadHalf>();
    shared::<asyncipc::OwnedWriteHalf>();
    shared::<asyncipc::ReuniteError<asyncipc::OwnedReadHalf, asyncipc::OwnedWriteHalf>>();
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
        future(server.serve(|_| async { Ok(()) }));
    }
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
