//! Sets the mode of a file that is known by its path, without following a link.
//!
//! No single call does this everywhere: which ones exist depends on the system, the C library, whether
//! /proc is mounted, and what a sandbox lets through. So each way is tried, and the file is checked
//! afterwards.

use std::ffi::CString;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::fs::File;
use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::user;

/// The permission bits.
const ACCESS: u32 = 0o777;

/// The permission bits, and those for which the system has rules of its own.
const ALL: u32 = 0o7777;

/// Which file it is: device and inode.
pub(super) fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Makes `bind` create a socket's file with `mode`, less the umask, where the system takes the file's
/// mode from the socket (`unix_bind_bsd` in Linux). Elsewhere it has no effect.
pub(super) fn at_birth(socket: &impl AsRawFd, mode: u32) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: the descriptor is open while borrowed. An error leaves the mode as it is, and the mode is
    // checked once there is a file.
    unsafe {
        libc::fchmod(socket.as_raw_fd(), mode as libc::mode_t);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket.as_raw_fd(), mode);
}

/// Gives `mode` to the file that was `found` at `path`.
///
/// An error names each way that was tried, and its result.
pub(super) fn set(path: &Path, found: &Metadata, mode: u32) -> io::Result<()> {
    let mode = mode & ALL;
    if found.mode() & ALL == mode {
        return Ok(());
    }
    let mut refused = Vec::new();
    let mut kind = io::ErrorKind::Other;
    for (name, way) in WAYS {
        let done = way(path, found, mode).and_then(|()| {
            let now = fs::symlink_metadata(path)?.mode() & ALL;
            match now & ACCESS == mode & ACCESS {
                true => Ok(()),
                // A filter can make a call succeed and do nothing; some file systems have only one mode.
                false => Err(io::Error::other(format!("the mode stays {now:04o}"))),
            }
        });
        match done {
            Ok(()) => return Ok(()),
            Err(error) => {
                kind = error.kind();
                refused.push(format!("{name}: {error}"));
            }
        }
    }
    Err(io::Error::new(
        kind,
        format!(
            "the mode of {} cannot be changed from {:04o} to {mode:04o} ({})",
            path.display(),
            found.mode() & ALL,
            refused.join("; ")
        ),
    ))
}

type Way = fn(&Path, &Metadata, u32) -> io::Result<()>;

/// The way that depends least on the environment comes first. After any error the next one is tried,
/// because a sandbox's filter may answer with any error.
const WAYS: &[(&str, Way)] = &[
    #[cfg(target_os = "linux")]
    ("fchmodat2", by_descriptor),
    ("fchmodat without following links", by_flag),
    #[cfg(any(target_os = "linux", target_os = "android"))]
    ("chmod in /proc/self/fd", by_proc),
    ("chmod", by_name),
];

/// Opens the file for its identity alone, which needs no permission on it (O_PATH, open(2)).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn open(path: &Path, found: &Metadata) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)?;
    match identity(&file.metadata()?) == identity(found) {
        true => Ok(file),
        false => Err(io::Error::other("another file has taken its place")),
    }
}

/// The number of fchmodat2(2); `None` where calls since Linux 5.1 do not have the common numbers.
#[cfg(target_os = "linux")]
const FCHMODAT2: Option<libc::c_long> = match cfg!(any(
    target_arch = "mips",
    target_arch = "mips32r6",
    target_arch = "mips64",
    target_arch = "mips64r6",
    all(target_arch = "x86_64", target_pointer_width = "32"),
)) {
    true => None,
    false => Some(452),
};

/// Since Linux 6.6, with any C library. Not on Android, which kills a program for a call that its filter
/// does not know.
#[cfg(target_os = "linux")]
fn by_descriptor(path: &Path, found: &Metadata, mode: u32) -> io::Result<()> {
    let Some(call) = FCHMODAT2 else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let file = open(path, found)?;
    let (fd, empty) = (file.as_raw_fd(), c"".as_ptr());
    let (mode, flags) = (mode as libc::mode_t, libc::AT_EMPTY_PATH);
    // SAFETY: the arguments are those of fchmodat2(2): an open descriptor, a path that ends with
    // NUL, and two numbers. A system without the call says ENOSYS.
    done(unsafe { libc::syscall(call, fd, empty, mode, flags) } as libc::c_int)
}

/// Every system but Linux has this call. On Linux, the C library makes it: glibc since 2.32 and musl use
/// fchmodat2 or /proc, and older glibc returns an error.
fn by_flag(path: &Path, _: &Metadata, mode: u32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (mode, flags) = (mode as libc::mode_t, libc::AT_SYMLINK_NOFOLLOW);
    // SAFETY: the path ends with NUL.
    done(unsafe { libc::fchmodat(libc::AT_FDCWD, path.as_ptr(), mode, flags) })
}

/// The name of a descriptor in /proc leads to its file, and to no other (proc(5)).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn by_proc(path: &Path, found: &Metadata, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let file = open(path, found)?;
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(name, fs::Permissions::from_mode(mode))
}

/// Follows links, so it is only for folders in which nobody else can replace the file by one.
fn by_name(path: &Path, found: &Metadata, mode: u32) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(folder)?;
    if !keeps_what_is_ours(&opened.metadata()?) {
        let why = format!("the folder {} can be written by others", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let now = fs::symlink_metadata(path)?;
    if identity(&now) != identity(found) {
        return Err(io::Error::other("another file has taken its place"));
    }
    let name = CString::new(name.as_bytes())?;
    // In the folder that was checked, even if another one has its name now.
    let (fd, mode) = (opened.as_raw_fd(), mode as libc::mode_t);
    // SAFETY: the descriptor is open while borrowed, and the name ends with NUL.
    done(unsafe { libc::fchmodat(fd, name.as_ptr(), mode, 0) })
}

/// Whether nobody else can remove or replace a file of ours in the folder: others cannot write to it, or
/// it lets all users remove only their own files (S_ISVTX, inode(7)).
pub(super) fn keeps_what_is_ours(folder: &Metadata) -> bool {
    let (owner, mode) = (folder.uid(), folder.mode());
    (user::is_own(folder) || owner == 0) && (mode & 0o022 == 0 || mode & 0o1000 != 0)
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
