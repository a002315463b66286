//! A pipe of messages as a stream of bytes, and bytes by overlapped I/O.

use std::pin::pin;

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{
    ClientBuilder, MessageCodec, PipeClient, PipeConnection, PipeServer, ServerBuilder,
};
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{pair_of, sample, unique_name, within};
use crate::{LARGE, both_ways, collect, ends, messages, poll_once, receive};

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
        // In the other direction, each write is a message.
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

/// Which ends of a pipe of bytes use this crate's overlapped I/O.
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
            let (mut read, mut write) = stream.split();
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
