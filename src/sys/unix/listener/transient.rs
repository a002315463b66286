//! Errors of accepting that are transient.

use std::io;

/// Whether to try accepting again after this error. Only listed errors are transient: an unknown error
/// is permanent. So is one without a number: it is not the system's but tokio's, whose reactor is gone.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else {
        return false;
    };
    // accept(2): a client that has left; a lack of descriptors or memory. Not EPERM, which is meant for
    // network firewalls: no firewall sees these sockets. Here it comes from a filter (seccomp(2)) or
    // another rule of the system for this process, and those do not go away.
    let accepting = [
        libc::EAGAIN,
        libc::ECONNABORTED,
        libc::EINTR,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EPROTO,
    ];
    // "Already-pending network errors on the new socket", which accept(2) says to treat like EAGAIN;
    // except EOPNOTSUPP, which here concerns the listening socket itself.
    let network = [
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ETIMEDOUT,
    ];
    // epoll_ctl(2): the user already watches as many sockets as allowed (max_user_watches).
    let watching = [libc::ENOSPC];
    accepting.contains(&number) || network.contains(&number) || watching.contains(&number)
}
