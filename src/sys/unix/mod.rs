//! Unix sockets through tokio.

pub(super) mod ext;
mod folder;
mod listener;
mod name;
mod stream;

pub(crate) use listener::{ListenOptions, Listener};
pub(crate) use name::{check_length, full_path, resolve};
pub(crate) use stream::{Stream, unavailable};
