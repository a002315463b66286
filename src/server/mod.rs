//! The server of messages: it accepts clients, runs handlers for them, and is shut down.

mod accept;
mod builder;
mod serve;
mod shared;
mod shutdown;
mod stats;

pub use accept::PipeServer;
pub use builder::ServerBuilder;
pub use serve::{BoxError, Serve};
pub(crate) use shared::SharedServer;
pub use shutdown::ShutdownHandle;
pub use stats::StatsHandle;
