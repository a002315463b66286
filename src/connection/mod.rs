mod closing;
mod core;
mod receiver;
mod sender;
mod shared_sender;
mod spin;
mod stream;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_core::stream::{FusedStream, Stream};
use futures_sink::Sink;

use self::closing::Closing;
use self::core::Shared;
pub use self::receiver::{PipeReceiver, ReuniteError};
pub use self::sender::PipeSender;
use self::shared_sender::QueueRef;
pub use self::shared_sender::SharedSender;
pub(crate) use self::stream::DEFAULT_LINGER;
pub use self::stream::{OwnedReadHalf, OwnedWriteHalf, PipeStream, StreamReuniteError};
use crate::stats::Counters;
use crate::{ConnectionStats, Error, MessageCodec, Peer, PipeName};

/// Connections are numbered within the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A connected pipe as messages: a [`Stream`] of those received and a [`Sink`] of those to send.
///
/// Whatever takes tokio-util's `Framed<_, LengthDelimitedCodec>` takes this in its place: the
/// items are the same ([`BytesMut`] out, [`Bytes`] in), and so is what goes over the wire.
///
/// # Receiving
///
/// `None` is a clean end: the peer closed between two messages. An end inside a message is
/// [`Error::Truncated`], a message above the limit [`Error::MessageTooLarge`]. After an error or
/// the end there is only `None`.
///
/// # Sending
///
/// `send` hands a message to the system at once; `feed` gathers messages, and `flush` hands over
/// all that were gathered. Either waits while the peer does not read: nothing queues up without
/// bound. Messages that were fed and never flushed are lost when the connection is dropped, which
/// is logged as a warning.
///
/// # Ending
///
/// [`close`](PipeConnection::close) waits until the peer has everything. Dropping never waits and
/// never takes back what `send` or `flush` handed over; see [`PipeStream`] for the end of the
/// process.
///
/// # Runtimes
///
/// A connection belongs to one Tokio runtime: at the client's end the one in which it connected, at
/// the server's end the one in which the server was bound, whoever accepts. That runtime has to run
/// while anything waits. When it has ended, whatever would have to wait for the system fails with
/// [`Error::Io`] at once.
///
/// Tasks of other runtimes, which may end earlier, and of other executors can use the connection. If
/// that is a Tokio runtime, it needs `enable_time`: without it, or while that runtime is shutting
/// down, waiting for a deadline panics, as Tokio's own timers do.
///
/// # Cancel safety
///
/// `next` loses nothing when cancelled. A cancelled `send` has sent its message entirely, not at
/// all, or leaves it, or the rest of it, for the next `send` or `flush`. If the connection is
/// dropped before that, the peer may get [`Error::Truncated`].
#[derive(Debug)]
pub struct PipeConnection {
    receiver: PipeReceiver,
    sender: PipeSender,
}

impl PipeConnection {
    /// Speaks messages over a stream of bytes, which may have carried something else before.
    ///
    /// Its [`id`](Self::id) is a new one, and its [`stats`](Self::stats) begin at zero.
    pub fn new(stream: PipeStream, codec: MessageCodec) -> Self {
        let (io, name, linger, buf, place) = stream.into_parts();
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let counters = Arc::new(Counters::default());
        if let Some(place) = &place {
            place.begin(id, counters.clone());
        }
        let shared = Arc::new(Shared {
            io,
            name,
            linger,
            id,
            counters,
            queue: QueueRef::default(),
            closing: Closing::default(),
            place,
        });
        PipeConnection {
            receiver: PipeReceiver::new(shared.clone(), codec, buf),
            sender: PipeSender::new(shared, codec),
        }
    }

    pub(crate) fn from_halves(receiver: PipeReceiver, sender: PipeSender) -> Self {
        PipeConnection { receiver, sender }
    }

    pub(crate) fn with_low_latency(mut self, limit: Duration) -> Self {
        self.receiver.set_low_latency(limit);
        self
    }

    /// A number that no other connection of this process has, for logs.
    pub fn id(&self) -> u64 {
        self.sender.shared.id
    }

    /// The pipe's name: the one that the server listens on.
    pub fn name(&self) -> &PipeName {
        &self.sender.shared.name
    }

    /// Asks the system who is at the other end.
    ///
    /// # Errors
    ///
    /// As [`PipeStream::peer`].
    pub fn peer(&self) -> Result<Peer, Error> {
        self.sender.shared.peer()
    }

    /// How much has gone through so far.
    pub fn stats(&self) -> ConnectionStats {
        self.sender.shared.counters.stats()
    }

    /// Sends what was fed, and ends the connection when the peer has read everything.
    ///
    /// What the peer still sends meanwhile is taken and thrown away: it is not held up, and two
    /// ends that close at once do not wait for each other. After [`Error::MessageTooLarge`], it
    /// is taken only until this end's own messages have been read: so the peer's `close` can say that
    /// not all that it sent was taken. The wait ends at the linger deadline, 5 s unless the builder's
    /// `linger` says otherwise. What `Ok` means on each platform is said at [`PipeStream::close`].
    ///
    /// As a sink, through `SinkExt::close`, a connection that is kept throws nothing away before
    /// receiving has ended: what comes can still be received, and while nobody does, the peer may
    /// have to wait.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the peer left before it had taken everything, [`Error::TimedOut`] at
    /// the deadline.
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the connection.
    pub async fn close(self) -> Result<(), Error> {
        let PipeConnection { receiver, sender } = self;
        drop(receiver);
        sender.close().await
    }

    /// Sends what was fed, and ends this direction only: the peer's stream ends, and it can still
    /// answer. Does not wait until the peer has read anything.
    ///
    /// Where the system has no half-closing, an empty message says it: in a Windows pipe in
    /// message mode, to a peer that takes it so.
    ///
    /// # Errors
    ///
    /// [`Error::ModeMismatch`] for a Windows pipe of bytes, which cannot be closed by half; else
    /// as sending.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, it may have ended the direction or not: call it again.
    pub async fn close_write(&mut self) -> Result<(), Error> {
        self.sender.close_write().await
    }

    /// Receives the next message into a buffer of the caller's: as [`PipeReceiver::recv_into`].
    ///
    /// # Errors
    ///
    /// The same.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing.
    pub async fn recv_into(&mut self, buf: &mut BytesMut) -> Result<Option<usize>, Error> {
        self.receiver.recv_into(buf).await
    }

    /// Splits into two halves that can move to two tasks.
    pub fn split(self) -> (PipeSender, PipeReceiver) {
        (self.sender, self.receiver)
    }

    /// Goes back to bytes: sends what was fed, and gives back the stream, from which what had
    /// been read ahead is read first.
    ///
    /// A server that accepted the connection counts its client as connected until the stream is
    /// dropped, but not the bytes that go through it; see
    /// [`ServerStats`](crate::ServerStats).
    ///
    /// # Errors
    ///
    /// As sending.
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the connection, with what had been read ahead.
    pub async fn into_stream(mut self) -> Result<PipeStream, Error> {
        poll_fn(|cx| self.sender.poll_drain(cx)).await?;
        let shared = self.sender.shared.clone();
        Ok(PipeStream::from_parts((
            shared.io.clone(),
            shared.name.clone(),
            shared.linger,
            self.receiver.into_read_ahead(),
            shared.place.clone(),
        )))
    }
}

impl Stream for PipeConnection {
    type Item = Result<BytesMut, Error>;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.receiver).poll_next(cx)
    }
}

impl FusedStream for PipeConnection {
    fn is_terminated(&self) -> bool {
        self.receiver.is_terminated()
    }
}

impl Sink<Bytes> for PipeConnection {
    type Error = Error;

    #[inline]
    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.sender).poll_ready(cx)
    }

    #[inline]
    fn start_send(mut self: Pin<&mut Self>, message: Bytes) -> Result<(), Error> {
        Pin::new(&mut self.sender).start_send(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.sender).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.sender).poll_close(cx)
    }
}
