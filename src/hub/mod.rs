//! All clients of a server in one object: a [`PipeHub`] is a stream of their [`Event`]s, and a
//! [`HubHandle`] sends to them.

mod accept;
mod builder;
mod client;
mod delegate;
mod event;
mod handle;
mod options;
mod pipe_hub;
mod registry;

pub use builder::HubBuilder;
pub use delegate::PipeDelegate;
pub use event::{DisconnectReason, Event};
pub use handle::HubHandle;
pub use options::Overflow;
pub use pipe_hub::PipeHub;
