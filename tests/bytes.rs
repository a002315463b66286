//! The layer below messages: plain bytes both ways.

mod common;

use std::io::IoSlice;

use asyncipc::{MessageCodec, PipeClient, PipeConnection, PipeServer, PipeStream, ReuniteError};
use common::{HOLDS, byte_pair, sample, stays_pending, unique_name, within};
use futures::{SinkExt, StreamExt};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, copy_bidirectional,
};

/// Writes `bytes` to one end and expects them at the other.
async fn pass(
    bytes: &[u8],
    from: &mut (impl AsyncWrite + Unpin),
    to: &mut (impl AsyncRead + Unpin),
) {
    let mut received = vec![0; bytes.len()];
    let (written, read) =
        within(async { tokio::join!(from.write_all(bytes), to.read_exact(&mut received)) }).await;
    written.unwrap();
    read.unwrap();
    assert!(received == bytes, "{} bytes came otherwise", bytes.len());
}

#[tokio::test]
async fn ten_mebibytes_pass_both_ways_at_once() {
    let (client, server) = byte_pair().await;
    let (to_server, to_client) = (sample(10 << 20, 1), sample(10 << 20, 2));
    let (mut client_reader, mut client_writer) = client.split();
    let (mut server_reader, mut server_writer) = server.split();
    tokio::join!(
        pass(&to_server, &mut client_writer, &mut server_reader),
        pass(&to_client, &mut server_writer, &mut client_reader),
    );
}

#[tokio::test]
async fn a_read_returns_what_is_there_and_a_later_one_the_rest() {
    let (mut client, mut server) = byte_pair().await;
    client.write_all(b"hello world").await.unwrap();
    let mut part = [0; 5];
    within(server.read_exact(&mut part)).await.unwrap();
    assert_eq!(&part, b"hello");
    let mut rest = [0; 100];
    let n = within(server.read(&mut rest)).await.unwrap();
    assert_eq!(&rest[..n], b" world");
}

#[tokio::test]
async fn reading_or_writing_nothing_is_no_end_and_does_not_wait() {
    let (mut client, mut server) = byte_pair().await;
    assert_eq!(within(server.read(&mut [])).await.unwrap(), 0);
    assert_eq!(within(client.write(&[])).await.unwrap(), 0);
    let nothing = [IoSlice::new(&[]), IoSlice::new(&[])];
    assert_eq!(within(client.write_vectored(&nothing)).await.unwrap(), 0);
    // The reader has not been woken by nothing.
    assert!(stays_pending(&mut Box::pin(server.read(&mut [0; 1]))).await);
    pass(b"something", &mut client, &mut server).await;
    // Also when something is there to be read.
    client.write_all(b"x").await.unwrap();
    assert_eq!(within(server.read(&mut [])).await.unwrap(), 0);
    pass(b"", &mut server, &mut client).await;
    assert_eq!(within(server.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn a_vectored_write_takes_several_buffers_where_the_system_can() {
    let (mut client, mut server) = byte_pair().await;
    assert_eq!(client.is_write_vectored(), cfg!(unix));
    let bufs = [
        IoSlice::new(&[]),
        IoSlice::new(b"one "),
        IoSlice::new(b"two"),
    ];
    let written = within(client.write_vectored(&bufs)).await.unwrap();
    assert_eq!(written, if cfg!(unix) { 7 } else { 4 });
    let mut received = vec![0; written];
    within(server.read_exact(&mut received)).await.unwrap();
    assert_eq!(received, b"one two"[..written]);

    let (_reader, mut writer) = client.split();
    assert_eq!(writer.is_write_vectored(), cfg!(unix));
    assert_eq!(within(writer.write_vectored(&bufs)).await.unwrap(), written);
}

#[tokio::test]
async fn a_cancelled_read_has_read_nothing() {
    let (mut client, mut server) = byte_pair().await;
    for round in 0..50 {
        assert!(stays_pending(&mut Box::pin(server.read(&mut [0; 8]))).await);
        client.write_all(&[round; 8]).await.unwrap();
        // Dropped at whatever point it is: with the bytes there or not yet.
        let mut lost = [0; 8];
        let read = tokio::select! {
            biased;
            n = server.read(&mut lost) => n.unwrap(),
            () = std::future::ready(()) => 0,
        };
        within(server.read_exact(&mut lost[read..])).await.unwrap();
        assert_eq!(lost, [round; 8]);
    }
}

#[tokio::test]
async fn the_end_comes_after_everything_that_was_written_before() {
    for swap in [false, true] {
        let (mut ours, mut theirs) = byte_pair().await;
        if swap {
            std::mem::swap(&mut ours, &mut theirs);
        }
        ours.write_all(&sample(HOLDS, 0)).await.unwrap();
        drop(ours);
        let mut received = vec![];
        within(theirs.read_to_end(&mut received)).await.unwrap();
        assert!(received == sample(HOLDS, 0));
        // It stays the end.
        assert_eq!(within(theirs.read(&mut [0; 8])).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn writing_to_a_peer_that_has_left_is_a_broken_pipe() {
    for swap in [false, true] {
        let (mut ours, mut theirs) = byte_pair().await;
        if swap {
            std::mem::swap(&mut ours, &mut theirs);
        }
        drop(theirs);
        let error = within(async {
            // The first ones may have been taken before the system noticed.
            loop {
                if let Err(error) = ours.write_all(b"anybody there?").await {
                    break error;
                }
            }
        })
        .await;
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
    }
}

/// Shuts `writer` down, and looks at what its peer sees of it.
async fn shut_down(writer: &mut (impl AsyncWrite + Unpin), theirs: &mut PipeStream) {
    writer.write_all(b"last").await.unwrap();
    writer.shutdown().await.unwrap();
    let mut last = [0; 4];
    within(theirs.read_exact(&mut last)).await.unwrap();
    assert_eq!(&last, b"last");
    if cfg!(unix) {
        assert_eq!(within(theirs.read(&mut [0; 8])).await.unwrap(), 0);
        assert!(writer.write_all(b"more").await.is_err());
    } else {
        // A Windows pipe has no end for one direction.
        assert!(stays_pending(&mut Box::pin(theirs.read(&mut [0; 8]))).await);
    }
}

#[tokio::test]
async fn shutting_down_ends_one_direction_where_the_platform_can() {
    for swap in [false, true] {
        let (mut ours, mut theirs) = byte_pair().await;
        if swap {
            std::mem::swap(&mut ours, &mut theirs);
        }
        shut_down(&mut ours, &mut theirs).await;
        pass(b"the other direction goes on", &mut theirs, &mut ours).await;
        drop(ours);
        assert_eq!(within(theirs.read(&mut [0; 8])).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn shutting_down_the_writing_half_does_the_same() {
    let (ours, mut theirs) = byte_pair().await;
    let (mut reader, mut writer) = ours.split();
    shut_down(&mut writer, &mut theirs).await;
    drop(writer);
    pass(b"the other direction goes on", &mut theirs, &mut reader).await;
    drop(reader);
    assert_eq!(within(theirs.read(&mut [0; 8])).await.unwrap(), 0);
}

#[tokio::test]
async fn the_halves_of_a_stream_work_in_two_tasks_and_reunite() {
    let (client, mut server) = byte_pair().await;
    let (mut reader, mut writer) = client.split();
    let writing = tokio::spawn(async move {
        writer.write_all(&sample(1 << 20, 0)).await.unwrap();
        writer
    });
    let reading = tokio::spawn(async move {
        let mut received = vec![0; 1 << 20];
        reader.read_exact(&mut received).await.unwrap();
        assert!(received == sample(1 << 20, 0));
        reader
    });
    within(async {
        let mut buf = vec![0; 10_000];
        let mut echoed = 0;
        while echoed < 1 << 20 {
            let n = server.read(&mut buf).await.unwrap();
            server.write_all(&buf[..n]).await.unwrap();
            echoed += n;
        }
        let (writer, reader) = (writing.await.unwrap(), reading.await.unwrap());
        let mut client = reader.reunite(writer).unwrap();
        pass(b"whole again", &mut client, &mut server).await;
    })
    .await;
}

#[tokio::test]
async fn each_half_knows_its_pipe_and_its_peer() {
    let (client, server) = byte_pair().await;
    let (name, peer) = (server.name().clone(), server.peer().unwrap());
    let (reader, writer) = server.split();
    assert_eq!((reader.name(), writer.name()), (&name, &name));
    assert_eq!(reader.peer().unwrap(), peer);
    drop(reader);
    assert_eq!(writer.peer().unwrap(), peer);
    drop(client);
}

#[tokio::test]
async fn halves_of_different_streams_do_not_reunite_and_are_given_back() {
    let (one, other) = byte_pair().await;
    let (one_reader, one_writer) = one.split();
    let (other_reader, other_writer) = other.split();
    let error = one_reader.reunite(other_writer).unwrap_err();
    assert!(!error.to_string().is_empty());
    let ReuniteError(one_reader, other_writer) = error;
    let mut one = one_reader.reunite(one_writer).unwrap();
    let mut other = other_reader.reunite(other_writer).unwrap();
    pass(b"still fine", &mut one, &mut other).await;
}

#[tokio::test]
async fn a_proxy_copies_both_ways_between_two_pipes() {
    let (mut client, mut proxy_front) = byte_pair().await;
    let (mut proxy_back, mut server) = byte_pair().await;
    let proxy =
        tokio::spawn(async move { copy_bidirectional(&mut proxy_front, &mut proxy_back).await });
    let request = sample(1 << 20, 1);
    pass(&request, &mut client, &mut server).await;
    let mut answer = sample(1 << 20, 2);
    pass(&answer, &mut server, &mut client).await;
    if cfg!(unix) {
        // The end of one direction goes through, and the other one is still open.
        client.shutdown().await.unwrap();
        assert_eq!(within(server.read(&mut [0; 8])).await.unwrap(), 0);
        pass(b"last words", &mut server, &mut client).await;
        answer = [&answer[..], b"last words"].concat().into();
    }
    drop((client, server));
    let (forth, back) = within(proxy).await.unwrap().unwrap();
    assert_eq!((forth, back), (request.len() as u64, answer.len() as u64));
}

#[tokio::test]
async fn it_works_below_a_buffered_reader() {
    let (mut client, server) = byte_pair().await;
    client
        .write_all(b"first line\nsecond line\n")
        .await
        .unwrap();
    drop(client);
    let mut lines = tokio::io::AsyncBufReadExt::lines(BufReader::new(server));
    let mut next = async || within(lines.next_line()).await.unwrap();
    assert_eq!(next().await.as_deref(), Some("first line"));
    assert_eq!(next().await.as_deref(), Some("second line"));
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn a_client_is_counted_until_the_last_of_its_stream_is_dropped() {
    let name = unique_name("counted");
    let mut server = PipeServer::bind(&name).unwrap();
    let mut client = PipeClient::connect(&name).await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    client.send("one".into()).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "one");
    let counts = |server: &PipeServer| {
        let stats = server.stats();
        (
            stats.clients,
            stats.connected,
            stats.traffic.messages_received,
        )
    };
    assert_eq!(counts(&server), (1, 1, 1));

    let mut bytes = within(client.into_stream()).await.unwrap();
    let mut stream = within(accepted.into_stream()).await.unwrap();
    assert_eq!(counts(&server), (1, 1, 1));
    pass(b"bytes are not messages", &mut bytes, &mut stream).await;
    assert_eq!(counts(&server), (1, 1, 1));

    // Messages again: of the same client, and in the same sum.
    let mut client = PipeConnection::new(bytes, MessageCodec::default());
    let mut accepted = PipeConnection::new(stream, MessageCodec::default());
    assert_eq!(counts(&server), (1, 1, 1));
    client.send("two".into()).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "two");
    assert_eq!(accepted.stats().messages_received, 1);
    assert_eq!(counts(&server), (1, 1, 2));

    let stream = within(accepted.into_stream()).await.unwrap();
    let (reader, writer) = stream.split();
    drop(reader);
    assert_eq!(counts(&server), (1, 1, 2));
    drop(writer);
    assert_eq!(counts(&server), (1, 0, 2));
    assert!(within(client.next()).await.is_none());

    let client = PipeClient::connect(&name).await.unwrap();
    let accepted = within(server.accept()).await.unwrap();
    assert_eq!(counts(&server), (2, 1, 2));
    let stream = within(accepted.into_stream()).await.unwrap();
    let closing = within(stream.close());
    assert_eq!(counts(&server), (2, 1, 2));
    closing.await.unwrap();
    assert_eq!(counts(&server), (2, 0, 2));
    drop(client);
}
