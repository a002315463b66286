use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_core::stream::{FusedStream, Stream};
use futures_sink::Sink;
use tokio::task::coop::consume_budget;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::ReusableBoxFuture;

use crate::codec::{HEADER, Progress};
use crate::stats::{Counters, Totals};
use crate::stream::unread;
use crate::sys::Received;
use crate::{ConnectionStats, Error, MessageCodec, Peer, PipeName, PipeStream, sys};

/// What is read at a time while messages are small.
const READ: usize = 64 << 10;

/// Messages up to this size are copied out of the read buffer: keeping one then keeps only its
/// own bytes, and not the buffer that it came in.
const COPY_OUT: usize = READ / 4;

/// Messages up to this size are copied into the batch that goes out in one write; longer ones go
/// out from where they are.
const COPY_IN: usize = 4 << 10;

/// When this much waits to go out, it does, before more is taken.
const HIGH_WATER: usize = 64 << 10;

/// The capacity that an idle sender may keep.
const KEPT: usize = 1 << 10;

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

/// What both halves have in common.
#[derive(Debug)]
struct Shared {
    io: Arc<sys::Stream>,
    name: PipeName,
    linger: Duration,
    id: u64,
    counters: Arc<Counters>,
    /// The server's count, for connections that a server accepted.
    totals: Option<Totals>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(totals) = &self.totals {
            totals.remove(self.id);
        }
    }
}

impl PipeConnection {
    /// Speaks messages over a stream of bytes, which may have carried something else before.
    pub fn new(stream: PipeStream, codec: MessageCodec) -> Self {
        Self::counted(stream, codec, None)
    }

    pub(crate) fn counted(stream: PipeStream, codec: MessageCodec, totals: Option<Totals>) -> Self {
        let (io, name, linger, buf) = stream.into_parts();
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let counters = Arc::new(Counters::default());
        if let Some(totals) = &totals {
            totals.add(id, counters.clone());
        }
        let shared = Arc::new(Shared {
            io,
            name,
            linger,
            id,
            counters,
            totals,
        });
        PipeConnection {
            receiver: PipeReceiver {
                shared: shared.clone(),
                codec,
                buf,
                ended: false,
            },
            sender: PipeSender {
                shared,
                codec,
                batch: Batch::default(),
                state: SendState::Open,
                linger: None,
            },
        }
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
    /// What the peer still sends is not read: two ends that close at once, each with messages
    /// unread, wait for each other until the deadline, unless one reads to the end first. The wait ends at the linger deadline, 5 s unless the
    /// builder's `linger` says otherwise. What `Ok` means on each platform is said at
    /// [`PipeStream::close`].
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the peer left without reading everything, [`Error::TimedOut`] at the
    /// deadline.
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the connection.
    pub async fn close(self) -> Result<(), Error> {
        self.sender.close().await
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

    /// Splits into two halves that can move to two tasks.
    pub fn split(self) -> (PipeSender, PipeReceiver) {
        (self.sender, self.receiver)
    }

    /// Goes back to bytes: sends what was fed, and gives back the stream, from which what had
    /// been read ahead is read first.
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
        let PipeReceiver { shared, buf, .. } = self.receiver;
        Ok(PipeStream::from_parts(
            shared.io.clone(),
            shared.name.clone(),
            shared.linger,
            buf,
        ))
    }
}

impl Shared {
    fn peer(&self) -> Result<Peer, Error> {
        self.io
            .peer()
            .map_err(|e| Error::from_io("cannot tell the peer of", &self.name, e))
    }

    fn failed_read(&self, error: io::Error) -> Error {
        Error::from_io("cannot read from", &self.name, error)
    }

    fn closed(&self) -> Error {
        Error::Closed {
            pipe: self.name.clone(),
        }
    }
}

/// The half of a [`PipeConnection`] that receives.
pub struct PipeReceiver {
    shared: Arc<Shared>,
    codec: MessageCodec,
    /// What was read and not handed out yet. Stays empty where the system keeps messages apart.
    buf: BytesMut,
    ended: bool,
}

impl PipeReceiver {
    /// The connection's number, as [`PipeConnection::id`].
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// The pipe's name, as [`PipeConnection::name`].
    pub fn name(&self) -> &PipeName {
        &self.shared.name
    }

    /// Asks the system who is at the other end, as [`PipeConnection::peer`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn peer(&self) -> Result<Peer, Error> {
        self.shared.peer()
    }

    /// How much has gone through both halves so far.
    pub fn stats(&self) -> ConnectionStats {
        self.shared.counters.stats()
    }

    /// Puts the two halves of one connection together again.
    ///
    /// # Errors
    ///
    /// Gives both back when they are of different connections.
    #[allow(clippy::result_large_err, reason = "the error gives both halves back")]
    pub fn reunite(self, sender: PipeSender) -> Result<PipeConnection, ReuniteError> {
        if Arc::ptr_eq(&self.shared, &sender.shared) {
            Ok(PipeConnection {
                receiver: self,
                sender,
            })
        } else {
            Err(ReuniteError(self, sender))
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BytesMut>, Error>> {
        match self.shared.io.messages() {
            Some(messages) => self.poll_native(cx, messages),
            None => self.poll_frame(cx),
        }
    }

    /// The next message that the system has kept apart.
    fn poll_native(
        &self,
        cx: &mut Context<'_>,
        messages: &sys::Messages,
    ) -> Poll<Result<Option<BytesMut>, Error>> {
        let max = self.codec.max_message_size();
        let received =
            ready!(messages.poll_recv(cx, max)).map_err(|e| self.shared.failed_read(e))?;
        Poll::Ready(match received {
            Received::Message(message) => {
                self.shared.counters.received(message.len());
                Ok(Some(message))
            }
            Received::TooLarge(size) => Err(Error::MessageTooLarge { size, max }),
            // How much was to come is not known any more.
            Received::Truncated(received) => Err(Error::Truncated {
                received,
                expected: received + 1,
            }),
            Received::End => Ok(None),
        })
    }

    /// The next message, each with its length in front.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BytesMut>, Error>> {
        loop {
            let needs = match self.codec.progress(&self.buf)? {
                Progress::Complete(len) => {
                    self.shared.counters.received(len);
                    return Poll::Ready(Ok(Some(self.take_message(len))));
                }
                Progress::Needs(needs) => needs,
            };
            match self.poll_fill(cx, needs - self.buf.len()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) if self.buf.is_empty() => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(0)) => {
                    let received = self.buf.len();
                    return Poll::Ready(Err(Error::Truncated {
                        received,
                        expected: needs,
                    }));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(self.shared.failed_read(e))),
            }
        }
    }

    /// Takes a message whose header and `len` bytes of payload are at the front.
    fn take_message(&mut self, len: usize) -> BytesMut {
        self.buf.advance(HEADER);
        if len > COPY_OUT {
            return self.buf.split_to(len);
        }
        let message = BytesMut::from(&self.buf[..len]);
        self.buf.advance(len);
        message
    }

    /// Reads once, towards the `missing` bytes. `Ok(0)` is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, missing: usize) -> Poll<io::Result<usize>> {
        loop {
            if self.shared.io.poll_read_ready(cx)?.is_pending() {
                if self.buf.is_empty() {
                    // An idle connection keeps no memory.
                    self.buf = BytesMut::new();
                }
                return Poll::Pending;
            }
            self.make_room(missing);
            match self.shared.io.try_read(&mut self.buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                result => return Poll::Ready(result),
            }
        }
    }

    /// Makes room to read into: a peer gets memory for what it has sent, not for what it
    /// announces.
    fn make_room(&mut self, missing: usize) {
        let (len, spare) = (self.buf.len(), self.buf.capacity() - self.buf.len());
        if len < READ {
            // Small messages: many in one read, so no reads into the last corner of the buffer.
            if spare < missing.clamp(READ / 4, READ) {
                self.buf.reserve(READ - len);
            }
        } else if spare == 0 {
            // The rest of a large one: as much again as has come, and not past its end.
            self.buf.reserve(missing.min(len));
        }
    }
}

impl Stream for PipeReceiver {
    type Item = Result<BytesMut, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        // However fast the peer is, other tasks of the runtime run now and then.
        ready!(pin!(consume_budget()).poll(cx));
        let message = ready!(this.poll_message(cx)).transpose();
        if !matches!(message, Some(Ok(_))) {
            this.ended = true;
            this.buf = BytesMut::new();
        }
        Poll::Ready(message)
    }
}

impl FusedStream for PipeReceiver {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl fmt::Debug for PipeReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeReceiver")
            .field("id", &self.shared.id)
            .field("name", &self.shared.name)
            .field("read_ahead", &self.buf.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// The half of a [`PipeConnection`] that sends.
///
/// Dropping it alone tells the peer nothing: the connection ends when both halves are gone. Use
/// [`close`](PipeSender::close) to end this direction where the platform can.
pub struct PipeSender {
    shared: Arc<Shared>,
    codec: MessageCodec,
    batch: Batch,
    state: SendState,
    /// Runs from the first attempt to close on.
    linger: Option<Pin<Box<Sleep>>>,
}

enum SendState {
    Open,
    /// This direction was ended; the peer may not have read everything yet.
    Ended,
    /// Everything is with the system; waiting for the peer to read it.
    Closing(ReusableBoxFuture<'static, io::Result<()>>),
    /// The peer has everything.
    Closed,
    /// Something was lost.
    Failed,
}

impl PipeSender {
    /// The connection's number, as [`PipeConnection::id`].
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// The pipe's name, as [`PipeConnection::name`].
    pub fn name(&self) -> &PipeName {
        &self.shared.name
    }

    /// Asks the system who is at the other end, as [`PipeConnection::peer`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn peer(&self) -> Result<Peer, Error> {
        self.shared.peer()
    }

    /// How much has gone through both halves so far.
    pub fn stats(&self) -> ConnectionStats {
        self.shared.counters.stats()
    }

    /// Sends what was fed, and ends this direction when the peer has read everything.
    ///
    /// On Unix the peer sees the end of the stream at once. A Windows pipe has no end for one
    /// direction: there the peer sees it when the receiver is dropped as well.
    ///
    /// # Errors
    ///
    /// As [`PipeConnection::close`].
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the sender.
    pub async fn close(mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_close(cx)).await
    }

    /// As [`PipeConnection::close_write`].
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn close_write(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_drain(cx)).await?;
        if let Some(messages) = self.shared.io.messages() {
            messages.start_send(Bytes::new());
            poll_fn(|cx| self.poll_drain(cx)).await?;
        } else if self.shared.io.can_shutdown() {
            let failed = |e| Error::from_io("cannot close", &self.shared.name, e);
            self.shared.io.shutdown().map_err(failed)?;
        } else {
            return Err(Error::ModeMismatch {
                pipe: self.shared.name.clone(),
            });
        }
        self.state = SendState::Ended;
        Ok(())
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let linger = self.shared.linger;
        let deadline = self.linger.get_or_insert_with(|| Box::pin(sleep(linger)));
        let passed = deadline.as_mut().poll(cx).is_ready();
        let closed = self.poll_close_in_time(cx);
        if closed.is_pending() && passed {
            let rest_is_lost = !self.batch.is_empty();
            self.state = SendState::Failed;
            self.batch.clear();
            return Poll::Ready(Err(unread(&self.shared.name, linger, rest_is_lost)));
        }
        closed
    }

    fn poll_close_in_time(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let failed = |shared: &Shared, e| Error::from_io("cannot close", &shared.name, e);
        if let SendState::Open | SendState::Ended = self.state {
            ready!(self.poll_drain(cx))?;
            self.shared
                .io
                .shutdown()
                .map_err(|e| failed(&self.shared, e))?;
            let io = self.shared.io.clone();
            let drained = ReusableBoxFuture::new(async move { io.drained().await });
            self.state = SendState::Closing(drained);
        }
        match &mut self.state {
            SendState::Closing(drained) => {
                let result = ready!(drained.poll(cx));
                let state = if result.is_ok() {
                    SendState::Closed
                } else {
                    SendState::Failed
                };
                self.state = state;
                Poll::Ready(result.map_err(|e| failed(&self.shared, e)))
            }
            SendState::Failed => Poll::Ready(Err(self.shared.closed())),
            SendState::Open | SendState::Ended | SendState::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Whether a message can be taken before the others are with the system. One that the system
    /// keeps apart goes out by itself.
    fn has_room(&self) -> bool {
        self.shared.io.messages().is_none() && !self.batch.is_full()
    }

    /// Hands everything that was taken to the system.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let SendState::Closed | SendState::Failed = self.state {
            return Poll::Ready(Err(self.shared.closed()));
        }
        let result = ready!(self.batch.poll_write(cx, &self.shared.io));
        Poll::Ready(result.map_err(|e| {
            self.state = SendState::Failed;
            self.batch.clear();
            Error::from_io("cannot write to", &self.shared.name, e)
        }))
    }
}

impl Sink<Bytes> for PipeSender {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        match this.state {
            SendState::Open if this.has_room() => Poll::Ready(Ok(())),
            SendState::Open => this.poll_drain(cx),
            _ => Poll::Ready(Err(this.shared.closed())),
        }
    }

    fn start_send(self: Pin<&mut Self>, message: Bytes) -> Result<(), Error> {
        let this = self.get_mut();
        if !matches!(this.state, SendState::Open) {
            return Err(this.shared.closed());
        }
        let header = this.codec.header(message.len())?;
        this.shared.counters.sent(message.len());
        match this.shared.io.messages() {
            Some(messages) => messages.start_send(message),
            None => this.batch.push(header, message),
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        this.batch.shrink();
        Poll::Ready(Ok(()))
    }

    /// As [`close`](PipeSender::close), to be called from a `poll` function: it ends at the linger
    /// deadline as well.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        PipeSender::poll_close(self.get_mut(), cx)
    }
}

impl fmt::Debug for PipeSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeSender")
            .field("id", &self.shared.id)
            .field("name", &self.shared.name)
            .field("unsent", &self.batch.len())
            .field("open", &matches!(self.state, SendState::Open))
            .finish_non_exhaustive()
    }
}

/// Frames on their way out: many small ones in one buffer, then at most one large payload, which
/// is not copied where the system takes several buffers in one write.
#[derive(Default)]
struct Batch {
    head: Vec<u8>,
    /// How much of `head` is written already.
    written: usize,
    payload: Bytes,
}

impl Batch {
    fn len(&self) -> usize {
        self.head.len() - self.written + self.payload.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it must be written before it takes more.
    fn is_full(&self) -> bool {
        !self.payload.is_empty() || self.head.len() >= HIGH_WATER
    }

    fn push(&mut self, header: [u8; HEADER], message: Bytes) {
        // Nothing comes behind a payload of its own; only a caller that has not asked
        // `poll_ready` comes here with one there.
        self.head
            .extend_from_slice(&std::mem::take(&mut self.payload));
        self.head.extend_from_slice(&header);
        if message.len() > COPY_IN {
            self.payload = message;
        } else {
            self.head.extend_from_slice(&message);
        }
    }

    /// Writes everything.
    fn poll_write(&mut self, cx: &mut Context<'_>, io: &sys::Stream) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            if !io.is_write_vectored() {
                self.coalesce();
            }
            let bufs = [
                IoSlice::new(&self.head[self.written..]),
                IoSlice::new(&self.payload),
            ];
            let n = ready!(io.poll_write_vectored(cx, &bufs))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        io.poll_flush(cx)
    }

    /// Fills the rest of a write that begins with small frames from the large one behind them.
    fn coalesce(&mut self) {
        let head = self.head.len() - self.written;
        if head > 0 && head < HIGH_WATER {
            let n = self.payload.len().min(HIGH_WATER - head);
            self.head.extend_from_slice(&self.payload[..n]);
            self.payload.advance(n);
        }
    }

    fn advance(&mut self, n: usize) {
        let head = n.min(self.head.len() - self.written);
        self.written += head;
        self.payload.advance(n - head);
        if self.written == self.head.len() {
            self.head.clear();
            self.written = 0;
        }
        if self.payload.is_empty() {
            // Lets go of the memory that it was a part of.
            self.payload = Bytes::new();
        }
    }

    /// Gives memory back when nothing is on its way.
    fn shrink(&mut self) {
        if self.head.capacity() > KEPT {
            self.head = Vec::new();
        }
    }

    fn clear(&mut self) {
        self.head = Vec::new();
        self.written = 0;
        self.payload = Bytes::new();
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.is_empty() {
            let bytes = self.len();
            tracing::warn!(
                bytes,
                "a connection was dropped with messages fed and never flushed"
            );
        }
    }
}

impl Stream for PipeConnection {
    type Item = Result<BytesMut, Error>;

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

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.sender).poll_ready(cx)
    }

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

/// Two halves that are not of one [`PipeConnection`], given back.
#[derive(Debug, thiserror::Error)]
#[error("these halves belong to different connections")]
pub struct ReuniteError(pub PipeReceiver, pub PipeSender);
