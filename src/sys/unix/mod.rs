//! Unix sockets through tokio.

pub(super) mod ext;
mod folder;
mod listener;
mod messages;
mod name;
mod stream;

use std::io;

use socket2::{Domain, Socket, Type};

pub(crate) use folder::current_user;
pub(crate) use listener::{ListenOptions, Listener};
pub(crate) use messages::Messages;
pub(crate) use name::{check_length, full_path, resolve};
pub(crate) use stream::{ConnectOptions, Stream, is_mode_mismatch, unavailable, wait_until_free};

fn nonblocking_socket() -> io::Result<Socket> {
    // In one call where the system can.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    socket.set_nonblocking(true)?;
    Ok(socket)
}
