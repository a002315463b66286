//! How to listen on a socket, besides what [`Limits`](crate::sys::Limits) says on every platform.

#[derive(Clone, Debug, Default)]
pub(crate) struct ListenOptions {
    /// In place of what the access says.
    pub(crate) mode: Option<u32>,
}
