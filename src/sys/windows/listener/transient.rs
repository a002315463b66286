//! Errors of accepting that are transient.

use std::io;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_COMMITMENT_LIMIT, ERROR_MAX_THRDS_REACHED,
    ERROR_NETNAME_DELETED, ERROR_NO_DATA, ERROR_NO_SYSTEM_RESOURCES,
    ERROR_NONPAGED_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY, ERROR_NOT_ENOUGH_QUOTA,
    ERROR_OPERATION_ABORTED, ERROR_OUTOFMEMORY, ERROR_PAGED_SYSTEM_RESOURCES, ERROR_PAGEFILE_QUOTA,
    ERROR_PIPE_BUSY, ERROR_PIPE_NOT_CONNECTED, ERROR_TOO_MANY_OPEN_FILES, ERROR_VC_DISCONNECTED,
    ERROR_WORKING_SET_QUOTA,
};

/// Whether accepting is worth another try after this error. A positive list: an unknown error is for
/// good, and so is one without a number, which is not the system's: the runtime has ended.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else {
        return false;
    };
    matches!(
        number as u32,
        // A lack of memory, handles, threads or quota.
        ERROR_COMMITMENT_LIMIT
            | ERROR_MAX_THRDS_REACHED
            | ERROR_NO_SYSTEM_RESOURCES
            | ERROR_NONPAGED_SYSTEM_RESOURCES
            | ERROR_NOT_ENOUGH_MEMORY
            | ERROR_NOT_ENOUGH_QUOTA
            | ERROR_OUTOFMEMORY
            | ERROR_PAGED_SYSTEM_RESOURCES
            | ERROR_PAGEFILE_QUOTA
            | ERROR_TOO_MANY_OPEN_FILES
            | ERROR_WORKING_SET_QUOTA
            // As many instances as somebody's limit allows (CreateNamedPipe).
            | ERROR_PIPE_BUSY
            // Without any instance of its own left, the name is somebody else's, or an instance that
            // was dropped is not closed yet (FILE_FLAG_FIRST_PIPE_INSTANCE).
            | ERROR_ACCESS_DENIED
            // A client that has left, or whose machine has; or the wait for it was cancelled, with the
            // thread that had begun it.
            | ERROR_BROKEN_PIPE
            | ERROR_NETNAME_DELETED
            | ERROR_NO_DATA
            | ERROR_OPERATION_ABORTED
            | ERROR_PIPE_NOT_CONNECTED
            | ERROR_VC_DISCONNECTED
    )
}
