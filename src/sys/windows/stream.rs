//! A connected end of a named pipe.

use std::io::{self, IoSlice};
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, RawHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BufMut;
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use windows_sys::Win32::Foundation::{
    ERROR_FILE_NOT_FOUND, ERROR_PIPE_BUSY, ERROR_PIPE_NOT_CONNECTED,
};
use windows_sys::Win32::System::Pipes::{GetNamedPipeClientProcessId, GetNamedPipeServerProcessId};

use super::flush::flush;
use super::listener::Slot;
use crate::sys::Unavailable;
use crate::{Peer, PipeName};

/// The most that is given to one write: the system's buffer is copied once more on the way, and
/// that copy is kept for the next write.
const MAX_WRITE: usize = 64 << 10;

/// How long a dropped server end waits for its client to take the last bytes.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Stream {
    /// First of the fields, so that the instance's successor is made before it is closed.
    _slot: Option<Slot>,
    pipe: Arc<Pipe>,
    /// Whether anything was written that the peer may not have read yet.
    unconfirmed: AtomicBool,
    /// Whether the peer has left.
    ended: AtomicBool,
    /// Where a dropped server end may be waited for.
    lingering: Option<TaskTracker>,
}

#[derive(Debug)]
enum Pipe {
    Server(NamedPipeServer),
    Client(NamedPipeClient),
}

/// Calls the same method of whichever end it is.
macro_rules! either {
    ($pipe:expr, $it:ident => $call:expr) => {
        match $pipe {
            Pipe::Server($it) => $call,
            Pipe::Client($it) => $call,
        }
    };
}

/// What an error of [`Stream::connect`] says about the server.
pub(crate) fn unavailable(error: &io::Error) -> Option<Unavailable> {
    match error.raw_os_error()? as u32 {
        ERROR_FILE_NOT_FOUND => Some(Unavailable::Missing),
        ERROR_PIPE_BUSY => Some(Unavailable::Busy),
        _ => None,
    }
}

impl Stream {
    pub(super) fn server(pipe: NamedPipeServer, slot: Slot, lingering: TaskTracker) -> Self {
        Stream::new(Pipe::Server(pipe), Some(slot), Some(lingering))
    }

    fn new(pipe: Pipe, slot: Option<Slot>, lingering: Option<TaskTracker>) -> Self {
        Stream {
            _slot: slot,
            pipe: Arc::new(pipe),
            unconfirmed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            lingering,
        }
    }

    /// One attempt, which does not wait. The server may identify the client, and no more:
    /// tokio's default is SECURITY_SQOS_PRESENT with SECURITY_IDENTIFICATION.
    pub(crate) fn connect(name: &PipeName) -> io::Result<Self> {
        let pipe = ClientOptions::new().open(name.as_path())?;
        Ok(Stream::new(Pipe::Client(pipe), None, None))
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&*self.pipe, it => it.poll_read_ready(cx))
    }

    /// Reads what is there; `Ok(0)` is the end, or a `buf` without room.
    pub(crate) fn try_read(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        match either!(&*self.pipe, it => it.try_read_buf(buf)) {
            Ok(0) => {
                self.ended.store(true, Relaxed);
                Ok(0)
            }
            // The server has disconnected this client: its way of hanging up.
            Err(e) if e.raw_os_error() == Some(ERROR_PIPE_NOT_CONNECTED as i32) => {
                self.ended.store(true, Relaxed);
                Ok(0)
            }
            result => result,
        }
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let buf = &buf[..buf.len().min(MAX_WRITE)];
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.unconfirmed.store(true, Relaxed);
        loop {
            ready!(either!(&*self.pipe, it => it.poll_write_ready(cx)))?;
            match either!(&*self.pipe, it => it.try_write(buf)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(e) if e.raw_os_error() == Some(ERROR_PIPE_NOT_CONNECTED as i32) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, e)));
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Writes from the first buffer that has something: a pipe takes one at a time.
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

    pub(crate) fn is_write_vectored(&self) -> bool {
        false
    }

    /// A pipe of bytes cannot be closed in one direction: the peer sees the end when this end is
    /// dropped.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }

    /// Waits until the peer has read everything that was written; an error when it never will.
    pub(crate) async fn drained(&self) -> io::Result<()> {
        if self.unconfirmed.load(Relaxed) {
            flush(self.pipe.clone()).await?;
            self.unconfirmed.store(false, Relaxed);
        }
        Ok(())
    }

    pub(crate) fn peer(&self) -> io::Result<Peer> {
        let ask = match &*self.pipe {
            Pipe::Server(_) => GetNamedPipeClientProcessId,
            Pipe::Client(_) => GetNamedPipeServerProcessId,
        };
        let mut process_id = 0;
        // SAFETY: the handle is open for as long as `self` is borrowed.
        if unsafe { ask(self.pipe.as_raw_handle(), &mut process_id) } == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Peer {
            process_id: Some(process_id),
        })
    }
}

impl Drop for Stream {
    /// A write that the system has not taken yet goes on after the handle is dropped, but ends
    /// with the process. A server that shuts down waits for what is spawned here.
    fn drop(&mut self) {
        let Some(lingering) = &self.lingering else {
            return;
        };
        if !*self.unconfirmed.get_mut() || *self.ended.get_mut() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let pipe = self.pipe.clone();
            let flush = async move { tokio::time::timeout(LINGER, flush(pipe)).await };
            lingering.spawn_on(flush, &runtime);
        }
    }
}

impl AsRawHandle for Pipe {
    fn as_raw_handle(&self) -> RawHandle {
        either!(self, it => it.as_raw_handle())
    }
}

impl AsHandle for Stream {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        either!(&*self.pipe, it => it.as_handle())
    }
}
