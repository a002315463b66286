//! A connected socket.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use socket2::{SockRef, Socket};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::peer;
use super::socket::Connected;
use crate::buffers::{BLOCK, Block};
use crate::sync::Deadline;
use crate::sys::{Credentials, Flushed, Received};

/// More than a socket holds, unless the system was told otherwise: a peer that keeps sending cannot hold
/// up this end.
const MOST_HELD: usize = 1 << 20;

/// What a stream can do: the same for every socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities;

impl Capabilities {
    /// Whether the system preserves message boundaries.
    pub(crate) const fn keeps_messages(self) -> bool {
        false
    }

    /// Whether a write owns its buffer until it is done.
    pub(crate) const fn owns_buffers(self) -> bool {
        false
    }

    /// Whether one write takes several buffers.
    pub(crate) const fn writes_vectored(self) -> bool {
        true
    }

    /// Whether [`Stream::shutdown`] notifies the peer.
    pub(crate) const fn half_closes(self) -> bool {
        true
    }
}

#[derive(Debug)]
pub(crate) struct Stream {
    io: Connected,
    /// Set when the peer closed its end with bytes of ours unread, which the system reports once.
    reset: AtomicBool,
    /// Whether this end reads no more from the socket, unless it has to.
    refused: AtomicBool,
    /// Who is at the other end, where the system's own answer would be wrong.
    peer: Option<Box<Credentials>>,
    /// The place among the server's connections, freed when this is dropped.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Stream {
    /// From a connected, non-blocking socket.
    pub(super) fn new(socket: Socket, slot: Option<OwnedSemaphorePermit>) -> io::Result<Self> {
        Ok(Stream {
            io: Connected::new(socket)?,
            reset: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            peer: None,
            _slot: slot,
        })
    }

    /// Sets who is at the other end.
    #[cfg(feature = "worker")]
    pub(super) fn with_peer(mut self, peer: Credentials) -> Self {
        self.peer = Some(Box::new(peer));
        self
    }

    pub(crate) const fn capabilities(&self) -> Capabilities {
        Capabilities
    }

    /// The runtime in which it was made. It runs the stream's tasks and timers, whoever polls.
    pub(crate) fn runtime(&self) -> &Handle {
        self.io.runtime()
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_read_ready(cx)
    }

    /// Reads what is there; `Ok(0)` is the end, or a `buf` without room.
    pub(crate) fn try_read(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        // A short read does not prove that nothing is left: a read also ends after descriptors that the
        // peer has passed (unix(7), SCM_RIGHTS) and before urgent data (MSG_OOB). Only EAGAIN proves it.
        self.io.try_read(|| self.recv(buf))
    }

    /// As `try_read`, without knowing whether there is anything.
    pub(crate) fn read_now(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        self.recv(buf)
    }

    fn recv(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let room = buf.chunk_mut();
        // SAFETY: the slice is only handed to the system, which writes initialised bytes into it.
        let room = unsafe { room.as_uninit_slice_mut() };
        match SockRef::from(&self.io).recv(room) {
            Ok(read) => {
                // SAFETY: `recv` has filled this many bytes from the start of the slice.
                unsafe { buf.advance_mut(read) };
                Ok(read)
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                // This comes after everything that the peer sent has been read: it is the end.
                self.reset.store(true, Ordering::Relaxed);
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(self.io.poll_write_vectored(cx, bufs));
        if result
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset)
        {
            self.reset.store(true, Ordering::Relaxed);
        }
        Poll::Ready(result)
    }

    /// Always ready: the system has taken whatever was written.
    #[inline]
    pub(crate) fn poll_flush(&self, _: &mut Context<'_>) -> Poll<Flushed> {
        Poll::Ready((Ok(()), None))
    }

    /// Whether no write is in flight.
    pub(crate) const fn is_idle(&self) -> bool {
        true
    }

    /// Only for a stream that [keeps messages](Capabilities::keeps_messages).
    pub(crate) fn poll_recv(&self, _: &mut Context<'_>, _: usize) -> Poll<io::Result<Received>> {
        unreachable!("a socket keeps no messages apart")
    }

    /// Only for a stream that [owns buffers](Capabilities::owns_buffers).
    pub(crate) fn start_send(&self, _: Bytes) {
        unreachable!("a socket owns no buffer")
    }

    /// Tells the peer that nothing more will come.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        match SockRef::from(&self.io).shutdown(std::net::Shutdown::Write) {
            // The peer is already gone. `drained` finds out whether it has read everything.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Waits until the peer has read everything that was written. Fails when it never will.
    ///
    /// There is no event for this, so the system is polled, at growing intervals.
    pub(crate) async fn drained(&self) -> io::Result<()> {
        let mut pause = Duration::from_micros(50);
        while unread_by_peer(&self.io)? > 0 {
            let mut next = Deadline::after(pause, self.runtime());
            poll_fn(|cx| next.poll(cx)).await;
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        if self.reset.load(Ordering::Relaxed) || has_error(&self.io) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    /// From now on, this end reads no more from the socket, unless it has to.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the system was asked what the peer has read. Here it is asked at once, each time.
    pub(crate) fn was_asked(&self) -> bool {
        true
    }

    /// Discards what has arrived and nobody has read. If it stayed unread, closing would tell the peer
    /// that it was lost (ECONNRESET), and the peer's own close would fail.
    pub(crate) async fn take_rest(&self) {
        let mut scratch = Block::default();
        for _ in 0..MOST_HELD / BLOCK {
            let read = self.read_now(&mut scratch.room(BLOCK));
            match read {
                Ok(1..) => scratch.release(),
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Whether the peer has not closed its end. It may have ended its direction.
    pub(crate) fn has_peer(&self) -> bool {
        let mut polled = libc::pollfd {
            fd: self.io.as_fd().as_raw_fd(),
            events: 0,
            revents: 0,
        };
        // SAFETY: `polled` is one structure, and its descriptor is open while `self` is borrowed. Does
        // not wait.
        let answers = unsafe { libc::poll(&mut polled, 1, 0) };
        // POLLHUP: both directions have ended (poll(2)).
        answers != 1 || polled.revents & libc::POLLHUP == 0
    }

    pub(crate) fn peer(&self) -> io::Result<Credentials> {
        match &self.peer {
            Some(peer) => Ok((**peer).clone()),
            None => peer::of(self.as_fd()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

/// Whether the socket has an error: ECONNRESET on Linux, once, when the peer closed with bytes unread.
fn has_error(io: &Connected) -> bool {
    static TOLD: Once = Once::new();
    let refused = match SockRef::from(io).take_error() {
        Ok(error) => return error.is_some(),
        Err(error) => error,
    };
    // The socket is open, so a sandbox refuses to say. Waiting for the socket says it as well (poll(2)).
    let mut polled = libc::pollfd {
        fd: io.as_fd().as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: `polled` is one structure, and its descriptor is open while `io` is borrowed. Does not
    // wait.
    if unsafe { libc::poll(&mut polled, 1, 0) } == -1 {
        TOLD.call_once(|| {
            let what =
                "closing cannot tell whether the peer has read everything: SO_ERROR is refused";
            tracing::warn!(error = %refused, "{what}");
        });
    }
    polled.revents & libc::POLLERR != 0
}

/// How many bytes wait in the peer's receive queue. Zero where the system refuses to say, as on systems
/// that never say.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn unread_by_peer(io: &Connected) -> io::Result<usize> {
    static TOLD: Once = Once::new();
    let mut unread: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `io` is borrowed, and SIOCOUTQ (the same
    // number as TIOCOUTQ, see unix(7)) writes one int.
    if unsafe { libc::ioctl(io.as_fd().as_raw_fd(), libc::TIOCOUTQ, &mut unread) } == -1 {
        let error = io::Error::last_os_error();
        // The socket is open and connected, so the error is a sandbox's, whatever it says.
        TOLD.call_once(|| {
            let what =
                "closing cannot wait until the peer has read everything: SIOCOUTQ is refused";
            tracing::warn!(%error, "{what}");
        });
        return Ok(0);
    }
    Ok(unread.try_into().unwrap_or(0))
}

/// Other systems do not say. What was written is in the peer's receive buffer, where it stays readable
/// after this end is closed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn unread_by_peer(io: &Connected) -> io::Result<usize> {
    let _ = io.as_fd().as_raw_fd();
    Ok(0)
}
