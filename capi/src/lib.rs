//! The C interface of [`asyncipc`]. Its users read `include/asyncipc.h`, which is made from here.
//!
//! ```text
//! api (pointers) ─► handle_table ─► pipe ─► thread (with its runtime) ─► callbacks
//!                                   └────► sending
//! ```
//!
//! `unsafe` is in `api`, which reads what C points to, in `callbacks`, which calls C, and in `sys`, where
//! platforms differ.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod api;
#[allow(unsafe_code)]
mod callbacks;
mod failure;
mod handle;
mod handle_table;
mod kind;
mod logging;
mod options;
mod pipe;
mod run;
mod sending;
mod sync;
#[allow(unsafe_code)]
mod sys;
mod thread;

pub use api::*;
pub use callbacks::Callbacks;
pub use failure::Code;
pub use handle::Handle;
pub use kind::{Kind, Role};
pub use options::Key;
