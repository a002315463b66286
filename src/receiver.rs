use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use futures_core::stream::{FusedStream, Stream};
use tokio::task::coop::consume_budget;

use crate::buffers::{self, BLOCK};
use crate::busy_wait::BusyWait;
use crate::codec::{HEADER, Progress};
use crate::connection::Shared;
use crate::sys::Received;
use crate::{
    ConnectionStats, Error, MessageCodec, Peer, PipeConnection, PipeName, PipeSender, sys,
};

/// Messages up to this size are copied out of the read buffer: keeping one then keeps only its
/// own bytes, and not the buffer that it came in.
const COPY_OUT: usize = 16 << 10;

/// After a wait, frames longer than this are read into a buffer of their own, and not copied.
const ALONE: usize = 1 << 10;

/// The most that is made room for because the message before was that long.
const EXPECTED: usize = HEADER + (1 << 20);

/// The half of a [`PipeConnection`] that receives.
pub struct PipeReceiver {
    pub(crate) shared: Arc<Shared>,
    codec: MessageCodec,
    /// What was read and not handed out yet. Stays empty where the system keeps messages apart.
    pub(crate) buf: BytesMut,
    /// How long the next frame will be, if it is as long as the one before it.
    expected: usize,
    /// Whether the next message is the first after a wait, and probably comes alone.
    waited: bool,
    /// Whether `buf` was made for just one frame.
    fits: bool,
    busy_wait: BusyWait,
    ended: bool,
}

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
            buf: read_ahead,
            expected: 0,
            waited: false,
            fits: false,
            busy_wait: BusyWait::default(),
            ended: false,
        }
    }

    /// Waits busily for up to this long before sleeping.
    pub(crate) fn set_low_latency(&mut self, limit: Duration) {
        self.busy_wait = BusyWait::new(limit);
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
        match poll_fn(|cx| self.poll_incoming(cx)).await.transpose()? {
            None => Ok(None),
            Some(Incoming::Message(message)) => {
                buf.extend_from_slice(&message);
                Ok(Some(message.len()))
            }
            Some(Incoming::Frame(len)) => {
                buf.extend_from_slice(&self.buf[HEADER..HEADER + len]);
                self.buf.advance(HEADER + len);
                Ok(Some(len))
            }
        }
    }

    /// Waits for the next message; `None` at the end and after an error.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Incoming, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = match self.shared.io.messages() {
            Some(messages) => self.poll_native(cx, messages),
            None => self.poll_frame(cx),
        };
        let Poll::Ready(incoming) = polled else {
            // Whoever waits for an answer wants the question to be on its way.
            self.shared.queue.kick(cx);
            return Poll::Pending;
        };
        match &incoming {
            Ok(Some(incoming)) => self.shared.counters.received(incoming.len()),
            _ => {
                self.ended = true;
                buffers::give(std::mem::take(&mut self.buf));
            }
        }
        Poll::Ready(incoming.transpose())
    }

    /// The next message, for which the system has to be asked.
    fn poll_next_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BytesMut, Error>>> {
        let incoming = ready!(self.poll_incoming(cx));
        Poll::Ready(incoming.map(|it| {
            it.map(|it| match it {
                Incoming::Message(message) => message,
                Incoming::Frame(len) => self.take_frame(len),
            })
        }))
    }

    /// The next message that the system has kept apart.
    fn poll_native(
        &self,
        cx: &mut Context<'_>,
        messages: &sys::Messages,
    ) -> Poll<Result<Option<Incoming>, Error>> {
        // However fast the peer is, other tasks of the runtime run now and then. For bytes, whoever
        // reads them sees to that.
        ready!(pin!(consume_budget()).poll(cx));
        let max = self.codec.max_message_size();
        let received =
            ready!(messages.poll_recv(cx, max)).map_err(|e| self.shared.failed_read(e))?;
        Poll::Ready(match received {
            Received::Message(message) => Ok(Some(Incoming::Message(message))),
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
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Incoming>, Error>> {
        loop {
            let needs = match self.codec.progress(&self.buf)? {
                Progress::Complete(len) => return Poll::Ready(Ok(Some(Incoming::Frame(len)))),
                Progress::Needs(needs) => needs,
            };
            match self.poll_fill(cx, needs) {
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
    #[inline]
    fn take_frame(&mut self, len: usize) -> BytesMut {
        self.expected = HEADER + len;
        if len > COPY_OUT || (self.fits && self.buf.len() == HEADER + len) {
            return self.take_with_buffer(len);
        }
        let message = BytesMut::from(&self.buf[HEADER..HEADER + len]);
        self.buf.advance(HEADER + len);
        message
    }

    /// Without copying it.
    fn take_with_buffer(&mut self, len: usize) -> BytesMut {
        self.buf.advance(HEADER);
        if self.buf.len() == len {
            std::mem::take(&mut self.buf)
        } else {
            self.buf.split_to(len)
        }
    }

    /// Reads once, towards the `needs` bytes of the next frame. `Ok(0)` is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, needs: usize) -> Poll<io::Result<usize>> {
        loop {
            let is_ready = self.shared.io.poll_read_ready(cx)?.is_ready();
            if !is_ready && !self.busy_wait.goes_on() {
                if self.buf.is_empty() {
                    self.waited = true;
                    // An idle connection keeps no memory.
                    buffers::give(std::mem::take(&mut self.buf));
                }
                return Poll::Pending;
            }
            let most = self.make_room(needs);
            let buf = &mut (&mut self.buf).limit(most);
            let read = match is_ready {
                true => self.shared.io.try_read(buf),
                false => self.shared.io.read_now(buf),
            };
            match read {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.busy_wait.is_over();
                    return Poll::Ready(result);
                }
            }
            if !is_ready {
                // Other tasks have their turn before the next attempt.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Makes room to read into, and says how much of it to fill: a peer gets memory for what it
    /// has sent, not for what it announces.
    fn make_room(&mut self, needs: usize) -> usize {
        let len = self.buf.len();
        let (missing, spare) = (needs - len, self.buf.capacity() - len);
        let alone = std::mem::take(&mut self.waited) && self.expected > ALONE;
        if len == 0 && (alone || self.expected > COPY_OUT) {
            // Just the frame, so that it can be handed out with the buffer that it is in.
            let expected = self.expected.min(EXPECTED);
            self.move_to(BytesMut::with_capacity(expected));
            self.fits = true;
            return expected;
        }
        if needs <= BLOCK {
            // Small messages: many in one read, so no reads into the last corner of the buffer.
            if spare < missing.max(BLOCK / 4).min(BLOCK - len) {
                self.move_to(buffers::take());
            }
            return usize::MAX;
        }
        // A large one: as much again as has come, and not past its end.
        let room = if missing <= len + BLOCK { missing } else { len };
        if self.buf.capacity() < 2 * BLOCK && spare < missing {
            let size = (len + room).max(2 * BLOCK).max(self.expected.min(EXPECTED));
            self.move_to(BytesMut::with_capacity(size.min(needs)));
        } else if spare == 0 {
            self.buf.reserve(room);
        }
        missing
    }

    /// Goes on with another buffer, which is empty and has room for what is in this one.
    fn move_to(&mut self, mut buf: BytesMut) {
        buf.extend_from_slice(&self.buf);
        buffers::give(std::mem::replace(&mut self.buf, buf));
        self.fits = false;
    }
}

impl Stream for PipeReceiver {
    type Item = Result<BytesMut, Error>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // Most small messages are there already, thanks to the one before them. There are none
        // after the end.
        if let Ok(Progress::Complete(len)) = this.codec.progress(&this.buf) {
            this.shared.counters.received(len);
            return Poll::Ready(Some(Ok(this.take_frame(len))));
        }
        this.poll_next_read(cx)
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

/// Two halves that are not of one [`PipeConnection`], given back.
#[derive(Debug, thiserror::Error)]
#[error("these halves belong to different connections")]
pub struct ReuniteError(pub PipeReceiver, pub PipeSender);
