//! A listening socket: private before anyone can connect, and the only one on its path.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockAddr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use super::process::Process;
use super::socket::{self, Listening};
use super::stream::Stream;
use super::{folder, lock, mode};
use crate::sys::{Limits, Lingering, Unavailable};
use crate::{Access, Error, PipeName};

/// The backlog unless another is set; the system may cap it (`net.core.somaxconn`).
const BACKLOG: u32 = 1024;

#[derive(Clone, Debug, Default)]
pub(crate) struct ListenOptions {
    /// In place of what the access says.
    pub(super) mode: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Listener {
    /// Before the socket itself, so that the file is removed while it still answers, and no other
    /// server takes it for stale: it would put its own there, between our look at the file and its
    /// removal.
    _file: SocketFile,
    io: Listening,
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
        _lingering: Lingering,
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
            if options.mode.is_some_and(|mode| mode & 0o077 != 0) {
                let rule = "others cannot enter the folder of logical names: take a full path";
                return Err(Error::InvalidOption {
                    option: "mode",
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
        if let Err(source) = fs::metadata(parent)
            && source.kind() == io::ErrorKind::NotFound
        {
            let action = format!("cannot listen on {name}: its folder does not exist");
            return Err(Error::Io { action, source });
        }
        let lock = match lock::take(path) {
            // It is about to listen, or finds that somebody does.
            Ok(None) => return Err(in_use(name, "another server is just being bound there")),
            taken => taken,
        };
        remove_stale(name, lock.as_ref().err())?;

        let socket = socket::new().map_err(failed)?;
        let address = SockAddr::unix(path).map_err(failed)?;
        mode::at_birth(&socket, mode);
        socket.bind(&address).map_err(|e| match e.kind() {
            // It takes no lock, or has none: this one was not alone with the path.
            io::ErrorKind::AddrInUse => in_use(name, "another server was faster"),
            _ => failed(e),
        })?;
        let found = fs::symlink_metadata(path).map_err(failed)?;
        let file = SocketFile {
            name: name.clone(),
            owner: Process::this(),
            identity: mode::identity(&found),
        };
        // Before `listen`, connecting is refused: nobody gets in under another mode.
        mode::set(path, &found, mode).map_err(failed)?;
        let backlog = limits.backlog.unwrap_or(BACKLOG);
        let backlog = backlog.try_into().unwrap_or(i32::MAX);
        socket.listen(backlog).map_err(failed)?;
        let io = Listening::new(socket).map_err(failed)?;
        drop(lock);

        let slots = limits.max_connections.min(Semaphore::MAX_PERMITS);
        let slots = PollSemaphore::new(Arc::new(Semaphore::new(slots)));
        Ok(Listener {
            _file: file,
            io,
            slots,
            slot: None,
        })
    }

    /// Waits for a client, and for a place to put it.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        if self.slot.is_none() {
            match self.slots.poll_acquire(cx) {
                // The semaphore is never closed.
                Poll::Ready(slot) => self.slot = slot,
                Poll::Pending => {
                    self.io.poll_gone(cx)?;
                    return Poll::Pending;
                }
            }
        }
        let socket = ready!(self.io.poll_accept(cx))?;
        Poll::Ready(Stream::new(socket, self.slot.take()))
    }
}

impl Listener {
    /// Lets nobody connect any more, and gives those who have and were not accepted yet, as far as
    /// there are places for them.
    #[cfg(feature = "endpoint")]
    pub(crate) fn close(self) -> Vec<Stream> {
        let Listener {
            _file: file,
            io,
            slots,
            mut slot,
        } = self;
        // In this order, as in dropping.
        drop(file);
        io.refuse();
        let mut last = Vec::new();
        let slots = slots.clone_inner();
        while let Some(place) = slot
            .take()
            .or_else(|| slots.clone().try_acquire_owned().ok())
            && let Ok(socket) = io.accept_now()
        {
            last.extend(Stream::new(socket, Some(place)));
        }
        last
    }
}

/// The file of a socket that we have bound, removed at the end if it is still that one.
///
/// Nobody else's file gets its inode while the socket is there, which keeps it.
#[derive(Debug)]
struct SocketFile {
    name: PipeName,
    /// The process that has bound it. In one that was forked from it, a copy of this says nothing.
    owner: Process,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.owner != Process::this() {
            return;
        }
        let path = self.name.as_path();
        if fs::symlink_metadata(path).is_ok_and(|it| mode::identity(&it) == self.identity)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(pipe = %self.name, %error, "cannot remove the socket file");
        }
    }
}

fn in_use(name: &PipeName, reason: &'static str) -> Error {
    Error::AddressInUse {
        pipe: name.clone(),
        reason,
    }
}

/// Clears the way when what is in it is the socket of a server that has died.
///
/// Not without the lock: of two servers that find it dead, the second would remove the file of the
/// first, which would then be alive and found by nobody.
fn remove_stale(name: &PipeName, no_lock: Option<&io::Error>) -> Result<(), Error> {
    let path = name.as_path();
    let in_use = |reason| in_use(name, reason);
    let look = || match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::from_io("cannot look at", name, e)),
        Ok(it) if !it.file_type().is_socket() => {
            Err(in_use("something that is not a socket is in its place"))
        }
        // With the time of its last change, since a new file may get a removed one's inode.
        Ok(it) => Ok(Some((mode::identity(&it), (it.ctime(), it.ctime_nsec())))),
    };
    let Some(found) = look()? else {
        return Ok(());
    };
    match super::stream::open(path) {
        Err(e) if super::unavailable(&e) == Some(Unavailable::Missing) => {}
        // It answers, or it cannot be asked: it stays.
        Ok(_) => return Err(in_use("another server listens there")),
        Err(e) if super::unavailable(&e) == Some(Unavailable::Busy) => {
            return Err(in_use("another server listens there, and is busy"));
        }
        Err(e) if e.raw_os_error() == Some(libc::EPROTOTYPE) => {
            return Err(in_use("a socket of another type is in its place"));
        }
        Err(e) => return Err(Error::from_io("cannot ask who listens on", name, e)),
    }
    if let Some(error) = no_lock {
        return Err(Error::Io {
            action: format!(
                "cannot replace the socket of a dead server at {name} without a lock; remove it if \
                 no server is being started there"
            ),
            source: io::Error::new(error.kind(), error.to_string()),
        });
    }
    // Servers of other programs take no lock.
    match look()? {
        None => return Ok(()),
        Some(now) if now != found => {
            return Err(in_use(
                "another server has just taken the place of a dead one",
            ));
        }
        Some(_) => {}
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::from_io("cannot remove the stale socket", name, e))
        }
        _ => Ok(()),
    }
}
