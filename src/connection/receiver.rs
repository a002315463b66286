use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_core::stream::{FusedStream, Stream};

use super::core::Core;
use super::spin::{ATTEMPTS, Spin};
use crate::framing::{Frame, ReadBuffer};
use crate::sys::Received;
use crate::turn::{Turn, poll_spend};
use crate::{ConnectionId, ConnectionStats, Error, MessageCodec, Peer, PipeName};

/// The receiving half of a [`PipeConnection`](crate::PipeConnection).
pub struct PipeReceiver {
    pub(crate) core: Arc<Core>,
    /// Stays empty where the system preserves message boundaries.
    buffer: ReadBuffer,
    spin: Spin,
    turn: Turn,
    ended: bool,
}

/// Boxed to keep results small: nearly all of them are successes.
type Failure = Box<Error>;

/// A message that has arrived.
enum Incoming {
    Message(BytesMut),
    /// At the front of the receiver's buffer, with a payload of this length.
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
    pub(crate) fn new(core: Arc<Core>, codec: MessageCodec, read_ahead: BytesMut) -> Self {
        PipeReceiver {
            core,
            buffer: ReadBuffer::new(codec, read_ahead),
            spin: Spin::default(),
            turn: Turn::default(),
            ended: false,
        }
    }

    /// What was read but not handed out yet.
    pub(crate) fn into_read_ahead(mut self) -> BytesMut {
        self.buffer.take_all()
    }

    /// Busy-waits for up to this long before sleeping.
    pub(crate) fn set_low_latency(&mut self, limit: Duration) {
        self.spin = Spin::new(limit);
    }

    /// Continues after [`Error::MessageTooLarge`], behind the oversized frame, of which nothing is kept.
    /// Not for pipes in which the system preserves message boundaries.
    #[cfg(feature = "endpoint")]
    pub(crate) fn skip_too_large(&mut self) {
        self.buffer.skip_too_large();
    }

    /// The connection's number, as [`PipeConnection::id`](crate::PipeConnection::id).
    pub fn id(&self) -> ConnectionId {
        self.core.id
    }

    /// The pipe's name, as [`PipeConnection::name`](crate::PipeConnection::name).
    pub fn name(&self) -> &PipeName {
        &self.core.name
    }

    /// Asks the system who is at the other end, as [`PipeConnection::peer`](crate::PipeConnection::peer).
    ///
    /// # Errors
    ///
    /// The same.
    pub fn peer(&self) -> Result<Peer, Error> {
        self.core.peer()
    }

    /// How much both halves have transferred so far.
    pub fn stats(&self) -> ConnectionStats {
        self.core.counters.stats()
    }

    /// Whether nothing more will arrive, apart from messages that already have: receiving has ended, or
    /// the peer has closed the connection. Asks the system, and consumes no message.
    ///
    /// A peer that has only ended its direction counts as present: only receiving shows that end. Under
    /// Wine, so does a closed peer with messages left to be received.
    pub fn is_closed(&self) -> bool {
        self.ended || !self.core.io.has_peer()
    }

    /// Receives the next message, appends it to the caller's buffer, and returns its length, or `None`
    /// at the end. For small messages, this allocates nothing once the buffer has grown.
    ///
    /// # Errors
    ///
    /// As for `next`; after an error there is only `None`.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing and leaves `buf` unchanged.
    pub async fn recv_into(&mut self, buf: &mut BytesMut) -> Result<Option<usize>, Error> {
        match poll_fn(|cx| self.poll_incoming(cx)).await {
            None => Ok(None),
            Some(Err(error)) => Err(*error),
            Some(Ok(Incoming::Message(message))) => {
                buf.extend_from_slice(&message);
                Ok(Some(message.len()))
            }
            Some(Ok(Incoming::Frame(len))) => {
                self.buffer.copy_to(len, buf);
                Ok(Some(len))
            }
        }
    }

    /// Waits for the next message; `None` at the end and after an error.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Incoming, Failure>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = match self.core.capabilities.keeps_messages() {
            true => self.poll_native(cx),
            false => self.poll_frame(cx),
        };
        let Poll::Ready(incoming) = polled else {
            self.core.write_queued();
            return Poll::Pending;
        };
        let is_too_large = |error: &Failure| matches!(**error, Error::MessageTooLarge { .. });
        let refuses = incoming.as_ref().is_err_and(is_too_large);
        match &incoming {
            Ok(Some(incoming)) => self.core.counters.received(incoming.len()),
            Err(_) if refuses && self.buffer.skips_too_large() => {}
            _ => {
                self.ended = true;
                if refuses {
                    self.core.io.refuse();
                }
                self.core.closing.nobody_reads();
                self.buffer.clear();
            }
        }
        Poll::Ready(incoming.transpose())
    }

    /// The next message, for which this asks the system.
    fn poll_next_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BytesMut, Error>>> {
        let incoming = ready!(self.poll_incoming(cx));
        Poll::Ready(incoming.map(|it| match it {
            Ok(Incoming::Message(message)) => Ok(message),
            Ok(Incoming::Frame(len)) => Ok(self.buffer.take(len)),
            Err(error) => Err(*error),
        }))
    }

    /// The next message, where the system preserves message boundaries.
    fn poll_native(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Incoming>, Failure>> {
        // However fast the peer is, other tasks of the runtime get to run. For bytes, `poll_fill`
        // ensures that.
        ready!(poll_spend(cx));
        let max = self.buffer.max_message_size();
        let received = ready!(self.core.io.poll_recv(cx, max)).map_err(|e| self.failed_read(e))?;
        Poll::Ready(match received {
            Received::Message(message) => Ok(Some(Incoming::Message(message))),
            Received::TooLarge(size) => Err(Error::MessageTooLarge { size, max }.into()),
            Received::Truncated(received) => Err(Error::Truncated {
                received,
                expected: None,
            }
            .into()),
            Received::End => Ok(None),
        })
    }

    /// The next message, where each has its length in front.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Incoming>, Failure>> {
        loop {
            let needs = match self.buffer.next_frame()? {
                Frame::Complete(len) => {
                    ready!(self.turn.poll_go_on(cx));
                    return Poll::Ready(Ok(Some(Incoming::Frame(len))));
                }
                Frame::Needs(needs) => needs,
            };
            match ready!(self.poll_fill(cx, needs)) {
                Ok(0) if self.buffer.is_empty() => return Poll::Ready(Ok(None)),
                Ok(0) => {
                    let received = self.buffer.len();
                    return Poll::Ready(Err(Error::Truncated {
                        received,
                        expected: Some(needs),
                    }
                    .into()));
                }
                Ok(_) => {}
                Err(e) => return Poll::Ready(Err(self.failed_read(e))),
            }
        }
    }

    /// Reads once, towards the `needs` bytes of the next frame. `Ok(0)` is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, needs: usize) -> Poll<io::Result<usize>> {
        loop {
            let is_ready = self.core.io.poll_read_ready(cx)?.is_ready();
            if !is_ready && !self.spin.should_retry() {
                self.buffer.wait();
                return Poll::Pending;
            }
            if !is_ready {
                // Readiness from the system spends budget. So does this: other tasks get to run.
                ready!(poll_spend(cx));
            }
            for _ in 0..if is_ready { 1 } else { ATTEMPTS } {
                match self.read(needs, is_ready) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.spin.found_nothing(),
                    result => {
                        self.spin.finish();
                        return Poll::Ready(result);
                    }
                }
            }
            if !is_ready {
                // Other tasks run before the next attempts.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn failed_read(&self, error: io::Error) -> Failure {
        self.core.failed("cannot read from", error).into()
    }

    /// Reads once. `is_ready`: whether the system has reported that there is something.
    fn read(&mut self, needs: usize, is_ready: bool) -> io::Result<usize> {
        let io = &self.core.io;
        self.buffer.fill(needs, |mut room| match is_ready {
            true => io.try_read(&mut room),
            false => io.read_now(&mut room),
        })
    }
}

impl Stream for PipeReceiver {
    type Item = Result<BytesMut, Error>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // Most small messages were read along with an earlier one. None are left after the end.
        if let Some(len) = this.buffer.complete() {
            ready!(this.turn.poll_go_on(cx));
            this.core.counters.received(len);
            return Poll::Ready(Some(Ok(this.buffer.take(len))));
        }
        this.poll_next_read(cx)
    }
}

impl Drop for PipeReceiver {
    fn drop(&mut self) {
        self.core.closing.nobody_reads();
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
            .field("id", &self.core.id)
            .field("name", &self.core.name)
            .field("read_ahead", &self.buffer.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
