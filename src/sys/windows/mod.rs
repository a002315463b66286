//! Named pipes: through tokio's completion-port I/O, or through this crate's own overlapped I/O.
//!
//! docs/windows.md says for each call what the crate relies on, which source says that Windows does
//! so, and what is proven under Wine.

mod connect;
mod flush;
mod listener;
mod name;
mod overlapped;
mod peek;
mod peer;
mod pipe;
mod stream;
mod transport;
mod user;
#[cfg(feature = "worker")]
mod worker;

pub use connect::Impersonation;
pub(crate) use connect::{ConnectOptions, connect, wait_until_free};
pub(crate) use listener::{DEFAULT_WAIT, LONGEST_WAIT, ListenOptions, Listener, is_transient};
pub(crate) use name::{check_length, elsewhere, full_path, resolve};
pub(crate) use stream::{Capabilities, Stream};
pub(crate) use user::{check_user, current_user};
#[cfg(feature = "worker")]
pub(crate) use worker::{ChildEnd, Inherited, ParentEnd, channel};
