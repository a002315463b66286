use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use futures_core::stream::{FusedStream, Stream};
use tokio::task::coop::consume_budget;

use crate::buffers::{self, BLOCK};
use crate::codec::{HEADER, Progress};
use crate::connection::Shared;
use crate::sys::Received;
use crate::{
    ConnectionStats, Error, MessageCodec, Peer, PipeConnection, PipeName, PipeSender, sys,
};

/// Messages up to this size are copied out of the read buffer: keeping one then keeps only its
/// own bytes, and not the buffer that it came in.
const COPY_OUT: usize = 16 << 10;

/// The most that is made room for because the message before was that long.
const EXPECTED: usize = 1 << 20;

/// The half of a [`PipeConnection`] that receives.
pub struct PipeReceiver {
    pub(crate) shared: Arc<Shared>,
    codec: MessageCodec,
    /// What was read and not handed out yet. Stays empty where the system keeps messages apart.
    pub(crate) buf: BytesMut,
    /// How long the next frame will be, if it is as long as a large one before it; else 0.
    expected: usize,
    ended: bool,
}

impl PipeReceiver {
    pub(crate) fn new(shared: Arc<Shared>, codec: MessageCodec, read_ahead: BytesMut) -> Self {
        PipeReceiver {
            shared,
            codec,
            buf: read_ahead,
            expected: 0,
            ended: false,
        }
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
    fn take_message(&mut self, len: usize) -> BytesMut {
        self.buf.advance(HEADER);
        if len > COPY_OUT {
            self.expected = (HEADER + len).min(EXPECTED);
            return if self.buf.len() == len {
                std::mem::take(&mut self.buf)
            } else {
                self.buf.split_to(len)
            };
        }
        self.expected = 0;
        let message = BytesMut::from(&self.buf[..len]);
        self.buf.advance(len);
        message
    }

    /// Reads once, towards the `needs` bytes of the next frame. `Ok(0)` is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, needs: usize) -> Poll<io::Result<usize>> {
        loop {
            if self.shared.io.poll_read_ready(cx)?.is_pending() {
                if self.buf.is_empty() {
                    // An idle connection keeps no memory.
                    buffers::give(std::mem::take(&mut self.buf));
                }
                return Poll::Pending;
            }
            let most = self.make_room(needs);
            match self.shared.io.try_read(&mut (&mut self.buf).limit(most)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                result => return Poll::Ready(result),
            }
        }
    }

    /// Makes room to read into, and says how much of it to fill: a peer gets memory for what it
    /// has sent, not for what it announces.
    fn make_room(&mut self, needs: usize) -> usize {
        let len = self.buf.len();
        let (missing, spare) = (needs - len, self.buf.capacity() - len);
        if len == 0 && self.expected > 0 {
            // Just the frame, so that it can be handed out with the buffer that it is in.
            self.move_to(BytesMut::with_capacity(self.expected));
            return self.expected;
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
            let size = (len + room).max(2 * BLOCK).max(self.expected);
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
            buffers::give(std::mem::take(&mut this.buf));
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

/// Two halves that are not of one [`PipeConnection`], given back.
#[derive(Debug, thiserror::Error)]
#[error("these halves belong to different connections")]
pub struct ReuniteError(pub PipeReceiver, pub PipeSender);
