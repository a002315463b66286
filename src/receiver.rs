use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use futures_core::stream::{FusedStream, Stream};

use crate::buffers::{BLOCK, Block};
use crate::busy_wait::{ATTEMPTS, BusyWait};
use crate::codec::{HEADER, Progress};
use crate::connection::Shared;
use crate::sys::Received;
use crate::turn::{Turn, poll_spend};
use crate::{
    ConnectionStats, Error, MessageCodec, Peer, PipeConnection, PipeName, PipeSender, sys,
};

/// Frames up to this length are read many at a time, and copied out of the block.
const COPY_OUT: usize = 16 << 10;

/// The same after a wait, when the next message probably comes alone.
const ALONE: usize = 1 << 10;

/// The most that is made room for because the frame before was that long.
const EXPECTED: usize = HEADER + (1 << 20);

/// The half of a [`PipeConnection`] that receives.
pub struct PipeReceiver {
    pub(crate) shared: Arc<Shared>,
    codec: MessageCodec,
    /// What was read and not handed out yet: many small frames at a time. Stays empty where the
    /// system keeps messages apart.
    block: Block,
    /// In place of that, the beginning of one frame in a buffer of its own, with which it will be
    /// handed out: no copy is made, and its message keeps no more memory than it needs.
    own: BytesMut,
    /// How long the next frame will be, if it is as long as the one before it.
    expected: usize,
    /// Whether the next message is the first after a wait, and probably comes alone.
    waited: bool,
    busy_wait: BusyWait,
    turn: Turn,
    /// How much of a frame above the limit is still to come: nothing of it is at hand. `None`: such
    /// a frame is the end.
    to_skip: Option<usize>,
    ended: bool,
}

/// Keeps the size of what is handed around, nearly always a success, small.
type Failure = Box<Error>;

/// A message that has come.
enum Incoming {
    Message(BytesMut),
    /// At the front of the receiver's buffer, with a payload of this length behind its header.
    Frame(usize),
}

impl Incoming {
    fn len(&self) -> usize {
        match self {
            Incoming::Message(message) => message.len(),
            Incoming::Frame(len) => *len,
        }
    }
}

impl PipeReceiver {
    pub(crate) fn new(shared: Arc<Shared>, codec: MessageCodec, read_ahead: BytesMut) -> Self {
        PipeReceiver {
            shared,
            codec,
            block: Block::default(),
            own: read_ahead,
            expected: 0,
            waited: false,
            busy_wait: BusyWait::default(),
            turn: Turn::default(),
            to_skip: None,
            ended: false,
        }
    }

    /// What was read and not handed out yet.
    pub(crate) fn into_read_ahead(mut self) -> BytesMut {
        let mut read_ahead = std::mem::take(&mut self.own);
        read_ahead.extend_from_slice(self.block.as_slice());
        read_ahead
    }

    /// Waits busily for up to this long before sleeping.
    pub(crate) fn set_low_latency(&mut self, limit: Duration) {
        self.busy_wait = BusyWait::new(limit);
    }

    /// Goes on after [`Error::MessageTooLarge`], behind the frame that is above the limit: nothing
    /// of it is kept. Not for messages that the system keeps apart.
    #[cfg(feature = "endpoint")]
    pub(crate) fn skip_too_large(&mut self) {
        self.to_skip = Some(0);
    }

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
            Ok(PipeConnection::from_halves(self, sender))
        } else {
            Err(ReuniteError(self, sender))
        }
    }

    /// Receives the next message into a buffer of the caller's, behind what is in it, and gives
    /// its length: `None` at the end. For small messages this allocates nothing once the buffer has
    /// grown.
    ///
    /// # Errors
    ///
    /// As `next`; after one there is only `None`.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing; `buf` is unchanged then.
    pub async fn recv_into(&mut self, buf: &mut BytesMut) -> Result<Option<usize>, Error> {
        match poll_fn(|cx| self.poll_incoming(cx)).await {
            None => Ok(None),
            Some(Err(error)) => Err(*error),
            Some(Ok(Incoming::Message(message))) => {
                buf.extend_from_slice(&message);
                Ok(Some(message.len()))
            }
            Some(Ok(Incoming::Frame(len))) => {
                buf.extend_from_slice(&self.at_hand()[HEADER..HEADER + len]);
                self.skip(HEADER + len);
                // No buffers of their own for messages that are copied.
                self.expected = 0;
                Ok(Some(len))
            }
        }
    }

    /// Waits for the next message; `None` at the end and after an error.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Incoming, Failure>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = match self.shared.io.messages() {
            Some(messages) => self.poll_native(cx, messages),
            None => self.poll_frame(cx),
        };
        let Poll::Ready(incoming) = polled else {
            // Whoever waits for an answer wants the question to be on its way.
            self.shared.queue.kick();
            return Poll::Pending;
        };
        match &incoming {
            Ok(Some(incoming)) => self.shared.counters.received(incoming.len()),
            Err(error)
                if self.to_skip.is_some() && matches!(**error, Error::MessageTooLarge { .. }) => {}
            _ => {
                self.ended = true;
                if let Err(error) = &incoming
                    && matches!(**error, Error::MessageTooLarge { .. })
                {
                    self.shared.io.refuse();
                }
                self.shared.closing.nobody_reads();
                self.own = BytesMut::new();
                self.block.rest();
            }
        }
        Poll::Ready(incoming.transpose())
    }

    /// The next message, for which the system has to be asked.
    fn poll_next_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BytesMut, Error>>> {
        let incoming = ready!(self.poll_incoming(cx));
        Poll::Ready(incoming.map(|it| match it {
            Ok(Incoming::Message(message)) => Ok(message),
            Ok(Incoming::Frame(len)) => Ok(self.take_frame(len)),
            Err(error) => Err(*error),
        }))
    }

    /// The next message that the system has kept apart.
    fn poll_native(
        &self,
        cx: &mut Context<'_>,
        messages: &sys::Messages,
    ) -> Poll<Result<Option<Incoming>, Failure>> {
        // However fast the peer is, other tasks of the runtime run now and then. For bytes, whoever
        // reads them sees to that.
        ready!(poll_spend(cx));
        let max = self.codec.max_message_size();
        let received =
            ready!(messages.poll_recv(cx, max)).map_err(|e| self.shared.failed_read(e))?;
        Poll::Ready(match received {
            Received::Message(message) => Ok(Some(Incoming::Message(message))),
            Received::TooLarge(size) => Err(Error::MessageTooLarge { size, max }.into()),
            // How much was to come is not known any more.
            Received::Truncated(received) => Err(Error::Truncated {
                received,
                expected: received + 1,
            }
            .into()),
            Received::End => Ok(None),
        })
    }

    /// The next message, each with its length in front.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Incoming>, Failure>> {
        loop {
            if let Some(left @ 1..) = self.to_skip {
                self.discard(left);
            }
            let needs = match self.codec.progress(self.at_hand()) {
                Progress::Complete(len) => {
                    ready!(self.turn.poll_go_on(cx));
                    return Poll::Ready(Ok(Some(Incoming::Frame(len))));
                }
                Progress::Needs(needs) => needs,
                Progress::TooLarge(len) => {
                    if self.to_skip.is_some() {
                        self.skip(HEADER);
                        self.discard(len);
                    }
                    return Poll::Ready(Err(self.codec.too_large(len).into()));
                }
            };
            match self.poll_fill(cx, needs) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) if self.at_hand().is_empty() => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(0)) => {
                    let received = self.at_hand().len();
                    return Poll::Ready(Err(Error::Truncated {
                        received,
                        expected: needs,
                    }
                    .into()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(self.shared.failed_read(e).into())),
            }
        }
    }

    /// The beginning of the next frame, or more.
    #[inline]
    fn at_hand(&self) -> &[u8] {
        if self.own.is_empty() {
            self.block.as_slice()
        } else {
            &self.own
        }
    }

    /// Takes a message whose header and `len` bytes of payload are at hand.
    #[inline]
    fn take_frame(&mut self, len: usize) -> BytesMut {
        self.expected = HEADER + len;
        if !self.own.is_empty() {
            return self.take_own(len);
        }
        let message = BytesMut::from(&self.block.as_slice()[HEADER..HEADER + len]);
        self.block.advance(HEADER + len);
        message
    }

    fn take_own(&mut self, len: usize) -> BytesMut {
        let whole = HEADER + len;
        if self.own.len() == whole && self.own.capacity() <= 2 * whole + ALONE {
            self.own.advance(HEADER);
            return std::mem::take(&mut self.own);
        }
        // There is more, or far less, in a buffer that was made for one.
        let message = BytesMut::from(&self.own[HEADER..HEADER + len]);
        self.skip(HEADER + len);
        message
    }

    /// Lets go of the frame at hand, which was copied.
    fn skip(&mut self, len: usize) {
        if self.own.is_empty() {
            self.block.advance(len);
            return;
        }
        self.own.advance(len);
        if self.own.len() <= BLOCK {
            self.block.push(&std::mem::take(&mut self.own));
        }
    }

    /// Lets go of what is at hand of the `left` bytes that are to be skipped.
    fn discard(&mut self, left: usize) {
        let there = left.min(self.at_hand().len());
        self.skip(there);
        self.to_skip = Some(left - there);
        self.expected = 0;
    }

    /// Reads once, towards the `needs` bytes of the next frame. `Ok(0)` is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, needs: usize) -> Poll<io::Result<usize>> {
        loop {
            let is_ready = self.shared.io.poll_read_ready(cx)?.is_ready();
            if !is_ready && !self.busy_wait.goes_on() {
                if self.at_hand().is_empty() {
                    // An idle connection keeps no memory.
                    self.block.rest();
                    self.own = BytesMut::new();
                    self.waited = true;
                } else if self.own.len() <= ALONE {
                    // What has begun like this need not become as long as was expected.
                    self.block.push(&std::mem::take(&mut self.own));
                }
                return Poll::Pending;
            }
            if !is_ready {
                // As the system's word does, however fast the peer is: other tasks run now and then.
                ready!(poll_spend(cx));
            }
            for _ in 0..if is_ready { 1 } else { ATTEMPTS } {
                match self.read(needs, is_ready) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.busy_wait.in_vain(),
                    result => {
                        self.busy_wait.is_over();
                        return Poll::Ready(result);
                    }
                }
            }
            if !is_ready {
                // Other tasks have their turn before the next attempts.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Reads once. A peer gets memory for what it has sent, not for what it announces.
    fn read(&mut self, needs: usize, is_ready: bool) -> io::Result<usize> {
        let io = &self.shared.io;
        if self.own.is_empty() {
            let expected = self.expected.min(EXPECTED);
            let large = expected > COPY_OUT;
            if self.block.is_empty() {
                if std::mem::take(&mut self.waited) && expected > ALONE {
                    // Whatever comes is probably one frame like the last one.
                    self.own.reserve(expected);
                    return read(io, &mut (&mut self.own).limit(expected), is_ready);
                }
                if large {
                    return read(io, &mut self.block.room(HEADER).limit(HEADER), is_ready);
                }
            }
            if needs <= BLOCK && !(large && needs > COPY_OUT) {
                // Many frames in one read, so no reads into the last corner of the block.
                let least = (needs - self.block.len()).max(BLOCK / 4);
                return read(io, &mut self.block.room(least), is_ready);
            }
            self.own.reserve(needs.min(expected.max(2 * BLOCK)));
            self.own.extend_from_slice(self.block.as_slice());
            self.block.rest();
        }
        let (len, missing) = (self.own.len(), needs - self.own.len());
        if self.own.capacity() == len {
            // As much again as has come, and not past the end.
            let room = if missing <= len + BLOCK { missing } else { len };
            self.own.reserve(room);
        }
        read(io, &mut (&mut self.own).limit(missing), is_ready)
    }
}

/// Reads if the system has said that there is something, or without knowing.
fn read(io: &sys::Stream, buf: &mut impl BufMut, is_ready: bool) -> io::Result<usize> {
    match is_ready {
        true => io.try_read(buf),
        false => io.read_now(buf),
    }
}

impl Stream for PipeReceiver {
    type Item = Result<BytesMut, Error>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // Most small messages are there already, thanks to the one before them. There are none
        // after the end.
        if let Progress::Complete(len) = this.codec.progress(this.at_hand()) {
            ready!(this.turn.poll_go_on(cx));
            this.shared.counters.received(len);
            return Poll::Ready(Some(Ok(this.take_frame(len))));
        }
        this.poll_next_read(cx)
    }
}

impl Drop for PipeReceiver {
    fn drop(&mut self) {
        self.shared.closing.nobody_reads();
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
            .field("read_ahead", &self.at_hand().len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Two halves that are not of one [`PipeConnection`], given back.
#[derive(Debug, thiserror::Error)]
#[error("these halves belong to different connections")]
pub struct ReuniteError(pub PipeReceiver, pub PipeSender);
