//! Messages between programs that know each other by name: [`Endpoint`], and what belongs to it.
//!
//! # The states of an endpoint
//!
//! An endpoint has one state, which only goes forward. The accept loop advances it, and so does dropping
//! the endpoint.
//!
//! ```text
//!            shutdown, or             the name               all tasks
//!            listening failed         is free                have ended
//!   Open ───────────────► ShuttingDown ──────────► Draining ───────────► Closed (the last event)
//!    │                         │                      │
//!    └─────────────────────────┴──────────────────────┴──── dropped ───► Dropped
//! ```
//!
//! | state | accepts connections | takes messages for sending | its tasks |
//! |---|---|---|---|
//! | Open | yes | yes | go on |
//! | ShuttingDown | the last ones | no | go on |
//! | Draining | no | no | ask the others to close, and go on for up to `drain_timeout` |
//! | Dropped | no | no | end at once |
//!
//! # The states of a connection
//!
//! Each connection to or from another program has one state too. It has a phase, which only goes forward,
//! and a flag that the other side has asked for the end (`"closing": true`), which may be set in any phase.
//!
//! ```text
//!           this side has               every reply has come,
//!           nothing more to send        or nobody waits for one
//!   Open ──────────────────► Finishing ───────────────────────► Ended
//!    │                                                            ▲
//!    └──── the other side has left, or an error, or given up ─────┘
//! ```
//!
//! Only the program that has made a connection sends messages on it, so only that side finishes it: when
//! it shuts down, or when the other side asks for the end. It then closes its direction, and waits until the
//! other side has handled everything and closes too. Its next message goes to the program that takes that
//! name afterwards. The other side only replies.

mod accept;
mod brief;
mod builder;
mod conversation;
mod destination;
mod dispatch;
mod enqueue;
mod envelope;
mod error;
mod event;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod handle;
mod handlers;
mod life;
mod link;
mod load;
mod options;
mod program;
mod queue;
mod shared;

pub use builder::EndpointBuilder;
pub use envelope::Envelope;
pub use error::EndpointError;
pub use event::Event;
pub use handle::EndpointHandle;
pub use program::Endpoint;
