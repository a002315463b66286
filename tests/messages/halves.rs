//! A connection in two halves, and as a stream of bytes.

use asyncipc::{MessageCodec, PipeConnection};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{byte_pair, pair, sample, within};
use crate::{frame, hostile_pair};

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
    let (reader, writer) = stream.split();
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
