//! A channel to a child process: a pair of sockets without a name, of which the child inherits one.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use socket2::{Domain, Socket, Type};
use tokio::process::{Child, Command};

use super::folder::current_user;
use super::stream::Stream;
use crate::{Error, Peer, PipeName};

/// No descriptor.
const NONE: RawFd = -1;

/// This process's end.
#[derive(Debug)]
pub(crate) struct ParentEnd {
    socket: Socket,
    name: PipeName,
}

/// The end that the child is to have. Dropped, it is closed in this process.
#[derive(Debug)]
pub(crate) struct ChildEnd {
    socket: OwnedFd,
    inode: libc::ino_t,
    /// What is to stay open in the next child of the command, which cannot forget a closure: this
    /// one finds [`NONE`] when the end has been given.
    to_keep: Arc<AtomicI32>,
}

/// The end that this process has inherited.
#[derive(Debug)]
pub(crate) struct Inherited {
    fd: RawFd,
    name: PipeName,
}

/// Makes the two ends. Neither outlives an `exec`, so that other children do not get them.
pub(crate) fn channel() -> io::Result<(ParentEnd, ChildEnd)> {
    let (parent, child) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
    parent.set_nonblocking(true)?;
    child.set_nonblocking(true)?;
    let child = above_stdio(child.into())?;
    let inode = socket_inode(child.as_raw_fd())?;
    let parent = ParentEnd {
        socket: parent,
        name: name(inode),
    };
    let child = ChildEnd {
        to_keep: Arc::new(AtomicI32::new(child.as_raw_fd())),
        socket: child,
        inode,
    };
    Ok((parent, child))
}

impl ParentEnd {
    pub(crate) fn name(&self) -> &PipeName {
        &self.name
    }

    /// The stream to the child, which has its end from the beginning.
    ///
    /// The system would call this process the peer: it made both ends.
    pub(crate) async fn connected(self, child: &mut Child) -> Result<Stream, Error> {
        let peer = Peer {
            process_id: child.id(),
            session_id: None,
            user: current_user().ok(),
        };
        Stream::new(self.socket, None)
            .map(|it| it.with_peer(peer))
            .map_err(|e| Error::from_io("cannot connect to", &self.name, e))
    }
}

impl ChildEnd {
    /// Where the child finds its end: what [`Inherited::find`] takes.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.socket.as_raw_fd(), self.inode)
    }

    /// Lets the command's children have the end, as long as it is not dropped.
    pub(crate) fn give_to(&self, command: &mut Command) {
        let to_keep = self.to_keep.clone();
        let keep = move || match to_keep.load(Relaxed) {
            NONE => Ok(()),
            fd => keep_at_exec(fd),
        };
        // SAFETY: between fork and exec, this reads an atomic and calls fcntl, which a signal
        // handler may do; an error of the system is made without allocating.
        unsafe { command.pre_exec(keep) };
    }
}

impl Drop for ChildEnd {
    /// Before the descriptor's number can become another file's.
    fn drop(&mut self) {
        self.to_keep.store(NONE, Relaxed);
    }
}

impl Inherited {
    /// Looks whether the end is there, or says why not.
    pub(crate) fn find(address: &str) -> Result<Self, String> {
        let parse = |(fd, inode): (&str, &str)| Some((fd.parse().ok()?, inode.parse().ok()?));
        let Some((fd, inode)) = address.split_once(':').and_then(parse) else {
            return Err(format!("{address:?} is no descriptor with its socket"));
        };
        let name = name(inode);
        if socket_inode(fd).is_ok_and(|it| it == inode) {
            return Ok(Inherited { fd, name });
        }
        // The variable is inherited further than the descriptor.
        Err(format!(
            "{name} was for another process, and is not descriptor {fd} of this one"
        ))
    }

    pub(crate) fn name(&self) -> &PipeName {
        &self.name
    }

    /// Takes the end, which children of this process do not get any more. Does not wait.
    pub(crate) async fn open(self) -> Result<Stream, Error> {
        // SAFETY: the descriptor is the socket that the parent has put there for this process, as
        // its inode tells, and nobody but the caller, who does this once, takes it.
        let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(self.fd) });
        socket
            .set_cloexec(true)
            .and_then(|()| socket.set_nonblocking(true))
            .and_then(|()| Stream::new(socket, None))
            .map_err(|e| Error::from_io("cannot connect to", &self.name, e))
    }
}

/// What the system's tools call the child's socket.
fn name(inode: libc::ino_t) -> PipeName {
    PipeName::as_it_is(format!("socket:[{inode}]"))
}

/// The first three descriptors become the child's standard ones.
fn above_stdio(socket: OwnedFd) -> io::Result<OwnedFd> {
    if socket.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(socket);
    }
    let lowest = libc::STDERR_FILENO + 1;
    // SAFETY: the descriptor is open.
    match unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the call has just given us this descriptor, and nobody else has it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Lets a descriptor outlive the next `exec`.
fn keep_at_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers; a descriptor that is not open is an error.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The number that tells one socket from another; an error for what is no socket.
fn socket_inode(fd: RawFd) -> io::Result<libc::ino_t> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a descriptor that is not open is an error; the structure is written on success.
    let stat = unsafe {
        if libc::fstat(fd, stat.as_mut_ptr()) == -1 {
            return Err(io::Error::last_os_error());
        }
        stat.assume_init()
    };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => Ok(stat.st_ino),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
