//! Connections: one end of a pipe as a byte stream, and messages on top of it.

mod closing;
mod core;
mod options;
mod pipe_end;
mod receiver;
mod reunite;
mod sender;
mod shared_sender;
mod spin;
mod stream;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_core::stream::{FusedStream, Stream};
use futures_sink::Sink;

use self::core::Core;
pub(crate) use self::options::{ConnectionOptions, connection_setters};
use self::pipe_end::PipeEnd;
pub use self::receiver::PipeReceiver;
pub use self::reunite::ReuniteError;
pub use self::sender::PipeSender;
pub use self::shared_sender::SharedSender;
pub use self::stream::{OwnedReadHalf, OwnedWriteHalf, PipeStream};
use crate::{ConnectionId, ConnectionStats, Error, MessageCodec, Peer, PipeName};

/// A connected pipe that carries messages: a [`Stream`] of received ones and a [`Sink`] for sending.
///
/// It can replace tokio-util's `Framed<_, LengthDelimitedCodec>`: the items ([`BytesMut`] out, [`Bytes`]
/// in) and the bytes on the wire are the same.
///
/// # Receiving
///
/// `None` is a clean end: the peer closed between two messages. An end inside a message is
/// [`Error::Truncated`]; a message above the limit is [`Error::MessageTooLarge`]. After an error or the
/// end, there is only `None`.
///
/// # Sending
///
/// `send` hands a message to the system at once. `feed` gathers messages, and `flush` hands over all
/// gathered ones. Both wait while the peer does not read, so nothing queues up without bound. Messages
/// that were fed but never flushed are lost when the connection is dropped; a warning is logged.
///
/// # Ending
///
/// [`close`](PipeConnection::close) waits until the peer has everything. Dropping never waits and never
/// takes back what `send` or `flush` handed over. [`PipeStream`] says what happens when the process
/// ends.
///
/// # Runtimes
///
/// A connection belongs to one Tokio runtime. For a client's end, that is the runtime in which it
/// connected; for a server's end, the one in which the server was bound, whoever accepts. That runtime
/// must run while anything waits. After it has ended, any call that would have to wait for the system
/// fails with [`Error::Io`] at once.
///
/// Tasks of other runtimes, which may end earlier, and of other executors can use the connection.
/// Another Tokio runtime needs `enable_time`: without it, or while that runtime is shutting down,
/// waiting for a deadline panics, as Tokio's own timers do.
///
/// # Cancel safety
///
/// `next` loses nothing when cancelled. A cancelled `send` has sent its message entirely or not at all,
/// or leaves it (or the rest of it) for the next `send` or `flush`. If the connection is dropped before
/// that, the peer may get [`Error::Truncated`].
#[derive(Debug)]
pub struct PipeConnection {
    receiver: PipeReceiver,
    sender: PipeSender,
}

impl PipeConnection {
    /// Sends and receives messages over a byte stream that may have carried something else before.
    ///
    /// It gets a new [`id`](Self::id), and its [`stats`](Self::stats) begin at zero.
    pub fn new(stream: PipeStream, codec: MessageCodec) -> Self {
        let (end, read_ahead) = stream.into_parts();
        let core = Arc::new(Core::new(end, ConnectionId::next()));
        PipeConnection {
            receiver: PipeReceiver::new(core.clone(), codec, read_ahead),
            sender: PipeSender::new(core, codec),
        }
    }

    /// A number that no other connection of this process has, for logs.
    pub fn id(&self) -> ConnectionId {
        self.sender.core.id
    }

    /// The pipe's name: the one that the server listens on.
    pub fn name(&self) -> &PipeName {
        &self.sender.core.name
    }

    /// Asks the system who is at the other end.
    ///
    /// # Errors
    ///
    /// As [`PipeStream::peer`].
    pub fn peer(&self) -> Result<Peer, Error> {
        self.sender.core.peer()
    }

    /// Whether nothing more can be sent: the peer has closed the connection, this end was closed, or
    /// writing has failed. Asks the system, and does not consume received messages.
    ///
    /// Messages that the peer sent before it closed can still be received. A peer that has only ended
    /// its direction counts as present. Under Wine, so does a closed peer with messages left to be
    /// received.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// How much has been transferred so far.
    pub fn stats(&self) -> ConnectionStats {
        self.sender.core.counters.stats()
    }

    /// Sends the fed messages, waits until the peer has read everything, and ends the connection.
    ///
    /// Meanwhile, this end reads and discards what the peer still sends. So the peer is not held up, and
    /// two ends that close at once do not wait for each other. After [`Error::MessageTooLarge`], it
    /// discards only until the peer has read this end's messages, so that the peer's `close` can report
    /// that not everything was taken. The wait ends at the linger deadline: 5 s, unless the builder's
    /// `linger` says otherwise. [`PipeStream::close`] says what `Ok` means on each platform.
    ///
    /// `SinkExt::close` keeps the connection, and discards nothing before receiving has ended: what
    /// arrives can still be received. While nobody receives, the peer may have to wait.
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

    /// Sends the fed messages, and ends this direction only: the peer's stream ends, and it can still
    /// answer. Does not wait for the peer to read.
    ///
    /// Where the system has no half-close, an empty message marks the end: in a Windows pipe in message
    /// mode, for a peer that understands it.
    ///
    /// # Errors
    ///
    /// [`Error::ModeMismatch`] for a Windows byte pipe, which has no half-close; otherwise as for
    /// sending.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have ended the direction: call it again.
    pub async fn close_write(&mut self) -> Result<(), Error> {
        self.sender.close_write().await
    }

    /// Receives the next message into the caller's buffer, as [`PipeReceiver::recv_into`] does.
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

    /// Splits into two halves that can move to two tasks. [`PipeReceiver::reunite`] puts them together
    /// again.
    pub fn split(self) -> (PipeSender, PipeReceiver) {
        (self.sender, self.receiver)
    }

    /// Turns the connection back into a byte stream, after sending the fed messages. Reading from the
    /// stream first yields what had been read ahead.
    ///
    /// A server that accepted the connection counts its client as connected until the stream is dropped,
    /// but does not count the stream's bytes; see [`ServerStats`](crate::ServerStats).
    ///
    /// # Errors
    ///
    /// As for sending.
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the connection and what had been read ahead.
    pub async fn into_stream(mut self) -> Result<PipeStream, Error> {
        poll_fn(|cx| self.sender.poll_drain(cx)).await?;
        let end = self.sender.core.end().clone();
        Ok(PipeStream::from_parts(end, self.receiver.into_read_ahead()))
    }
}

impl PipeReceiver {
    /// Puts the two halves of one connection together again.
    ///
    /// # Errors
    ///
    /// Gives both back if they belong to different connections.
    #[allow(clippy::result_large_err, reason = "the error gives both halves back")]
    pub fn reunite(
        self,
        sender: PipeSender,
    ) -> Result<PipeConnection, ReuniteError<PipeReceiver, PipeSender>> {
        if Arc::ptr_eq(&self.core, &sender.core) {
            Ok(PipeConnection {
                receiver: self,
                sender,
            })
        } else {
            Err(ReuniteError(self, sender))
        }
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
