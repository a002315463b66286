//! Non-blocking sockets, watched by tokio.
//!
//! Watching a socket for writing wakes its process each time the peer has read something. That is one of
//! two wake-ups of a round trip, and useless unless a write waits. On idle processors it does no harm:
//! the process that it wakes is already awake when the answer comes. So the first few connections of a
//! process are watched for both directions, and further ones only for reading, until a write has to
//! wait.

use std::io::{self, IoSlice};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::process::Process;
use crate::sync::{Deadline, lock};
use crate::turn::poll_spend;

/// How many connections per processor are watched for both directions. On a machine with one processor,
/// none: there the peer cannot run while the process that waits for it is awake.
const BOTH_WAYS: usize = 2;

/// A second descriptor, made because a write had to wait, is kept for this many writes.
const TWIN_WRITES: u32 = 16;

/// The pause before a write is tried again when no descriptor is left to wait with.
const PAUSE: Duration = Duration::from_millis(5);

/// How many pieces a write may have (IOV_MAX).
const PIECES: usize = 1024;

/// Without this, SIGPIPE may kill a program that is not in Rust. Apple's systems have an option instead,
/// which socket2 sets.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: libc::c_int = 0;

/// A socket for listening or connecting.
pub(super) fn new() -> io::Result<Socket> {
    // In one call where the system can.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn accept(listening: &Socket) -> io::Result<Socket> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let socket = match listening.accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) {
        Ok((socket, _)) => return Ok(socket),
        // A sandbox may allow only the older call. For a moment, a program that is just being started
        // can inherit its socket.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            let (socket, _) = listening.accept_raw()?;
            socket.set_cloexec(true)?;
            socket
        }
        Err(e) => return Err(e),
    };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let (socket, _) = listening.accept()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A descriptor that the runtime watches, for the process that made it.
///
/// A process forked from that one shares the reactor. Dropping its copy must only close the descriptor
/// and not tell the reactor, which would stop watching for the first process (epoll_ctl(2)).
#[derive(Debug)]
struct Watched<T: AsRawFd> {
    io: ManuallyDrop<AsyncFd<T>>,
    owner: Process,
}

impl<T: AsRawFd> Watched<T> {
    #[allow(deprecated, reason = "its successor is the same, and unsafe")]
    fn new(socket: T, interest: Interest) -> io::Result<Self> {
        Ok(Watched {
            io: ManuallyDrop::new(AsyncFd::with_interest(socket, interest)?),
            owner: Process::this(),
        })
    }

    fn is_ours(&self) -> bool {
        self.owner == Process::this()
    }
}

impl<T: AsRawFd> Deref for Watched<T> {
    type Target = AsyncFd<T>;

    fn deref(&self) -> &AsyncFd<T> {
        &self.io
    }
}

impl<T: AsRawFd> Drop for Watched<T> {
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: it is not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.io) };
        } else {
            // SAFETY: nothing uses the descriptor afterwards: what owns it is never dropped.
            unsafe { libc::close(self.io.get_ref().as_raw_fd()) };
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listening(Watched<Socket>);

impl Listening {
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        Watched::new(socket, Interest::READABLE).map(Listening)
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        poll_try(&self.0, Interest::READABLE, cx, || accept(self.0.get_ref()))
    }

    /// For a listener that cannot accept at the moment: fails once the reactor is gone, and wakes the
    /// task when it goes. Asks for write readiness, which a listening socket never has. Read readiness
    /// is there while clients wait, so no wake-up would come.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.0.poll_write_ready(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// From now on, the system refuses new connections; where it cannot do that, once this is dropped.
    #[cfg(feature = "endpoint")]
    pub(super) fn refuse(&self) {
        if self.0.is_ours() {
            let _ = self.0.get_ref().shutdown(std::net::Shutdown::Read);
        }
    }

    /// Accepts a waiting client, whatever the reactor knows about it.
    #[cfg(feature = "endpoint")]
    pub(super) fn accept_now(&self) -> io::Result<Socket> {
        accept(self.0.get_ref())
    }
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Connected {
    io: Watched<Socket>,
    /// The runtime in which it was made. It watches every descriptor of the connection, whoever polls:
    /// the polling task's runtime may end sooner, or not be tokio's.
    runtime: Handle,
    both_ways: bool,
    /// Set once a write has had to wait.
    full: Mutex<Option<Full>>,
    _counted: Counted,
}

/// How a write waits for room.
#[derive(Debug)]
enum Full {
    /// On the descriptor that is watched anyway.
    Watched,
    /// On a second descriptor of the socket, since one can be watched in one way only. A new one is made
    /// after some writes, if it is still needed then.
    Twin { io: Watched<OwnedFd>, writes: u32 },
    /// By trying again: no descriptor is left for a twin.
    Later(Deadline),
}

impl Connected {
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        let counted = Counted::new();
        let both_ways = counted.are_few();
        let interest = match both_ways {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        Ok(Connected {
            io: Watched::new(socket, interest)?,
            runtime: Handle::current(),
            both_ways,
            full: Mutex::default(),
            _counted: counted,
        })
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_read_ready(cx).map_ok(drop)
    }

    /// Reads if there may be something. If `read` would block, nothing is left.
    pub(super) fn try_read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.io.try_io(Interest::READABLE, |_| read())
    }

    /// A write that has to wait fails if the runtime that would wake it has ended.
    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // However fast the peer is, other tasks of the runtime get to run.
        ready!(poll_spend(cx));
        let mut full = lock(&self.full);
        if full.is_none() {
            match self.write(bufs) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => *full = Some(self.wait()?),
                result => return Poll::Ready(result),
            }
        }
        let write = || self.write(bufs);
        let (result, is_needed) = match full.as_mut() {
            None | Some(Full::Watched) => {
                let result = ready!(poll_try(&self.io, Interest::WRITABLE, cx, write));
                (result, false)
            }
            Some(Full::Twin { io, writes }) => {
                let result = ready!(poll_try(io, Interest::WRITABLE, cx, write));
                *writes += 1;
                (result, *writes < TWIN_WRITES)
            }
            Some(Full::Later(pause)) => (ready!(self.poll_later(pause, cx, write)), false),
        };
        if !is_needed {
            *full = None;
        }
        Poll::Ready(result)
    }

    fn write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = SockRef::from(self);
        match bufs {
            [buf] => socket.send_with_flags(buf, NO_SIGNAL),
            _ => socket.send_vectored_with_flags(&bufs[..bufs.len().min(PIECES)], NO_SIGNAL),
        }
    }

    fn wait(&self) -> io::Result<Full> {
        if self.both_ways {
            return Ok(Full::Watched);
        }
        let later = || Full::Later(self.pause());
        let Ok(twin) = self.as_fd().try_clone_to_owned() else {
            return Ok(later());
        };
        let _entered = self.runtime.enter();
        match Watched::new(twin, Interest::WRITABLE) {
            Ok(io) => Ok(Full::Twin { io, writes: 0 }),
            // The system can watch no more descriptors.
            Err(e) if e.raw_os_error().is_some() => Ok(later()),
            // Not an error of the system: the runtime has ended.
            Err(e) => Err(e),
        }
    }

    fn pause(&self) -> Deadline {
        Deadline::after(PAUSE, &self.runtime)
    }

    fn poll_later<T>(
        &self,
        pause: &mut Deadline,
        cx: &mut Context<'_>,
        f: impl Fn() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        // Watched for reading only, it reports only the end of the runtime or of the peer here.
        if let Poll::Ready(Err(e)) = self.io.poll_write_ready(cx) {
            return Poll::Ready(Err(e));
        }
        loop {
            ready!(pause.poll(cx));
            match f() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => *pause = self.pause(),
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsFd for Connected {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.get_ref().as_fd()
    }
}

/// Tries `f` until it does not block.
fn poll_try<S: AsRawFd, T>(
    io: &AsyncFd<S>,
    interest: Interest,
    cx: &mut Context<'_>,
    f: impl Fn() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        let mut ready = ready!(match interest.is_writable() {
            true => io.poll_write_ready(cx),
            false => io.poll_read_ready(cx),
        })?;
        match f() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            result => return Poll::Ready(result),
        }
    }
}

/// One of the connections of this process.
#[derive(Debug)]
struct Counted {
    before: usize,
}

static CONNECTED: AtomicUsize = AtomicUsize::new(0);

impl Counted {
    fn new() -> Self {
        Counted {
            before: CONNECTED.fetch_add(1, Relaxed),
        }
    }

    fn are_few(&self) -> bool {
        static FEW: LazyLock<usize> = LazyLock::new(|| match processors() {
            0 | 1 => 0,
            processors => BOTH_WAYS * processors,
        });
        self.before < *FEW
    }
}

/// How many processors the machine has: the peer may run on those that this process may not use.
fn processors() -> usize {
    // SAFETY: takes a number.
    let processors = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    processors.try_into().unwrap_or(0)
}

impl Drop for Counted {
    fn drop(&mut self) {
        CONNECTED.fetch_sub(1, Relaxed);
    }
}
