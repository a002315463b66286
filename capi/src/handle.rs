//! What C has in place of a pipe.

/// One end of a pipe: a server with all its clients, or a client. Only the functions here know what
/// it is. Any thread can use it; after asyncipc_destroy() every use is ASYNCIPC_RESULT_INVALID_HANDLE.
#[derive(Debug)]
pub struct Handle {
    _private: (),
}
