//! Unix sockets.
//!
//! What differs between kernels, C libraries and sandboxes, and what happens where it is missing or
//! refused:
//!
//! | call | missing or refused | then |
//! |---|---|---|
//! | `fchmod` of a socket before `bind` | does nothing outside of Linux | the file's mode is set after `bind` |
//! | `fchmodat2` | before Linux 6.6; filters older than it | the next of the ways in `mode` |
//! | `fchmodat` with `AT_SYMLINK_NOFOLLOW` | glibc before 2.32; later ones and musl without /proc | the next |
//! | /proc/self/fd | chroots, mount namespaces | plain `chmod`, where nobody else can put a link in the file's place; otherwise an error that names all the ways |
//! | `O_PATH` | outside of Linux | `fchmodat`, which is a system call there |
//! | `accept4` | filters | `accept` and `fcntl`; outside of Linux always. Without `accept`, the server ends with the error |
//! | `SO_PEERCRED`, `getpeereid` | filters | the peer is unknown, and nobody verifies it |
//! | /proc/self/uid_map | chroots, user namespaces | a user whose number may stand for users without one is unknown |
//! | `SIOCOUTQ` | filters; outside of Linux | closing does not wait for the peer, which is logged once |
//! | `SO_ERROR` | filters | `poll`; otherwise a peer that closed without reading counts as having read, which is logged once |
//! | `flock` | filters, some network file systems | a free path is bound without a lock; a dead server's file stays, and binding fails |
//! | `sysconf(_SC_NPROCESSORS_ONLN)` | perhaps without /proc and /sys | connections are watched for reading only |
//!
//! `SOCK_CLOEXEC`, `SOCK_NONBLOCK` and `F_DUPFD_CLOEXEC` are older than any Linux that Rust runs on.

mod connect;
mod folder;
mod listener;
mod mode;
mod name;
mod peer;
mod process;
mod socket;
mod stream;
mod user;
#[cfg(feature = "worker")]
mod worker;

pub(crate) use connect::{ConnectOptions, connect, wait_until_free};
pub(crate) use listener::{ListenOptions, Listener, is_transient};
pub(crate) use name::{check_length, elsewhere, full_path, resolve};
pub(crate) use stream::{Capabilities, Stream};
pub(crate) use user::{check_user, current_user};
#[cfg(feature = "worker")]
pub(crate) use worker::{ChildEnd, Inherited, ParentEnd, channel};
