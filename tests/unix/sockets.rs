//! Plain sockets at the other end, descriptors, and writing.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::pin;

use asyncipc::{PipeClient, PipeConnection, PipeServer};
use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::{itself, pair, place, role, run_as, sample, within};

#[tokio::test]
async fn a_plain_socket_client_speaks_four_bytes_of_length_and_the_message() {
    let (_folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    let plain = tokio::task::spawn_blocking(move || {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"\0\0\0\x05hello\0\0\0\0").unwrap();
        client.write_all(b"\0\x01\0\0").unwrap();
        client.write_all(&vec![7; 65536]).unwrap();
        let mut answer = [0; 9];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"\0\0\0\x05world");
        assert_eq!(client.read(&mut answer).unwrap(), 0);
    });
    let mut accepted = within(server.accept()).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hello");
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "");
    assert!(within(accepted.next()).await.unwrap().unwrap() == vec![7; 65536]);
    accepted.send(Bytes::from_static(b"world")).await.unwrap();
    drop(accepted);
    within(plain).await.unwrap();
}

#[tokio::test]
async fn a_client_speaks_to_a_plain_socket_server() {
    let (_folder, path) = place();
    let listener = UnixListener::bind(&path).unwrap();
    let plain = tokio::task::spawn_blocking(move || {
        let (mut server, _) = listener.accept().unwrap();
        let mut said = [0; 9];
        server.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"\0\0\0\x05hello");
        server.write_all(b"\0\0\0\x05world").unwrap();
    });
    let mut client = within(PipeClient::connect(&path)).await.unwrap();
    client.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "world");
    assert!(within(client.next()).await.is_none());
    within(plain).await.unwrap();
}

#[tokio::test]
async fn a_stream_lends_its_descriptor() {
    use std::os::fd::{AsFd, AsRawFd};
    let (_folder, path) = place();
    let _server = PipeServer::bind(&path).unwrap();
    let stream = PipeClient::builder(&path).connect_bytes().await.unwrap();
    assert_eq!(stream.as_fd().as_raw_fd(), stream.as_raw_fd());
    let socket = UnixStream::from(stream.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(socket.peer_addr().unwrap().as_pathname(), Some(&*path));
}

/// More connections than are watched for writing from the start, unless there are very many
/// processors. Each has a client's end and a server's.
async fn hundred_pairs() -> Vec<(PipeConnection, PipeConnection)> {
    let mut pairs = Vec::new();
    for _ in 0..100 {
        pairs.push(pair().await);
    }
    pairs
}

/// Sends more than the system keeps, to an end that begins to read when the sender has to wait.
async fn fill_and_read(mut from: PipeConnection, mut to: PipeConnection) {
    for size in [100_000, 3 << 20, 5, 1 << 20] {
        let message = sample(size, size);
        let mut sending = pin!(from.send(message.clone()));
        if size > 1 << 20 {
            assert!(sending.as_mut().now_or_never().is_none(), "it took it all");
        }
        let (sent, received) = within(async { tokio::join!(sending, to.next()) }).await;
        sent.unwrap();
        assert_eq!(received.unwrap().unwrap(), message);
    }
}

#[tokio::test]
async fn a_write_waits_for_its_peer_in_the_first_connection_and_in_the_hundredth() {
    let mut pairs = hundred_pairs().await;
    for (client, server) in [pairs.remove(0), pairs.pop().unwrap()] {
        fill_and_read(client, server).await;
    }
}

#[tokio::test]
async fn a_write_waits_for_its_peer_when_no_descriptor_is_left() {
    let test = "sockets::a_write_waits_for_its_peer_when_no_descriptor_is_left";
    if role().is_none() {
        return run_as("process", &mut itself(test));
    }
    let mut pairs = hundred_pairs().await;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(3),
            ..limit
        },
    )
    .unwrap();
    fs::File::open("/").unwrap_err();
    let (client, server) = pairs.pop().unwrap();
    fill_and_read(client, server).await;
}

#[tokio::test]
async fn a_writer_that_never_waits_lets_other_tasks_run() {
    let (mut client, _server) = pair().await;
    let other = tokio::spawn(async {});
    for _ in 0..200 {
        // The system keeps this many.
        client.send(Bytes::from_static(b"more")).await.unwrap();
    }
    assert!(other.is_finished());
}
