//! A connected end of a named pipe.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::os::windows::io::{AsHandle, BorrowedHandle};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use tokio::runtime::Handle;

use super::flush::flush;
use super::listener::Slot;
use super::peek;
use super::peer;
use super::pipe::{Pipe, closed};
use super::transport::{End, either};
use crate::buffers::{BLOCK, Block};
use crate::sys::{Credentials, Flushed, Lingering, Received};
use crate::turn::poll_spend;

/// The largest write with tokio's pipes: they copy what they write, and keep that buffer for the next
/// write.
const MAX_WRITE: usize = 128 << 10;

/// How many reads take what is unread before an end is closed: a peer that goes on sending must not keep
/// it open. tokio's pipes give 4 KiB to each read.
const RESTS: usize = 64;

/// What a stream can do: it depends on its transport.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities {
    keeps_messages: bool,
    owns_buffers: bool,
}

impl Capabilities {
    /// Whether the system keeps messages apart.
    pub(crate) const fn keeps_messages(self) -> bool {
        self.keeps_messages
    }

    /// Whether a write owns its buffer until it is done.
    pub(crate) const fn owns_buffers(self) -> bool {
        self.owns_buffers
    }

    /// Whether one write takes several buffers.
    pub(crate) const fn writes_vectored(self) -> bool {
        false
    }

    /// Whether [`Stream::shutdown`] tells the peer.
    pub(crate) const fn half_closes(self) -> bool {
        false
    }
}

#[derive(Debug)]
pub(crate) struct Stream {
    /// The first field, so that the instance's successor is made before the instance is closed.
    _slot: Option<Slot>,
    end: Arc<End>,
    runtime: Handle,
    /// Whether anything was written that the peer may not have read yet.
    unconfirmed: AtomicBool,
    /// Whether the system was asked what the peer has read, if it had to be asked.
    asked: AtomicBool,
    /// Whether nothing more is taken out of the pipe, unless it has to be.
    refused: AtomicBool,
    /// Whether the peer has left, as far as tokio's pipes can tell.
    ended: AtomicBool,
    /// Where a server's end lingers after it was dropped. A client's end does not.
    lingering: Option<Lingering>,
}

impl Stream {
    /// A server's end, which has its client. `slot` is its place among the server's connections.
    pub(super) fn server(end: End, slot: Option<Slot>, lingering: Lingering) -> Self {
        Stream::new(end, slot, Some(lingering))
    }

    pub(super) fn client(end: End) -> Self {
        Stream::new(end, None, None)
    }

    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    fn new(end: End, slot: Option<Slot>, lingering: Option<Lingering>) -> Self {
        Stream {
            _slot: slot,
            end: Arc::new(end),
            runtime: Handle::current(),
            unconfirmed: AtomicBool::new(false),
            asked: AtomicBool::new(true),
            refused: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            lingering,
        }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities {
            keeps_messages: matches!(*self.end, End::Messages(_)),
            owns_buffers: self.end.pipe().is_some(),
        }
    }

    /// The runtime in which it was made. Its tasks and timers run there, whoever polls.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Lets other tasks run, however fast the peer is. tokio's pipes do this themselves.
        if self.end.pipe().is_some() {
            ready!(poll_spend(cx));
        }
        either!(&*self.end, it => it.poll_read_ready(cx))
    }

    /// Reads what is there; `Ok(0)` is the end, or a `buf` without room.
    pub(crate) fn try_read(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let read = self.end.try_read(buf);
        if let Ok(0) = read {
            self.ended.store(true, Relaxed);
        }
        read
    }

    /// A pipe is read ahead: what has not been read yet, the system does not have either.
    pub(crate) fn read_now(&self, _: &mut impl BufMut) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.unconfirmed.store(true, Relaxed);
        let few = &buf[..buf.len().min(MAX_WRITE)];
        loop {
            let written = match &*self.end {
                End::Server(it) => {
                    ready!(it.poll_write_ready(cx))?;
                    it.try_write(few)
                }
                End::Client(it) => {
                    ready!(it.poll_write_ready(cx))?;
                    it.try_write(few)
                }
                End::Overlapped(pipe) | End::Messages(pipe) => {
                    ready!(poll_spend(cx));
                    return pipe.poll_write(cx, buf);
                }
            };
            match written {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                result => return Poll::Ready(result.map_err(closed)),
            }
        }
    }

    /// Waits until the system has taken what was written, where that can be known: tokio's pipes finish
    /// the last write on their own.
    ///
    /// Gives back the buffer of [`start_send`](Self::start_send), once, whether the write has failed or
    /// not. The buffer may be the application's, and dropping it may run the application's code.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Flushed> {
        match self.end.pipe() {
            Some(pipe) => pipe.poll_flush(cx),
            None => Poll::Ready((Ok(()), None)),
        }
    }

    /// Whether no write is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.end.pipe().is_none_or(Pipe::is_idle)
    }

    /// Waits for a message of at most `max` bytes. Nothing is lost when the caller stops waiting. Only for
    /// a stream that [keeps messages](Capabilities::keeps_messages).
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Received>> {
        match &*self.end {
            End::Messages(pipe) => pipe.poll_recv(cx, max),
            _ => unreachable!("a pipe of bytes keeps no messages apart"),
        }
    }

    /// Begins to write `message` without copying it. Only for a stream that
    /// [owns buffers](Capabilities::owns_buffers), after `poll_flush` was ready.
    pub(crate) fn start_send(&self, message: Bytes) {
        match self.end.pipe() {
            Some(pipe) => pipe.start_send(message),
            None => unreachable!("tokio's pipes copy what they write"),
        }
    }

    /// Writes from the first buffer that is not empty: a pipe takes one at a time.
    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs
            .iter()
            .find(|it| !it.is_empty())
            .map_or(&[][..], |it| it);
        self.poll_write(cx, first)
    }

    /// A pipe of bytes cannot be closed in one direction: the peer sees the end when this end is
    /// dropped.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }

    /// Waits until the peer has read everything that was written; an error when it never will.
    pub(crate) async fn drained(&self) -> io::Result<()> {
        if self.unconfirmed().load(Relaxed) {
            let mut flushing = flush(self.as_handle())?;
            let flushed = poll_fn(|cx| {
                let flushed = Pin::new(&mut flushing).poll(cx);
                self.asked.store(flushing.has_begun(), Relaxed);
                flushed
            });
            flushed.await.map_err(closed)?;
            self.unconfirmed().store(false, Relaxed);
        }
        Ok(())
    }

    /// Notes that nothing more is taken out of the pipe, unless it has to be.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    pub(crate) fn has_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Whether the system was asked what the peer has read, if it had to be asked.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Throws away what has arrived and nobody has read. Closing with unread bytes would make the peer's
    /// close fail (ERROR_BROKEN_PIPE).
    pub(crate) async fn take_rest(&self) {
        let mut scratch = Block::default();
        let mut tries = RESTS;
        poll_fn(|cx| {
            // Asked each time, because others read as well. When something is unread, this waits only
            // for the system.
            while self.unread() > 0 && tries > 0 {
                tries -= 1;
                if ready!(self.poll_read_ready(cx)).is_err() {
                    break;
                }
                let read = self.try_read(&mut scratch.room(BLOCK));
                match read {
                    Ok(1..) => scratch.release(),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// How many bytes have arrived and are still in the pipe.
    fn unread(&self) -> u32 {
        peek::unread(self.as_handle()).map_or(0, |it| it.bytes)
    }

    /// Whether the peer still has its end open.
    pub(crate) fn has_peer(&self) -> bool {
        !self.has_left() && peek::has_peer(self.as_handle())
    }

    fn unconfirmed(&self) -> &AtomicBool {
        match self.end.pipe() {
            Some(pipe) => pipe.unconfirmed(),
            None => &self.unconfirmed,
        }
    }

    fn has_left(&self) -> bool {
        match self.end.pipe() {
            Some(pipe) => pipe.has_left(),
            None => self.ended.load(Relaxed),
        }
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> io::Result<Credentials> {
        peer::of(self.as_handle(), self.is_server())
    }

    /// Only a server's end may linger.
    fn is_server(&self) -> bool {
        self.lingering.is_some()
    }
}

impl Drop for Stream {
    /// A write that the system has not taken yet goes on after the handle is dropped, but ends
    /// with the process. A server that shuts down waits for the task that this spawns in the stream's
    /// own runtime: whoever drops the stream need not be in one.
    fn drop(&mut self) {
        let Some(lingering) = &self.lingering else {
            return;
        };
        let refused = self.has_refused();
        if !self.unconfirmed().load(Relaxed) || self.has_left() {
            if refused {
                self.end.disconnect();
            }
            return;
        }
        let (end, limit) = (self.end.clone(), lingering.limit);
        let linger = async move {
            let taken = async {
                let Ok(flushing) = flush(end.as_handle()) else {
                    return;
                };
                // While it waits for the peer to read, the peer must not wait for it. But an end that has
                // refused a message takes nothing more.
                tokio::select! {
                    flushed = flushing => if refused && flushed.is_ok() {
                        end.disconnect();
                    },
                    _ = end.discard(), if !refused => {}
                }
            };
            let _ = tokio::time::timeout(limit, taken).await;
        };
        lingering.tasks.spawn_on(linger, &self.runtime);
    }
}

impl AsHandle for Stream {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.end.as_handle()
    }
}
