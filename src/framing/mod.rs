//! Messages on a stream of bytes, without any I/O.
//!
//! [`ReadBuffer`] decides where the bytes of the next read go, and which message they complete.
//! [`WriteBuffer`] decides which bytes go out in one write. [`MessageCodec`] has the rules that both follow,
//! and is a codec for tokio-util's `Framed`. The callers have the sockets, wakers and tasks.

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
