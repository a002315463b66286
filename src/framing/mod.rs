//! Messages on a stream of bytes, without any I/O.
//!
//! [`ReadBuffer`] decides where the bytes of the next read go and which message they complete,
//! [`WriteBuffer`] which bytes go out in one write. [`MessageCodec`] is the rule that both follow,
//! and a codec for tokio-util's `Framed`. Sockets, wakers and tasks are the callers' business.

mod codec;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod read_buffer;
mod write_buffer;

pub(crate) use codec::HEADER;
pub use codec::MessageCodec;
use codec::Progress;
pub(crate) use read_buffer::{Frame, ReadBuffer};
pub(crate) use write_buffer::{Spent, WriteBuffer};
