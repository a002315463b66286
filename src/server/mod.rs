//! The server of messages: it accepts clients, runs handlers for them, and is shut down.

mod builder;
mod pipe_server;
mod serve;
mod shared;
mod shutdown;
mod stats;

pub use builder::ServerBuilder;
pub use pipe_server::PipeServer;
pub use serve::{BoxError, Serve};
pub(crate) use shared::SharedServer;
pub use shutdown::ShutdownHandle;
pub use stats::StatsHandle;
