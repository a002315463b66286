//! Named pipes: through tokio's completion-port I/O, or through overlapped I/O of our own.
//!
//! What is relied on of each call, which source says that Windows does so, and what is proven under
//! Wine: docs/windows.md.

mod connecting;
pub(super) mod ext;
mod flush;
mod instance;
mod listener;
mod name;
mod overlapped;
mod passing;
mod peek;
mod pipe;
mod stream;
mod user;
mod wait;
#[cfg(feature = "worker")]
mod worker;

use crate::sync::lock;

pub(crate) use instance::ListenOptions;
pub(crate) use listener::Listener;
pub(crate) use name::{check_length, elsewhere, full_path, resolve};
pub(crate) use passing::passes;
pub(crate) use pipe::{Pipe as Messages, is_mode_mismatch};
pub(crate) use stream::{ConnectOptions, Stream, unavailable};
pub(crate) use user::current_user;
pub(crate) use wait::wait_until_free;
#[cfg(feature = "worker")]
pub(crate) use worker::{Inherited, channel};
