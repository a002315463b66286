//! Named pipes through tokio's completion-port I/O.

pub(super) mod ext;
mod flush;
mod instance;
mod listener;
mod name;
mod stream;
mod user;

pub(crate) use instance::ListenOptions;
pub(crate) use listener::Listener;
pub(crate) use name::{check_length, full_path, resolve};
pub(crate) use stream::{Stream, unavailable};
