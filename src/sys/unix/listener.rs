//! A listening socket: private before anyone can connect, and the only one on its path.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;
use tokio_util::task::TaskTracker;

use super::folder;
use super::stream::Stream;
use crate::sys::{Limits, Unavailable};
use crate::{Access, Error, PipeName};

/// The backlog unless another is set; the system may cap it (`net.core.somaxconn`).
const BACKLOG: u32 = 1024;

/// How long another process may hold the lock on the folder, which it does for a few calls.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default)]
pub(crate) struct ListenOptions {
    /// In place of what the access says.
    pub(super) mode: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Listener {
    io: UnixListener,
    name: PipeName,
    /// The socket file's device and inode, to recognise it at the end.
    file: (u64, u64),
    slots: PollSemaphore,
    /// The next client's place, taken before the client is.
    slot: Option<OwnedSemaphorePermit>,
}

impl Listener {
    /// `_lingering` is for platforms on which a dropped stream still has something to do.
    pub(crate) fn bind(
        name: &PipeName,
        limits: &Limits,
        options: &ListenOptions,
        _lingering: TaskTracker,
    ) -> Result<Self, Error> {
        let path = name.as_path();
        let failed = |e| Error::from_io("cannot listen on", name, e);
        let parent = path.parent().unwrap_or(Path::new("/"));
        if name.logical {
            if limits.access != Access::Owner {
                let rule = "other users cannot enter the folder of logical names: take a full path";
                return Err(Error::InvalidOption {
                    option: "access",
                    rule: rule.into(),
                });
            }
            folder::prepare(parent).map_err(failed)?;
        }
        let mode = options.mode.unwrap_or(match limits.access {
            Access::Owner => 0o600,
            Access::Group => 0o660,
            Access::Everyone => 0o666,
        });
        // Between here and `listen`, a socket that does not answer may be another server's that
        // is just being born: only one process at a time may be in between.
        let lock = lock(parent, name)?;
        remove_stale(name)?;

        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        socket
            .bind(&SockAddr::unix(path).map_err(failed)?)
            .map_err(failed)?;
        // From here on the file is ours to remove, on every way out.
        let mut bound = Bound { path, armed: true };
        // Before `listen`, connecting is refused: nobody gets in under the umask's mode.
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        let backlog = limits.backlog.unwrap_or(BACKLOG);
        socket
            .listen(backlog.try_into().unwrap_or(i32::MAX))
            .map_err(failed)?;
        let file = identity(path).map_err(failed)?;
        let io = UnixListener::from_std(socket.into()).map_err(failed)?;
        bound.armed = false;
        drop(lock);

        let slots = limits.max_connections.min(Semaphore::MAX_PERMITS);
        let slots = PollSemaphore::new(Arc::new(Semaphore::new(slots)));
        Ok(Listener {
            io,
            name: name.clone(),
            file,
            slots,
            slot: None,
        })
    }

    /// Waits for a client, and for a place to put it.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        if self.slot.is_none() {
            // The semaphore is never closed.
            self.slot = ready!(self.slots.poll_acquire(cx));
        }
        let (io, _) = ready!(self.io.poll_accept(cx))?;
        Poll::Ready(Ok(Stream::new(io, self.slot.take())))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Still listening, so no other server takes the file for stale in between.
        let path = self.name.as_path();
        if identity(path).is_ok_and(|file| file == self.file)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(pipe = %self.name, %error, "cannot remove the socket file");
        }
    }
}

/// Removes the socket file of a server that could not be completed.
struct Bound<'a> {
    path: &'a Path,
    armed: bool,
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        if self.armed {
            let _ = fs::remove_file(self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Takes the lock that every server of this crate takes while it binds: on the folder itself, so
/// that no lock file is left behind. Held for a few system calls only, hence the short patience.
fn lock(folder: &Path, name: &PipeName) -> Result<File, Error> {
    let failed = |e| Error::from_io("cannot lock the folder of", name, e);
    let folder = File::open(folder).map_err(failed)?;
    let started = Instant::now();
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(fs::TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::TimedOut {
                    pipe: name.clone(),
                    action: "listening on",
                    waited: started.elapsed(),
                    reason: "another process holds the lock on the folder",
                });
            }
            Err(fs::TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
}

/// Clears the way when what is in it is the socket of a server that has died.
fn remove_stale(name: &PipeName) -> Result<(), Error> {
    let path = name.as_path();
    let in_use = |reason| Error::AddressInUse {
        pipe: name.clone(),
        reason,
    };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::from_io("cannot look at", name, e)),
        Ok(it) if !it.file_type().is_socket() => {
            return Err(in_use("something that is not a socket is in its place"));
        }
        Ok(_) => {}
    }
    match super::stream::open(path) {
        Err(e) if super::unavailable(&e) == Some(Unavailable::Missing) => {}
        // It answers, or it cannot be asked: it stays.
        Ok(_) => return Err(in_use("another server listens there")),
        Err(e) if super::unavailable(&e) == Some(Unavailable::Busy) => {
            return Err(in_use("another server listens there, and is busy"));
        }
        Err(e) => return Err(Error::from_io("cannot ask who listens on", name, e)),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::from_io("cannot remove the stale socket", name, e))
        }
        _ => Ok(()),
    }
}
