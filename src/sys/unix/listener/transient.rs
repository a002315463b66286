//! Errors of accepting that are transient.

use std::io;

/// Whether accepting is worth another try after this error. A positive list: an unknown error is for
/// good, and so is one without a number, which is not the system's: tokio's, whose reactor is gone.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else {
        return false;
    };
    // accept(2): a client that has left; a lack of descriptors or memory. Not EPERM, which is there for
    // the firewalls of networks: no firewall sees these sockets. Here it is a filter (seccomp(2)) or
    // another rule of the system's for this process, and those do not pass.
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
    // "Already-pending network errors on the new socket", of which accept(2) says that they are to
    // be taken for EAGAIN; but for EOPNOTSUPP, which here is the listening socket's own.
    let network = [
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ETIMEDOUT,
    ];
    // epoll_ctl(2): as many sockets are watched as the user may (max_user_watches).
    let watching = [libc::ENOSPC];
    accepting.contains(&number) || network.contains(&number) || watching.contains(&number)
}
