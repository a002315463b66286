//! The C interface of [`asyncipc`]. Its users read `include/asyncipc.h`, which is made from here.
//!
//! ```text
//! api (pointers) ─► registry (handles) ─► pipe ─► run (a thread and its runtime) ─► callbacks
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
mod logging;
mod options;
mod pipe;
mod registry;
mod run;
mod sync;
#[allow(unsafe_code)]
mod sys;

pub use api::*;
pub use callbacks::Callbacks;
pub use failure::Code;
pub use options::Key;
pub use pipe::{Kind, Role};
pub use registry::Handle;
