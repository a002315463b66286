//! How to listen on a named pipe, beyond what [`Limits`](crate::sys::Limits) says on every platform.

use crate::sys::platform::transport::TransportOptions;

/// The system's own default, which 0 means to Windows. Given as a number because Wine takes 0 literally.
pub(crate) const DEFAULT_WAIT: u32 = 50;

/// 24 days. The system turns it into a negative 64-bit number, and refuses any other (ReactOS,
/// drivers/filesystems/npfs/create.c, `NpCreateNewNamedPipe`). More milliseconds would be negative as a
/// signed 32-bit number, and the system could turn them into a positive one.
pub(crate) const LONGEST_WAIT: u32 = i32::MAX as u32;

#[derive(Clone, Debug)]
pub(crate) struct ListenOptions {
    pub(crate) transport: TransportOptions,
    pub(crate) in_buffer: u32,
    pub(crate) out_buffer: u32,
    pub(crate) accept_remote: bool,
    /// How long clients that ask for it wait at most, in milliseconds.
    pub(crate) default_wait: u32,
    /// Replaces the descriptor that the access setting gives.
    pub(crate) security_descriptor: Option<String>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            transport: TransportOptions::default(),
            in_buffer: 64 << 10,
            out_buffer: 64 << 10,
            accept_remote: false,
            default_wait: DEFAULT_WAIT,
            security_descriptor: None,
        }
    }
}
