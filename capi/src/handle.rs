//! What C programs hold in place of a pipe.

/// One end of a pipe: a server with all its clients, or a client. It is opaque. Any thread can use it; after
/// asyncipc_destroy() every use returns ASYNCIPC_RESULT_INVALID_HANDLE.
#[derive(Debug)]
pub struct Handle {
    _private: (),
}
