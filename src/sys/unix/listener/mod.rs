//! A listening socket: private before anyone can connect, and the only one on its path.

mod lock;
mod options;
mod socket_file;
mod transient;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockAddr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use self::socket_file::{SocketFile, remove_stale};
use super::socket::{self, Listening};
use super::stream::Stream;
use super::{folder, mode};
use crate::access::Access;
use crate::sys::{Address, Limits, Lingering, PlatformError};

pub(crate) use self::options::ListenOptions;
pub(crate) use self::transient::is_transient;

/// The default backlog; the system may cap it (`net.core.somaxconn`).
const BACKLOG: u32 = 1024;

#[derive(Debug)]
pub(crate) struct Listener {
    /// Dropped before the socket, so that the file is removed while the socket still answers. Otherwise
    /// another server could take the file for stale, and put its own there between our look at the file
    /// and its removal.
    _file: SocketFile,
    io: Listening,
    slots: PollSemaphore,
    /// The place for the next client, taken before the client is accepted.
    slot: Option<OwnedSemaphorePermit>,
}

impl Listener {
    /// `_lingering` is for platforms on which a dropped stream still has work to do.
    pub(crate) fn bind(
        address: Address<'_>,
        limits: &Limits,
        options: &ListenOptions,
        _lingering: Lingering,
    ) -> Result<Self, PlatformError> {
        let path = address.path;
        let failed = |e| PlatformError::io("cannot listen on", e);
        let in_use = |reason| PlatformError::AddressInUse { reason };
        let parent = path.parent().unwrap_or(Path::new("/"));
        if address.is_logical {
            if limits.access != Access::Owner {
                let rule = "other users cannot enter the folder of logical names: take a full path";
                return Err(PlatformError::invalid_option("access", rule));
            }
            if options.mode.is_some_and(|mode| mode & 0o077 != 0) {
                let rule = "others cannot enter the folder of logical names: take a full path";
                return Err(PlatformError::invalid_option("mode", rule));
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
            return Err(PlatformError::Io {
                action: "cannot listen on",
                detail: ": its folder does not exist",
                source,
            });
        }
        let lock = match lock::take(path) {
            // That server is about to listen, or finds that somebody already does.
            Ok(None) => return Err(in_use("another server is just being bound there")),
            taken => taken,
        };
        remove_stale(path, lock.as_ref().err())?;

        let socket = socket::new().map_err(failed)?;
        let socket_address = SockAddr::unix(path).map_err(failed)?;
        mode::at_birth(&socket, mode);
        socket.bind(&socket_address).map_err(|e| match e.kind() {
            // The other server takes no lock, or has none: we were not alone with the path.
            io::ErrorKind::AddrInUse => in_use("another server was faster"),
            _ => failed(e),
        })?;
        let found = fs::symlink_metadata(path).map_err(failed)?;
        let file = SocketFile::new(path, &found);
        // Before `listen`, the system refuses connections: nobody gets in under another mode.
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

    /// Waits for a client, and for a free place for it.
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
    /// Lets nobody connect any more. Returns the clients that have connected but were not accepted yet,
    /// as far as there are places for them.
    #[cfg(feature = "endpoint")]
    pub(crate) fn close(self) -> Vec<Stream> {
        let Listener {
            _file: file,
            io,
            slots,
            mut slot,
        } = self;
        // In the same order as when dropped.
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
