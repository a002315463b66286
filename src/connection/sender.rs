use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_sink::Sink;
use tokio_util::sync::ReusableBoxFuture;

use super::closing::Linger;
use super::core::Core;
use crate::framing::{Spent, WriteBuffer};
use crate::turn::Turn;
use crate::{ConnectionId, ConnectionStats, Error, MessageCodec, Peer, PipeName, sys};

/// The sending half of a [`PipeConnection`](crate::PipeConnection).
///
/// Dropping it alone does not notify the peer: the connection ends when both halves are gone. Use
/// [`close`](PipeSender::close) to end this direction where the platform supports that.
pub struct PipeSender {
    pub(crate) core: Arc<Core>,
    pub(crate) codec: MessageCodec,
    buffer: WriteBuffer,
    state: SendState,
    turn: Turn,
    linger: Linger,
}

enum SendState {
    Open,
    /// This direction was ended; the peer may not have read everything yet.
    Ended,
    /// The system has everything; waiting for the peer to read it.
    Closing(ReusableBoxFuture<'static, io::Result<()>>),
    /// The peer has everything.
    Closed,
    /// The peer has left, or writing has failed.
    Failed,
    /// The linger deadline has passed.
    GivenUp,
}

impl PipeSender {
    pub(crate) fn new(core: Arc<Core>, codec: MessageCodec) -> Self {
        PipeSender {
            core,
            codec,
            buffer: WriteBuffer::default(),
            state: SendState::Open,
            turn: Turn::default(),
            linger: Linger::default(),
        }
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

    /// Whether nothing more can be sent: the peer has closed the connection, this end was closed, or
    /// writing has failed. Asks the system, and does not consume received messages.
    ///
    /// Messages that the peer sent before it closed can still be received. A peer that has only ended
    /// its direction counts as present. Under Wine, so does a closed peer with messages left to be
    /// received.
    pub fn is_closed(&self) -> bool {
        !matches!(self.state, SendState::Open) || !self.core.io.has_peer()
    }

    /// Whether one write carries many messages. Where the system preserves boundaries, each has its own.
    #[inline]
    fn gathers(&self) -> bool {
        !self.core.capabilities.keeps_messages()
    }

    /// How many bytes the system does not have yet. A write in flight counts as one byte.
    #[inline]
    pub(crate) fn unsent(&self) -> usize {
        self.buffer.len() + usize::from(!self.core.io.is_idle())
    }

    /// How many bytes are lost if it gives up now.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Whether a message can be taken without waiting.
    #[inline]
    pub(crate) fn has_room(&mut self) -> Result<bool, Error> {
        if self.gathers() {
            return Ok(!self.buffer.is_full());
        }
        if self.unsent() > 0 {
            return Ok(false);
        }
        // Only fetches the result of the previous message.
        let drained = self.poll_drain(&mut Context::from_waker(Waker::noop()));
        match drained {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Whether the peer has everything, and nothing more can be sent.
    pub(crate) fn has_closed(&self) -> bool {
        matches!(self.state, SendState::Closed)
    }

    /// Whether something was lost.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.state, SendState::Failed | SendState::GivenUp)
    }

    /// Why nothing more can be sent.
    pub(crate) fn closed(&self) -> Error {
        let failed = matches!(self.state, SendState::Failed);
        self.core.closed(!failed)
    }

    /// Sends the fed messages, ends this direction, and waits until the peer has read everything.
    ///
    /// On Unix the peer sees the end of the stream at once. A Windows pipe cannot end one direction:
    /// there the peer sees the end once the receiver is dropped as well.
    ///
    /// While there is a receiver, it reads what the peer sends. Once it is dropped or has ended with an
    /// error, before this call or during it, what still arrives is discarded, as by
    /// [`PipeConnection::close`](crate::PipeConnection::close).
    ///
    /// # Errors
    ///
    /// As [`PipeConnection::close`](crate::PipeConnection::close).
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the sender.
    pub async fn close(mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_close(cx)).await
    }

    /// As [`PipeConnection::close_write`](crate::PipeConnection::close_write).
    ///
    /// # Errors
    ///
    /// The same.
    pub async fn close_write(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_drain(cx)).await?;
        self.end_direction()?;
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    /// Fails where this direction cannot end while the other one continues.
    pub(super) fn check_half_closing(&self) -> Result<(), Error> {
        let capabilities = self.core.capabilities;
        match capabilities.keeps_messages() || capabilities.half_closes() {
            true => Ok(()),
            false => Err(Error::ModeMismatch {
                pipe: self.core.name.clone(),
            }),
        }
    }

    /// Ends this direction, once the system has everything. An empty message that marks the end may
    /// still be in flight then.
    pub(super) fn end_direction(&mut self) -> Result<(), Error> {
        self.check_half_closing()?;
        match self.state {
            SendState::Open => {}
            SendState::Ended => return Ok(()),
            _ => return Err(self.closed()),
        }
        match self.gathers() {
            true => self.core.shutdown()?,
            false => {
                // Fetches the result and the buffer of the previous message.
                self.has_room()?;
                self.core.io.start_send(Bytes::new());
            }
        }
        self.state = SendState::Ended;
        Ok(())
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let closed = self.poll_close_for_ever(cx);
        if closed.is_pending() {
            self.core.closing.poll_discard(&self.core.io, cx);
            if self.linger.poll(&self.core, cx).is_ready() {
                return Poll::Ready(Err(self.give_up(false)));
            }
        }
        closed
    }

    /// Takes a message, if there is room for it. Bytes that were copied stay in `message`.
    #[inline]
    pub(crate) fn take(&mut self, message: &mut Bytes) -> Result<(), Error> {
        if !matches!(self.state, SendState::Open) {
            return Err(self.closed());
        }
        let header = self.codec.header(message.len())?;
        self.core.counters.sent(message.len());
        match self.gathers() {
            true => self.buffer.push(header, message),
            false => self.core.io.start_send(std::mem::take(message)),
        }
        Ok(())
    }

    /// From now on, keeps sent payloads for [`take_spent`](Self::take_spent).
    pub(crate) fn keep_spent(&mut self) {
        self.buffer.keep_spent();
    }

    /// Keeps what is no longer needed for [`take_spent`](Self::take_spent), if that was asked for.
    pub(super) fn retire(&mut self, payload: Bytes) {
        self.buffer.retire(payload);
    }

    /// Payloads that are no longer needed. Drop them where no lock is held: their bytes may be the
    /// application's, with a destructor of its own.
    pub(crate) fn take_spent(&mut self) -> Spent {
        self.buffer.take_spent()
    }

    /// The error for a message above the limit.
    pub(super) fn check_size(&self, len: usize) -> Result<(), Error> {
        self.codec.header(len).map(drop)
    }

    /// Silently discards what was taken but is not with the system.
    pub(crate) fn discard(&mut self) {
        self.buffer.clear();
    }

    /// Gives up at the linger deadline. `more_is_lost`: whether more than the buffered bytes is lost.
    pub(crate) fn give_up(&mut self, more_is_lost: bool) -> Error {
        let rest_is_lost = more_is_lost || !self.buffer.is_empty();
        self.state = SendState::GivenUp;
        self.buffer.clear();
        self.core.closing_timed_out(rest_is_lost)
    }

    /// Closes without a deadline, and without discarding what the peer sends meanwhile.
    fn poll_close_for_ever(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_end(cx))?;
        if let SendState::Ended = self.state {
            let core = self.core.clone();
            let drained = async move { core.closing.drained(&core.io).await };
            let drained = ReusableBoxFuture::new(drained);
            self.state = SendState::Closing(drained);
        }
        match &mut self.state {
            SendState::Closing(drained) => {
                let result = ready!(drained.poll(cx));
                Poll::Ready(self.finish(result))
            }
            SendState::Failed | SendState::GivenUp => Poll::Ready(Err(self.closed())),
            SendState::Open | SendState::Ended | SendState::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Hands everything to the system, and ends this direction: the first part of closing. The second
    /// is to wait for [`Closing::drained`](super::closing::Closing::drained).
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let SendState::Open | SendState::Ended = self.state {
            ready!(self.poll_drain(cx))?;
            self.core.shutdown()?;
            self.state = SendState::Ended;
        }
        Poll::Ready(Ok(()))
    }

    /// Completes closing: `drained` says whether the peer has everything.
    pub(crate) fn finish(&mut self, drained: io::Result<()>) -> Result<(), Error> {
        if self.has_failed() {
            return Err(self.closed());
        }
        self.state = match drained {
            Ok(()) => SendState::Closed,
            Err(_) => SendState::Failed,
        };
        drained.map_err(|e| self.core.failed("cannot close", e))
    }

    /// Writes everything that is buffered.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (io, capabilities) = (&self.core.io, self.core.capabilities);
        let buffer = &mut self.buffer;
        while !buffer.is_empty() {
            if capabilities.owns_buffers() {
                ready!(poll_flush(io, buffer, cx))?;
                io.start_send(buffer.take());
                continue;
            }
            if !capabilities.writes_vectored() {
                buffer.coalesce();
            }
            let slices = buffer.slices();
            let slices = &slices[..if slices[1].is_empty() { 1 } else { 2 }];
            let n = ready!(io.poll_write_vectored(cx, slices))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            buffer.advance(n);
        }
        poll_flush(io, buffer, cx)
    }

    /// Hands everything that was taken to the system.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.has_closed() || self.has_failed() {
            return Poll::Ready(Err(self.closed()));
        }
        let result = ready!(self.poll_write(cx));
        Poll::Ready(result.map_err(|e| {
            self.state = SendState::Failed;
            self.buffer.clear();
            self.core.failed("cannot write to", e)
        }))
    }
}

/// Waits until the system has taken the last write. `buffer` decides where its bytes are dropped.
#[inline]
fn poll_flush(
    io: &sys::Stream,
    buffer: &mut WriteBuffer,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let (flushed, written) = ready!(io.poll_flush(cx));
    if let Some(written) = written {
        buffer.retire(written);
    }
    Poll::Ready(flushed)
}

impl Sink<Bytes> for PipeSender {
    type Error = Error;

    #[inline]
    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        match this.state {
            SendState::Open => {
                ready!(this.turn.poll_go_on(cx));
                match this.gathers() && !this.buffer.is_full() {
                    true => Poll::Ready(Ok(())),
                    false => this.poll_drain(cx),
                }
            }
            _ => Poll::Ready(Err(this.closed())),
        }
    }

    #[inline]
    fn start_send(self: Pin<&mut Self>, mut message: Bytes) -> Result<(), Error> {
        self.get_mut().take(&mut message)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        this.buffer.release();
        Poll::Ready(Ok(()))
    }

    /// As [`close`](PipeSender::close), but for `poll` functions. Also ends at the linger deadline.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        PipeSender::poll_close(self.get_mut(), cx)
    }
}

impl fmt::Debug for PipeSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeSender")
            .field("id", &self.core.id)
            .field("name", &self.core.name)
            .field("unsent", &self.buffer.len())
            .field("open", &matches!(self.state, SendState::Open))
            .finish_non_exhaustive()
    }
}

impl Drop for PipeSender {
    fn drop(&mut self) {
        if !self.buffer.is_empty() {
            let bytes = self.buffer.len();
            tracing::warn!(
                bytes,
                "a connection was dropped with messages fed and never flushed"
            );
        }
    }
}
