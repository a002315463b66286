//! A socket's peer decides what it sends: descriptors and urgent data keep nothing from being read.
#![cfg(unix)]

mod common;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use asyncipc::{PipeConnection, PipeServer};
use bytes::BytesMut;
use common::{skipped, unique_name, within};
use futures::StreamExt;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
use tokio::io::AsyncReadExt;

/// A server's connection, and a peer that is a bare socket.
async fn connected() -> (PipeConnection, UnixStream) {
    let mut server = PipeServer::bind(unique_name("reading")).unwrap();
    let peer = UnixStream::connect(server.name().as_path()).unwrap();
    (within(server.accept()).await.unwrap(), peer)
}

fn frame(message: &str) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message.as_bytes()].concat()
}

/// Sends bytes in one piece, as they are or with a descriptor.
fn say(peer: &UnixStream, bytes: &[u8], descriptor: Option<&OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.iter().map(|it| it.as_fd()).collect();
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    let bytes = [IoSlice::new(bytes)];
    let sent = sendmsg(peer, &bytes, &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes[0].len());
}

/// Some descriptor to send, and what sees the end once nobody has it.
fn descriptor() -> (OwnedFd, std::fs::File) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    (writer, reader.into())
}

/// Sends a byte that is no part of the stream, where the system has such a thing.
fn say_urgently(peer: &UnixStream) -> bool {
    match send(peer, b"!", SendFlags::OOB) {
        Ok(_) => true,
        Err(error) => {
            skipped(format!("no urgent data in sockets of this system: {error}"));
            false
        }
    }
}

async fn next(conn: &mut PipeConnection) -> BytesMut {
    within(conn.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn messages_behind_descriptors_are_handed_out() {
    let (mut conn, peer) = connected().await;
    for round in 0..3 {
        for message in ["with a descriptor", "with another", "without"] {
            let (sent, _end) = descriptor();
            let sent = (message != "without").then_some(&sent);
            say(&peer, &frame(&format!("{round}: {message}")), sent);
        }
        for message in ["with a descriptor", "with another", "without"] {
            assert_eq!(next(&mut conn).await, format!("{round}: {message}"));
        }
    }
}

#[tokio::test]
async fn messages_behind_descriptors_are_received_into_a_buffer() {
    let (mut conn, peer) = connected().await;
    let (sent, _end) = descriptor();
    say(&peer, &frame("one"), Some(&sent));
    say(&peer, &frame("two"), None);
    let mut buf = BytesMut::new();
    for _ in 0..2 {
        assert_eq!(within(conn.recv_into(&mut buf)).await.unwrap(), Some(3));
    }
    assert_eq!(buf, "onetwo");
}

#[tokio::test]
async fn a_large_message_in_pieces_with_descriptors_is_handed_out() {
    let (mut conn, peer) = connected().await;
    let message = "x".repeat(100_000);
    // That messages are this long is known after the first one.
    for _ in 0..3 {
        let (sent, _end) = descriptor();
        let frame = frame(&message);
        let receiving = async { assert_eq!(next(&mut conn).await, message.as_str()) };
        let sending = async {
            for piece in frame.chunks(30_000) {
                say(&peer, piece, Some(&sent));
            }
        };
        tokio::join!(sending, receiving);
    }
}

#[tokio::test]
async fn bytes_behind_descriptors_are_read() {
    let (conn, peer) = connected().await;
    let mut stream = conn.into_stream().await.unwrap();
    let (sent, _end) = descriptor();
    say(&peer, b"one", Some(&sent));
    say(&peer, b"two", None);
    let mut buf = [0; 100];
    for expected in [b"one", b"two"] {
        assert_eq!(within(stream.read(&mut buf)).await.unwrap(), 3);
        assert_eq!(&buf[..3], expected);
    }
}

#[tokio::test]
async fn messages_around_urgent_data_are_handed_out() {
    let (mut conn, peer) = connected().await;
    for round in 0..3 {
        say(&peer, &frame(&format!("{round}: before")), None);
        if !say_urgently(&peer) {
            return;
        }
        say(&peer, &frame(&format!("{round}: behind")), None);
        assert_eq!(next(&mut conn).await, format!("{round}: before"));
        assert_eq!(next(&mut conn).await, format!("{round}: behind"));
    }
}

#[tokio::test]
async fn bytes_around_urgent_data_are_read() {
    let (conn, peer) = connected().await;
    let mut stream = conn.into_stream().await.unwrap();
    say(&peer, b"one", None);
    if !say_urgently(&peer) {
        return;
    }
    say(&peer, b"two", None);
    let mut buf = [0; 100];
    for expected in [b"one", b"two"] {
        assert_eq!(within(stream.read(&mut buf)).await.unwrap(), 3);
        assert_eq!(&buf[..3], expected);
    }
}

#[tokio::test]
async fn the_end_behind_a_descriptor_is_seen() {
    let (mut conn, peer) = connected().await;
    let (sent, _end) = descriptor();
    say(&peer, &frame("bye"), Some(&sent));
    drop(peer);
    assert_eq!(next(&mut conn).await, "bye");
    assert!(within(conn.next()).await.is_none());
}

#[tokio::test]
async fn descriptors_that_a_peer_sends_are_closed() {
    let (mut conn, peer) = connected().await;
    let (sent, end) = descriptor();
    say(&peer, &frame("take this"), Some(&sent));
    drop(sent);
    assert_eq!(next(&mut conn).await, "take this");
    // Would wait for ever if this process had it.
    let mut end = tokio::net::unix::pipe::Receiver::from_file(end).unwrap();
    assert_eq!(within(end.read(&mut [0])).await.unwrap(), 0);
}
