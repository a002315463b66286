//! One server at a time binds a path.
//!
//! Between binding and listening, a socket does not answer, as if its server had died. So servers of
//! this crate first take a lock for the path, and release it once they listen. They hold it for a few
//! system calls, and nobody waits for it. Only the user can open the lock file: otherwise others could
//! hold the lock for ever.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::sys::platform::{folder, mode, user};

/// How often a previous holder may remove the file between our opening and locking it.
const TRIES: u32 = 16;

/// The lock for a path, held until this is dropped. That also removes the file.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

/// Takes the lock for the path of a socket. `None`: another server holds it. An error says why no lock
/// is possible here.
pub(super) fn take(socket: &Path) -> io::Result<Option<Lock>> {
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let found = fs::metadata(folder)?;
    // Next to the socket, all servers of the user find it, whatever their environment is.
    if mode::keeps_what_is_ours(&found) {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".asyncipc-lock");
        match take_at(folder.join(hidden)) {
            // A moment later, it might succeed for another server.
            Err(e) if is_passing(&e) => return Err(e),
            // In a folder that everyone uses, somebody else's file may have that name.
            Err(_) => {}
            taken => return taken,
        }
    }
    // Not below `$XDG_RUNTIME_DIR`, which a service, a session and cron of one user see differently. The
    // temporary folder differs only where somebody has asked for that.
    let private = folder::temporary();
    folder::prepare(&private)?;
    // Named after the folder's identity, since several paths may lead to the folder.
    let (device, inode) = mode::identity(&found);
    let mut unique = OsString::from(format!("{device:x}-{inode:x}-"));
    unique.push(name);
    unique.push(".lock");
    take_at(private.join(unique))
}

fn take_at(path: PathBuf) -> io::Result<Option<Lock>> {
    for _ in 0..TRIES {
        let Some((file, is_new)) = open(&path)? else {
            continue;
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                // A server that is not behind this filter may have locked an older file.
                if is_new {
                    let _ = fs::remove_file(&path);
                }
                return Err(error);
            }
        }
        let now = fs::symlink_metadata(&path);
        if now.is_ok_and(|it| is_same(&it, &file)) {
            return Ok(Some(Lock { file, path }));
        }
        // The previous holder has removed the file: there is a new one, or will be.
        file.unlock()?;
    }
    Ok(None)
}

/// Whether the missing resource may be available again at once.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
    )
}

/// Creates the lock file, with a mode that lets nobody else open it, or opens the existing one; and says
/// whether it is new. `None` when somebody has removed it meanwhile.
fn open(path: &Path) -> io::Result<Option<(File, bool)>> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let (opened, is_new) = match options.clone().create_new(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (options.open(path), false),
        made => (made, true),
    };
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !is_new => return Ok(None),
        // Under a umask of 0777, its creator has not reached the last lines yet, or never will.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !is_new => {
            return match fs::symlink_metadata(path) {
                Ok(found) if is_ours(&found) && found.mode() & 0o600 != 0o600 => {
                    mode::set(path, &found, 0o600).map(|()| None)
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                _ => Err(e),
            };
        }
        Err(e) => return Err(e),
    };
    let found = file.metadata()?;
    if !is_ours(&found) {
        let why = format!("{} is not a file of this user's", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if found.mode() & 0o777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(Some((file, is_new)))
}

/// Whether it is this user's file and has no other name: others may add a second name to one of our
/// files that has nothing to do with this crate (fs.protected_hardlinks, proc_sys_fs(5)).
fn is_ours(found: &Metadata) -> bool {
    found.is_file() && found.uid() == user::uid() && found.nlink() <= 1
}

fn is_same(found: &Metadata, file: &File) -> bool {
    let opened = file.metadata();
    opened.is_ok_and(|it| mode::identity(&it) == mode::identity(found))
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While we hold the lock, nobody else may remove the file.
        if let Err(error) = fs::remove_file(&self.path) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot remove the lock file");
        }
        // Closing is not enough: a process that was forked meanwhile also has the file open (flock(2)).
        if let Err(error) = self.file.unlock() {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot unlock");
        }
    }
}
