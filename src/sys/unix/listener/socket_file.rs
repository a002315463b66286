//! The file of a listening socket: a stale one is removed before binding, and our own at the end.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::sys::PlatformError;
use crate::sys::platform::process::Process;
use crate::sys::platform::{connect, mode};

/// The file of a socket that we have bound. It is removed at the end, if it is still the same file.
///
/// While the socket exists, it keeps the inode, so no other file gets that inode.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The process that bound it. A copy of this in a forked process does not remove the file.
    owner: Process,
    identity: (u64, u64),
}

impl SocketFile {
    /// The file that was `found` after binding.
    pub(super) fn new(path: &Path, found: &Metadata) -> Self {
        SocketFile {
            path: path.to_owned(),
            owner: Process::this(),
            identity: mode::identity(found),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.owner != Process::this() {
            return;
        }
        let path = self.path.as_path();
        if fs::symlink_metadata(path).is_ok_and(|it| mode::identity(&it) == self.identity)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(pipe = %path.display(), %error, "cannot remove the socket file");
        }
    }
}

/// Removes the socket of a server that has died.
///
/// Needs the lock: of two servers that find it dead, the second would otherwise remove the file of the
/// first, which would then run without being found.
pub(super) fn remove_stale(path: &Path, no_lock: Option<&io::Error>) -> Result<(), PlatformError> {
    let in_use = |reason| PlatformError::AddressInUse { reason };
    let look = || match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(PlatformError::io("cannot look at", e)),
        Ok(it) if !it.file_type().is_socket() => {
            Err(in_use("something that is not a socket is in its place"))
        }
        // With the time of its last change, since a new file may get the inode of a removed one.
        Ok(it) => Ok(Some((mode::identity(&it), (it.ctime(), it.ctime_nsec())))),
    };
    let Some(found) = look()? else {
        return Ok(());
    };
    match connect::open(path) {
        Err(e) if connect::is_missing(&e) => {}
        // A server answers, or may be there: the file stays.
        Ok(_) => return Err(in_use("another server listens there")),
        Err(e) if connect::is_busy(&e) => {
            return Err(in_use("another server listens there, and is busy"));
        }
        Err(e) if e.raw_os_error() == Some(libc::EPROTOTYPE) => {
            return Err(in_use("a socket of another type is in its place"));
        }
        Err(e) => return Err(PlatformError::io("cannot ask who listens on", e)),
    }
    if let Some(error) = no_lock {
        return Err(PlatformError::Io {
            action: "cannot replace the socket of a dead server at",
            detail: " without a lock; remove it if no server is being started there",
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
            Err(PlatformError::io("cannot remove the stale socket", e))
        }
        _ => Ok(()),
    }
}
