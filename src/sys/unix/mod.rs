//! Unix sockets.

pub(super) mod ext;
mod folder;
mod listener;
mod messages;
mod name;
mod peer;
mod socket;
mod stream;
#[cfg(feature = "worker")]
mod worker;

pub(crate) use folder::current_user;
pub(crate) use listener::{ListenOptions, Listener};
pub(crate) use messages::Messages;
pub(crate) use name::{check_length, full_path, resolve};
pub(crate) use stream::{ConnectOptions, Stream, is_mode_mismatch, unavailable, wait_until_free};
#[cfg(feature = "worker")]
pub(crate) use worker::{Inherited, channel};
