//! How to listen on a socket, besides what [`Limits`](crate::sys::Limits) says on every platform.

#[derive(Clone, Debug, Default)]
pub(crate) struct ListenOptions {
    /// Replaces the mode that follows from the access.
    pub(crate) mode: Option<u32>,
}
