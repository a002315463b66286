//! Transient errors of accepting.

use std::io;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_COMMITMENT_LIMIT, ERROR_MAX_THRDS_REACHED,
    ERROR_NETNAME_DELETED, ERROR_NO_DATA, ERROR_NO_SYSTEM_RESOURCES,
    ERROR_NONPAGED_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY, ERROR_NOT_ENOUGH_QUOTA,
    ERROR_OPERATION_ABORTED, ERROR_OUTOFMEMORY, ERROR_PAGED_SYSTEM_RESOURCES, ERROR_PAGEFILE_QUOTA,
    ERROR_PIPE_BUSY, ERROR_PIPE_NOT_CONNECTED, ERROR_TOO_MANY_OPEN_FILES, ERROR_VC_DISCONNECTED,
    ERROR_WORKING_SET_QUOTA,
};

/// Whether accepting is worth another try after this error. The list names the transient errors. All
/// others are permanent, also those without a number, which the system did not give: the runtime ended.
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
            // There are as many instances as somebody's limit allows (CreateNamedPipe).
            | ERROR_PIPE_BUSY
            // The server has no instance left, and somebody else has the name, or a dropped instance is
            // not closed yet (FILE_FLAG_FIRST_PIPE_INSTANCE).
            | ERROR_ACCESS_DENIED
            // The client or its machine has left, or the wait was cancelled when the thread that had
            // begun it ended.
            | ERROR_BROKEN_PIPE
            | ERROR_NETNAME_DELETED
            | ERROR_NO_DATA
            | ERROR_OPERATION_ABORTED
            | ERROR_PIPE_NOT_CONNECTED
            | ERROR_VC_DISCONNECTED
    )
}
