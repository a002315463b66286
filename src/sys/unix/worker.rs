//! A channel to a child process: a pair of unnamed sockets, one of which the child inherits.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::process::{Child, Command};

use super::stream::Stream;
use super::user::current_user;
use crate::sync::lock;
use crate::sys::{Credentials, PlatformError};

/// No descriptor.
const NONE: RawFd = -1;

/// This process's end.
#[derive(Debug)]
pub(crate) struct ParentEnd {
    socket: Socket,
    name: String,
}

/// The child's end. Dropping it closes it in this process.
#[derive(Debug)]
pub(crate) struct ChildEnd {
    socket: OwnedFd,
    inode: libc::ino_t,
    /// The keeper of the command that this was given to.
    keeper: Option<Arc<Keeper>>,
}

/// What runs in each child of a command, between fork and exec. It cannot be removed from a command, so
/// all workers that the command starts share one.
#[derive(Debug)]
struct Keeper {
    /// The number by which it is found again. Between two workers, it is in the command's environment.
    id: u64,
    /// The command's address when it got this: another command may have a copy of the environment.
    command: usize,
    /// The descriptor to keep open in the next child, or [`NONE`].
    fd: AtomicI32,
}

/// The keepers whose command still exists.
static KEEPERS: Mutex<Vec<Weak<Keeper>>> = Mutex::new(Vec::new());

/// The end that this process has inherited.
#[derive(Debug)]
pub(crate) struct Inherited {
    fd: RawFd,
    name: String,
}

/// Makes the two ends. Neither survives an `exec`, so other children do not get them.
pub(crate) fn channel() -> io::Result<(ParentEnd, ChildEnd)> {
    let (parent, child) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
    parent.set_nonblocking(true)?;
    let child = above_stdio(child.into())?;
    let inode = socket_inode(child.as_raw_fd())?;
    let parent = ParentEnd {
        socket: parent,
        name: name(inode),
    };
    let child = ChildEnd {
        socket: child,
        inode,
        keeper: None,
    };
    Ok((parent, child))
}

impl ParentEnd {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The stream to the child, which has its end from the start.
    ///
    /// The peer is set here, because the system would name this process: it made both ends.
    pub(crate) async fn connected(
        self,
        child: &mut Child,
        _linger: Duration,
    ) -> Result<Stream, PlatformError> {
        let peer = Credentials {
            process_id: child.id(),
            session_id: None,
            user: current_user().ok(),
        };
        Stream::new(self.socket, None)
            .map(|it| it.with_peer(peer))
            .map_err(|e| PlatformError::io("cannot connect to", e))
    }
}

impl ChildEnd {
    /// Where the child finds its end: what [`Inherited::find`] takes.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.socket.as_raw_fd(), self.inode)
    }

    /// Lets the command's children have the end, until it is dropped. Returns a number: pass it as
    /// `before` when you give the next end to the same command.
    pub(crate) fn give_to(&mut self, command: &mut Command, before: Option<u64>) -> Option<u64> {
        let fd = self.socket.as_raw_fd();
        let found = before.and_then(|id| Keeper::find(id, command));
        let keeper = match found {
            Some(it) if it.fd.compare_exchange(NONE, fd, Relaxed, Relaxed).is_ok() => it,
            _ => Keeper::add_to(command, fd),
        };
        let id = keeper.id;
        self.keeper = Some(keeper);
        Some(id)
    }

    /// Whether the child that was started has got the end.
    pub(crate) fn was_given(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open.
        match unsafe { libc::fcntl(self.socket.as_raw_fd(), libc::F_GETFL) } {
            -1 => Err(io::Error::last_os_error()),
            // The child has set this flag, for all who have the socket.
            flags if flags & libc::O_NONBLOCK != 0 => Ok(()),
            _ => Err(io::Error::other(
                "its environment is that of another command, whose channel it would have got",
            )),
        }
    }
}

impl Drop for ChildEnd {
    /// Clears the number before the descriptor closes and another file can get that number.
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.fd.store(NONE, Relaxed);
        }
    }
}

impl Keeper {
    /// The command's keeper, if it has one.
    fn find(id: u64, command: &Command) -> Option<Arc<Self>> {
        let command = (&raw const *command).addr();
        lock(&KEEPERS)
            .iter()
            .filter_map(Weak::upgrade)
            .find(|it| it.id == id && it.command == command)
    }

    fn add_to(command: &mut Command, fd: RawFd) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let keeper = Arc::new(Keeper {
            id: NEXT_ID.fetch_add(1, Relaxed),
            command: (&raw const *command).addr(),
            fd: AtomicI32::new(fd),
        });
        let in_child = keeper.clone();
        let keep = move || match in_child.fd.load(Relaxed) {
            NONE => Ok(()),
            fd => keep_at_exec(fd),
        };
        // SAFETY: between fork and exec, this reads an atomic and calls fcntl, which a signal handler
        // may do; making the system's error does not allocate.
        unsafe { command.pre_exec(keep) };
        let mut keepers = lock(&KEEPERS);
        keepers.retain(|it| it.strong_count() > 0);
        keepers.push(Arc::downgrade(&keeper));
        keeper
    }
}

impl Inherited {
    /// Checks that the end is there, or says why not.
    pub(crate) fn find(address: &str) -> Result<Self, String> {
        let parse = |(fd, inode): (&str, &str)| Some((fd.parse().ok()?, inode.parse().ok()?));
        let Some((fd, inode)) = address.split_once(':').and_then(parse) else {
            return Err(format!("{address:?} is no descriptor with its socket"));
        };
        let name = name(inode);
        if socket_inode(fd).is_ok_and(|it| it == inode) {
            return Ok(Inherited { fd, name });
        }
        // The variable is passed on further than the descriptor.
        Err(format!(
            "{name} was for another process, and is not descriptor {fd} of this one"
        ))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes the end. Children of this process no longer get it. Does not wait.
    pub(crate) async fn open(self) -> Result<Stream, PlatformError> {
        // SAFETY: the descriptor is the socket that the parent put there for this process, as its inode
        // shows. Only the caller takes it, and does so once.
        let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(self.fd) });
        socket
            .set_cloexec(true)
            .and_then(|()| socket.set_nonblocking(true))
            .and_then(|()| Stream::new(socket, None))
            .map_err(|e| PlatformError::io("cannot connect to", e))
    }
}

/// The child's socket, as the system's tools name it.
fn name(inode: libc::ino_t) -> String {
    format!("socket:[{inode}]")
}

/// Moves the socket above the first three descriptors, which become the child's standard ones.
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

/// Lets a descriptor outlive the next `exec`, and marks it as given.
fn keep_at_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers; a descriptor that is not open is an error.
    let done = unsafe {
        libc::fcntl(fd, libc::F_SETFD, 0) != -1
            && libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) != -1
    };
    match done {
        true => Ok(()),
        false => Err(io::Error::last_os_error()),
    }
}

/// The number that identifies a socket. Fails for what is no socket.
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
