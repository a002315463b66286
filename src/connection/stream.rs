use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::closing::{Closing, timed_out};
use crate::stats::Place;
use crate::sync::Deadline;
use crate::turn::poll_spend;
use crate::{Error, Peer, PipeName, sys};

/// How long closing waits for the peer to read the rest, unless told otherwise.
pub(crate) const DEFAULT_LINGER: Duration = Duration::from_secs(5);

/// A connected pipe as a stream of bytes, for protocols that bring their own framing.
///
/// Made by [`PipeListener::accept`](crate::PipeListener::accept),
/// [`ClientBuilder::connect_bytes`](crate::ClientBuilder::connect_bytes), and
/// [`PipeConnection::into_stream`](crate::PipeConnection::into_stream).
///
/// # Ending
///
/// Dropping the stream never blocks and never discards what a completed write has taken: the peer
/// can still read it. On Windows, a write beyond the pipe's quota goes on in the background and
/// ends with the process, so [`close`](PipeStream::close) before the process ends.
///
/// `poll_shutdown` closes the sending direction where there is such a thing: on Unix the peer sees
/// the end, on Windows it does when the stream is dropped.
///
/// It belongs to one Tokio runtime, as a [`PipeConnection`](crate::PipeConnection#runtimes) does.
///
/// # Cancel safety
///
/// As for tokio's sockets: a cancelled `read` or `write` has read or written nothing.
#[derive(Debug)]
pub struct PipeStream {
    pub(crate) io: Arc<sys::Stream>,
    name: PipeName,
    linger: Duration,
    /// What a message connection had read already when it was turned back into bytes.
    read_ahead: BytesMut,
    /// Among the clients of the server that accepted it.
    place: Option<Arc<Place>>,
}

impl PipeStream {
    pub(crate) fn new(io: sys::Stream, name: PipeName, linger: Duration) -> Self {
        PipeStream {
            io: Arc::new(io),
            name,
            linger,
            read_ahead: BytesMut::new(),
            place: None,
        }
    }

    /// A server counts its client as long as anything of the stream lives.
    pub(crate) fn counted(self, place: Place) -> Self {
        PipeStream {
            place: Some(Arc::new(place)),
            ..self
        }
    }

    /// The pipe's name: the one that the server listens on.
    pub fn name(&self) -> &PipeName {
        &self.name
    }

    /// Asks the system who is at the other end.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the system does not tell any more because the peer has left, else
    /// [`Error::Io`].
    pub fn peer(&self) -> Result<Peer, Error> {
        self.io
            .peer()
            .map(Peer::from)
            .map_err(|e| Error::from_io("cannot tell the peer of", &self.name, e))
    }

    /// Ends the stream when the peer has read everything that was written.
    ///
    /// Nothing of it needs to be flushed before. The wait ends at the linger deadline, 5 s unless
    /// the builder's `linger` says otherwise.
    ///
    /// | | on Linux | on Windows | elsewhere |
    /// |---|---|---|---|
    /// | `Ok` means that | the peer's end has taken everything | the same, if it was still there when `close` was called | the system has everything and keeps it for the peer |
    ///
    /// In a sandbox on Linux that refuses SIOCOUTQ it is as elsewhere, and logged once.
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
        self.io
            .shutdown()
            .map_err(|e| Error::from_io("cannot close", &self.name, e))?;
        let deadline = Deadline::after(self.linger, self.io.runtime());
        let closing = Closing::default();
        closing.nobody_reads();
        let drained = closing.discarding(&self.io, closing.drained(&self.io));
        match deadline.limit(drained).await {
            Some(result) => result.map_err(|e| Error::from_io("cannot close", &self.name, e)),
            None => Err(timed_out(&self.io, &self.name, self.linger, false)),
        }
    }

    /// Splits into two halves that can move to two tasks.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let write = OwnedWriteHalf {
            io: self.io.clone(),
            _place: self.place.clone(),
        };
        (OwnedReadHalf(self), write)
    }

    pub(crate) fn into_parts(self) -> Parts {
        (self.io, self.name, self.linger, self.read_ahead, self.place)
    }

    pub(crate) fn from_parts((io, name, linger, read_ahead, place): Parts) -> Self {
        PipeStream {
            io,
            name,
            linger,
            read_ahead,
            place,
        }
    }
}

/// What a stream and a connection have in common.
pub(crate) type Parts = (
    Arc<sys::Stream>,
    PipeName,
    Duration,
    BytesMut,
    Option<Arc<Place>>,
);

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
            // As the system's word does where it is asked: other tasks run now and then.
            ready!(poll_spend(cx));
            let n = self.read_ahead.len().min(buf.remaining());
            buf.put_slice(&self.read_ahead[..n]);
            self.read_ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.io.poll_read_ready(cx))?;
            match self.io.try_read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                result => return Poll::Ready(result.map(drop)),
            }
        }
    }
}

/// Implements `AsyncWrite` over the field `io`.
macro_rules! async_write {
    ($type:ty) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.io.poll_write(cx, buf)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.io.poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.io.is_write_vectored()
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.io.poll_flush(cx)
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.io.shutdown())
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
/// Dropping it tells the peer nothing: the stream ends when both halves are gone. Use
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) to end this direction where the platform can.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    io: Arc<sys::Stream>,
    _place: Option<Arc<Place>>,
}

impl OwnedReadHalf {
    /// Puts the two halves of one stream together again.
    ///
    /// # Errors
    ///
    /// Gives both back when they are of different streams.
    pub fn reunite(self, write: OwnedWriteHalf) -> Result<PipeStream, StreamReuniteError> {
        if Arc::ptr_eq(&self.0.io, &write.io) {
            Ok(self.0)
        } else {
            Err(StreamReuniteError(self, write))
        }
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

/// Two halves that are not of one [`PipeStream`], given back.
#[derive(Debug, thiserror::Error)]
#[error("these halves belong to different streams")]
pub struct StreamReuniteError(pub OwnedReadHalf, pub OwnedWriteHalf);
