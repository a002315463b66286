// The links come first: on GitHub those of README lead to files instead.
#![doc = include_str!("../docs/guide/links")]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]

mod access;
mod buffers;
mod client;
mod connection;
mod connection_id;
#[cfg(feature = "endpoint")]
pub mod endpoint;
mod error;
mod framing;
#[cfg(any(doc, doctest))]
pub mod guide;
pub mod hub;
mod listener;
mod name;
mod peer;
mod server;
mod stats;
mod sync;
#[allow(unsafe_code)]
mod sys;
mod tally;
mod turn;
#[cfg(unix)]
pub mod unix;
#[cfg(windows)]
pub mod windows;
#[cfg(feature = "worker")]
pub mod worker;

pub use access::Access;
pub use client::{ClientBuilder, PipeClient};
pub use connection::{
    OwnedReadHalf, OwnedWriteHalf, PipeConnection, PipeReceiver, PipeSender, PipeStream,
    ReuniteError, SharedSender,
};
pub use connection_id::ConnectionId;
#[cfg(feature = "endpoint")]
pub use endpoint::Endpoint;
pub use error::Error;
pub use framing::MessageCodec;
pub use hub::PipeHub;
pub use listener::PipeListener;
pub use name::{InvalidName, PipeName};
pub use peer::{InvalidUserId, Peer, UserId};
pub use server::{BoxError, PipeServer, Serve, ServerBuilder, ShutdownHandle, StatsHandle};
pub use stats::{ConnectionStats, ServerStats};

/// What the fuzz targets need of what is not public.
#[cfg(fuzzing)]
pub mod fuzzing {
    #[cfg(feature = "endpoint")]
    pub use crate::endpoint::fuzzing::*;
    pub use crate::framing::fuzzing::*;
}
