use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::closing::{Closing, Linger};
use super::pipe_end::PipeEnd;
use super::reunite::ReuniteError;
use crate::stats::Place;
use crate::turn::poll_spend;
use crate::{Error, Peer, PipeName, sys};

/// A connected pipe as a stream of bytes, for protocols that bring their own framing.
///
/// Made by [`PipeListener::accept`](crate::PipeListener::accept),
/// [`ClientBuilder::connect_bytes`](crate::ClientBuilder::connect_bytes), and
/// [`PipeConnection::into_stream`](crate::PipeConnection::into_stream).
///
/// # Ending
///
/// Dropping the stream never blocks and never discards what a completed write has taken: the peer can
/// still read it. On Windows, a write beyond the pipe's quota continues in the background and ends with
/// the process, so call [`close`](PipeStream::close) before the process ends.
///
/// `poll_shutdown` closes the sending direction where the system supports that. On Unix the peer sees
/// the end; on Windows it sees the end when the stream is dropped.
///
/// It belongs to one Tokio runtime, as a [`PipeConnection`](crate::PipeConnection#runtimes) does.
///
/// # Cancel safety
///
/// As for tokio's sockets: a cancelled `read` or `write` has read or written nothing.
#[derive(Debug)]
pub struct PipeStream {
    end: Arc<PipeEnd>,
    /// What a message connection had read ahead when it was turned back into a byte stream.
    read_ahead: BytesMut,
}

impl PipeStream {
    pub(super) fn new(end: PipeEnd) -> Self {
        PipeStream::from_parts(Arc::new(end), BytesMut::new())
    }

    /// Holds `place` among a server's clients until every part of the stream is dropped.
    pub(crate) fn counted(self, place: Place) -> Self {
        // A stream is accepted once.
        let _ = self.end.place.set(place);
        self
    }

    /// The pipe's name: the one that the server listens on.
    pub fn name(&self) -> &PipeName {
        &self.end.name
    }

    /// Asks the system who is at the other end.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the system can no longer say because the peer has left, otherwise
    /// [`Error::Io`].
    pub fn peer(&self) -> Result<Peer, Error> {
        self.end.peer()
    }

    /// Ends the stream, and waits until the peer has read everything that was written.
    ///
    /// No flush is needed before. The wait ends at the linger deadline: 5 s, unless the builder's
    /// `linger` says otherwise.
    ///
    /// | | on Linux | on Windows | elsewhere |
    /// |---|---|---|---|
    /// | `Ok` means that | the peer's end has taken everything | the same, if it was still there when `close` was called | the system has everything and keeps it for the peer |
    ///
    /// In a Linux sandbox that refuses SIOCOUTQ, `Ok` means the same as elsewhere; this is logged once.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the peer left without reading everything, [`Error::TimedOut`] at the
    /// deadline, with the reason: what was written stays readable for the peer.
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the stream.
    pub async fn close(self) -> Result<(), Error> {
        let end = &self.end;
        end.shutdown()?;
        let closing = Closing::default();
        closing.nobody_reads();
        let drained = closing.discarding(&end.io, closing.drained(&end.io));
        match Linger::limit(end, drained).await {
            Some(result) => result.map_err(|e| end.failed("cannot close", e)),
            None => Err(end.closing_timed_out(false)),
        }
    }

    /// Splits into two halves that can move to two tasks. [`OwnedReadHalf::reunite`] puts them together
    /// again.
    pub fn split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let write = OwnedWriteHalf {
            end: self.end.clone(),
        };
        (OwnedReadHalf(self), write)
    }

    /// The system's part of the stream.
    pub(crate) fn io(&self) -> &sys::Stream {
        &self.end.io
    }

    pub(super) fn into_parts(self) -> (Arc<PipeEnd>, BytesMut) {
        (self.end, self.read_ahead)
    }

    pub(super) fn from_parts(end: Arc<PipeEnd>, read_ahead: BytesMut) -> Self {
        PipeStream { end, read_ahead }
    }
}

impl AsyncRead for PipeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !self.read_ahead.is_empty() {
            // Reading from the system spends budget. So does this: other tasks get to run.
            ready!(poll_spend(cx));
            let n = self.read_ahead.len().min(buf.remaining());
            buf.put_slice(&self.read_ahead[..n]);
            self.read_ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.end.io.poll_read_ready(cx))?;
            match self.end.io.try_read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                result => return Poll::Ready(result.map(drop)),
            }
        }
    }
}

/// Implements `AsyncWrite` over the field `end`.
macro_rules! async_write {
    ($type:ty) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.end.io.poll_write(cx, buf)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.end.io.poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.end.capabilities.writes_vectored()
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.end.io.poll_flush(cx).map(|(flushed, _)| flushed)
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.end.io.shutdown())
            }
        }
    };
}
async_write!(PipeStream);
async_write!(OwnedWriteHalf);

/// The reading half of a [`PipeStream`].
#[derive(Debug)]
pub struct OwnedReadHalf(PipeStream);

/// The writing half of a [`PipeStream`].
///
/// Dropping it does not notify the peer: the stream ends when both halves are gone. Use
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) to end this direction where the platform supports
/// that.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    end: Arc<PipeEnd>,
}

impl OwnedReadHalf {
    /// The pipe's name, as [`PipeStream::name`].
    pub fn name(&self) -> &PipeName {
        self.0.name()
    }

    /// Asks the system who is at the other end, as [`PipeStream::peer`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn peer(&self) -> Result<Peer, Error> {
        self.0.peer()
    }

    /// Puts the two halves of one stream together again.
    ///
    /// # Errors
    ///
    /// Gives both back if they belong to different streams.
    pub fn reunite(
        self,
        write: OwnedWriteHalf,
    ) -> Result<PipeStream, ReuniteError<OwnedReadHalf, OwnedWriteHalf>> {
        if Arc::ptr_eq(&self.0.end, &write.end) {
            Ok(self.0)
        } else {
            Err(ReuniteError(self, write))
        }
    }
}

impl OwnedWriteHalf {
    /// The pipe's name, as [`PipeStream::name`].
    pub fn name(&self) -> &PipeName {
        &self.end.name
    }

    /// Asks the system who is at the other end, as [`PipeStream::peer`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn peer(&self) -> Result<Peer, Error> {
        self.end.peer()
    }
}

impl AsyncRead for OwnedReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}
