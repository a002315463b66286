//! A connected end of a named pipe.

use std::future::{Future as _, pending, poll_fn};
use std::io::{self, IoSlice};
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{
    AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, IntoRawHandle, OwnedHandle,
};
use std::pin::Pin;
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use tokio::net::windows::named_pipe::{NamedPipeClient, NamedPipeServer};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use windows_sys::Win32::Foundation::{
    ERROR_FILE_NOT_FOUND, ERROR_PIPE_BUSY, ERROR_PIPE_NOT_CONNECTED, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_OVERLAPPED, OPEN_EXISTING, SECURITY_ANONYMOUS, SECURITY_IDENTIFICATION,
    SECURITY_SQOS_PRESENT,
};
use windows_sys::Win32::System::Pipes::{
    DisconnectNamedPipe, GetNamedPipeClientProcessId, GetNamedPipeClientSessionId,
    GetNamedPipeServerProcessId, GetNamedPipeServerSessionId,
};

use super::flush::flush;
use super::instance::{Instance, Transport};
use super::listener::Slot;
use super::name;
use super::peek;
use super::pipe::Pipe;
use super::user;
use crate::buffers::{BLOCK, Block};
use crate::sys::{Lingering, Unavailable};
use crate::turn::poll_spend;
use crate::{Error, Peer, PipeName};

/// The most that is given to one write: the system's buffer is copied once more on the way, and
/// that copy is kept for the next write.
const MAX_WRITE: usize = 128 << 10;

/// How often what is left is read before an end is closed: a peer that goes on sending does not keep
/// it. tokio's pipes give 4 KiB to each.
const RESTS: usize = 64;

#[derive(Debug)]
pub(crate) struct Stream {
    /// First of the fields, so that the instance's successor is made before it is closed.
    _slot: Option<Slot>,
    end: Arc<End>,
    runtime: Handle,
    /// Whether anything was written that the peer may not have read yet.
    unconfirmed: AtomicBool,
    /// Whether the system was asked what the peer has read, as far as that had to be asked.
    asked: AtomicBool,
    /// Whether nothing more is taken out of the pipe, unless it has to be.
    refused: AtomicBool,
    /// Whether the peer has left, as far as tokio's pipes tell.
    ended: AtomicBool,
    /// Where a dropped server end may be waited for.
    lingering: Option<Lingering>,
}

/// Whose I/O moves the bytes.
#[derive(Debug)]
enum End {
    Server(NamedPipeServer),
    Client(NamedPipeClient),
    /// `messages`: the system keeps them apart.
    Own {
        pipe: Pipe,
        is_server: bool,
        messages: bool,
    },
}

/// Calls the same method of whichever end it is.
macro_rules! either {
    ($end:expr, $it:ident => $call:expr) => {
        match $end {
            End::Server($it) => $call,
            End::Client($it) => $call,
            End::Own { pipe: $it, .. } => $call,
        }
    };
}

/// How a client opens its end.
#[derive(Clone, Debug)]
pub(crate) struct ConnectOptions {
    pub(super) transport: Transport,
    pub(super) empty_is_end: bool,
    pub(super) impersonation: Impersonation,
    /// Whether the server says how long a busy pipe is waited for.
    pub(super) server_default_wait: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions {
            transport: Transport::Tokio,
            empty_is_end: false,
            impersonation: Impersonation::Identification,
            server_default_wait: false,
        }
    }
}

/// What a client lets its server do with the client's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Impersonation {
    /// Nothing: the server cannot even tell who the client is.
    Anonymous = SECURITY_ANONYMOUS,
    /// Ask who the client is, and no more. The default.
    Identification = SECURITY_IDENTIFICATION,
}

/// What an error of [`Stream::connect`] says about the server.
pub(crate) fn unavailable(error: &io::Error) -> Option<Unavailable> {
    match error.raw_os_error()? as u32 {
        ERROR_FILE_NOT_FOUND => Some(Unavailable::Missing),
        ERROR_PIPE_BUSY => Some(Unavailable::Busy),
        _ => None,
    }
}

impl ConnectOptions {
    pub(crate) fn check(&self) -> Result<(), Error> {
        super::instance::check_end(self.empty_is_end, self.transport)
    }
}

impl Stream {
    pub(super) fn server(instance: Instance, slot: Option<Slot>, lingering: Lingering) -> Self {
        match instance {
            Instance::Tokio(pipe) => Stream::new(End::Server(pipe), slot, Some(lingering)),
            Instance::Own { pipe, messages } => {
                let end = End::Own {
                    pipe,
                    is_server: true,
                    messages,
                };
                Stream::new(end, slot, Some(lingering))
            }
        }
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

    /// One attempt, which waits for nothing but another machine's answer.
    pub(crate) async fn connect(name: &PipeName, options: &ConnectOptions) -> io::Result<Self> {
        let handle = if name::is_local(name.as_path()) {
            open(name, options.impersonation)?
        } else {
            let (name, level) = (name.clone(), options.impersonation);
            let opening = spawn_blocking(move || open(&name, level));
            opening.await.map_err(io::Error::other)??
        };
        let messages = options.transport == Transport::Messages;
        let end = if options.transport == Transport::Tokio {
            // SAFETY: the handle is a client's end, opened for overlapped I/O, that nobody else
            // owns.
            End::Client(unsafe { NamedPipeClient::from_raw_handle(handle.into_raw_handle()) }?)
        } else {
            let pipe = Pipe::new(handle, options.empty_is_end)?;
            if messages {
                pipe.set_message_mode()?;
            }
            End::Own {
                pipe,
                is_server: false,
                messages,
            }
        };
        Ok(Stream::new(end, None, None))
    }

    /// The pipe, if the system keeps its messages apart.
    pub(crate) fn messages(&self) -> Option<&Pipe> {
        match &*self.end {
            End::Own {
                pipe,
                messages: true,
                ..
            } => Some(pipe),
            _ => None,
        }
    }

    /// Who writes, where the system keeps a buffer until it is written.
    pub(crate) fn writer(&self) -> Option<&Pipe> {
        match &*self.end {
            End::Own { pipe, .. } => Some(pipe),
            _ => None,
        }
    }

    /// In which it was made: its tasks and timers are that one's, whoever polls.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // tokio's pipes do this themselves: however fast the peer is, other tasks run now and then.
        if let End::Own { .. } = &*self.end {
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

    /// A pipe is read ahead: what is not there yet, the system has not got.
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
                End::Own { pipe, .. } => {
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

    /// Waits until the system has taken what was written, where it tells: tokio's pipes keep the
    /// last write going on their own.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &*self.end {
            End::Own { pipe, .. } => pipe.poll_flush(cx),
            _ => Poll::Ready(Ok(())),
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

    /// Whether [`shutdown`](Self::shutdown) tells the peer.
    pub(crate) fn can_shutdown(&self) -> bool {
        false
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

    /// Whether the system was asked what the peer has read, as far as that had to be asked.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Throws away what has come and nobody has read: closing with it unread would make the peer's
    /// close fail (ERROR_BROKEN_PIPE).
    pub(crate) async fn take_rest(&self) {
        let mut scratch = Block::default();
        let mut tries = RESTS;
        poll_fn(|cx| {
            // Asked each time, because others read as well. When there is something, the wait is
            // for the system alone.
            while self.unread() > 0 && tries > 0 {
                tries -= 1;
                if ready!(self.poll_read_ready(cx)).is_err() {
                    break;
                }
                let read = self.try_read(&mut scratch.room(BLOCK));
                match read {
                    Ok(1..) => scratch.rest(),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// How many bytes have come that were not taken out of the pipe.
    fn unread(&self) -> u32 {
        peek::unread(self.as_handle()).map_or(0, |it| it.bytes)
    }

    fn unconfirmed(&self) -> &AtomicBool {
        match &*self.end {
            End::Own { pipe, .. } => pipe.unconfirmed(),
            _ => &self.unconfirmed,
        }
    }

    fn has_left(&self) -> bool {
        match &*self.end {
            End::Own { pipe, .. } => pipe.has_left(),
            _ => self.ended.load(Relaxed),
        }
    }

    /// Who is at the other end. What the system does not tell is left out, except that it must
    /// tell the process, which it does as long as the pipe is connected.
    pub(crate) fn peer(&self) -> io::Result<Peer> {
        let is_server = self.is_server();
        let (process_id, session_id) = if is_server {
            (
                self.ask(GetNamedPipeClientProcessId)?,
                self.ask(GetNamedPipeClientSessionId),
            )
        } else {
            (
                self.ask(GetNamedPipeServerProcessId)?,
                self.ask(GetNamedPipeServerSessionId),
            )
        };
        let handle = self.as_handle();
        let user = match is_server {
            true => user::of_client(handle, process_id),
            false => user::of_owner(handle),
        };
        Ok(Peer {
            process_id: Some(process_id),
            session_id: session_id.ok(),
            user: user.ok(),
        })
    }

    fn is_server(&self) -> bool {
        matches!(
            &*self.end,
            End::Server(_)
                | End::Own {
                    is_server: true,
                    ..
                }
        )
    }

    /// Asks the system for one of the numbers that it has of a pipe.
    fn ask(&self, question: unsafe extern "system" fn(HANDLE, *mut u32) -> i32) -> io::Result<u32> {
        let mut answer = 0;
        // SAFETY: the handle is open for as long as `self` is borrowed; `answer` is written.
        if unsafe { question(self.as_handle().as_raw_handle(), &mut answer) } == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(answer)
    }
}

impl Drop for Stream {
    /// A write that the system has not taken yet goes on after the handle is dropped, but ends
    /// with the process. A server that shuts down waits for what is spawned here, in the stream's own
    /// runtime: whoever drops it need not be in one.
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

impl End {
    fn try_read(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let read = match self {
            End::Server(it) => it.try_read_buf(buf),
            End::Client(it) => it.try_read_buf(buf),
            End::Own { pipe, .. } => pipe.try_read(buf),
        };
        match read {
            // The server has disconnected this client: its way of hanging up.
            Err(e) if e.raw_os_error() == Some(ERROR_PIPE_NOT_CONNECTED as i32) => Ok(0),
            result => result,
        }
    }

    /// Hangs up in a way that the client can tell from an ordinary end, later too: flushing fails for it.
    /// Only for a server's end. What the client has not read is lost, so only when it has read
    /// everything.
    fn disconnect(&self) {
        // SAFETY: the handle is open for as long as `self` is borrowed.
        unsafe { DisconnectNamedPipe(self.as_handle().as_raw_handle()) };
    }

    /// Reads and throws away, until the peer has left.
    async fn discard(&self) -> io::Result<()> {
        let mut scratch = BytesMut::new();
        loop {
            poll_fn(|cx| either!(self, it => it.poll_read_ready(cx))).await?;
            scratch.clear();
            scratch.reserve(4 << 10);
            match self.try_read(&mut scratch) {
                // It still reads: that is for others to wait for.
                Ok(0) if matches!(self, End::Own { pipe, .. } if !pipe.has_left()) => {
                    pending().await
                }
                Ok(0) => return Ok(()),
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                _ => {}
            }
        }
    }
}

impl AsHandle for End {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        either!(self, it => it.as_handle())
    }
}

impl AsHandle for Stream {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.end.as_handle()
    }
}

/// Opens a client's end, for bytes.
fn open(name: &PipeName, level: Impersonation) -> io::Result<OwnedHandle> {
    let path: Vec<u16> = name
        .as_path()
        .as_os_str()
        .encode_wide()
        .chain([0])
        .collect();
    // SAFETY: the path ends with NUL; no security attributes, no template.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            super::instance::CLIENT_RIGHTS,
            0,
            null(),
            OPEN_EXISTING,
            FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | level as u32,
            null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// A peer that was disconnected is one that has left, which std does not know of.
pub(super) fn closed(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(ERROR_PIPE_NOT_CONNECTED as i32) {
        return io::Error::new(io::ErrorKind::BrokenPipe, error);
    }
    error
}
