//! Who is at the other end of a socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::user;
use crate::sys::Credentials;

/// The process that connected or listened, and its user, as they were then (SO_PEERCRED, unix(7)).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open while borrowed; the system writes at most `len` bytes, and `found`
    // is plain integers of that length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &mut len,
        )
    };
    match result {
        0 => Ok(credentials(Some(found.pid), Some(found.uid))),
        _ => unknown(io::Error::last_os_error()),
    }
}

/// The user as it was then (getpeereid(3)); Apple's systems also know the process.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let (mut user, mut group) = (0, 0);
    // SAFETY: the descriptor is open while borrowed; the system writes to the two integers.
    if unsafe { libc::getpeereid(socket.as_raw_fd(), &mut user, &mut group) } != 0 {
        return unknown(io::Error::last_os_error());
    }
    Ok(credentials(process(socket), Some(user)))
}

#[cfg(target_vendor = "apple")]
fn process(socket: BorrowedFd<'_>) -> Option<libc::pid_t> {
    let mut process: libc::pid_t = 0;
    let mut len = size_of::<libc::pid_t>() as libc::socklen_t;
    // SAFETY: as above, for one integer.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_LOCAL,
            libc::LOCAL_PEERPID,
            (&raw mut process).cast(),
            &mut len,
        )
    };
    (result == 0).then_some(process)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn process(_: BorrowedFd<'_>) -> Option<libc::pid_t> {
    None
}

/// Where a sandbox refuses the question, nothing is known about the peer.
fn unknown(error: io::Error) -> io::Result<Credentials> {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::ENOPROTOOPT) => {
            Ok(credentials(None, None))
        }
        _ => Err(error),
    }
}

fn credentials(process: Option<libc::pid_t>, user: Option<libc::uid_t>) -> Credentials {
    Credentials {
        process_id: process
            .and_then(|it| it.try_into().ok())
            .filter(|it| *it != 0),
        session_id: None,
        user: user.and_then(user::named),
    }
}
