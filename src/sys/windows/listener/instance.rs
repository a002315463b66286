//! Instances of a named pipe, as the system makes them.

use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::path::Path;

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, PIPE_ACCEPT_REMOTE_CLIENTS, PIPE_READMODE_BYTE, PIPE_READMODE_MESSAGE,
    PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_TYPE_MESSAGE, PIPE_UNLIMITED_INSTANCES,
    PIPE_WAIT,
};

use super::options::ListenOptions;
use super::security::SecurityDescriptor;
use crate::sys::platform::transport::End;

/// Makes instances that are alike.
#[derive(Debug)]
pub(in crate::sys) struct Factory {
    path: Vec<u16>,
    options: ListenOptions,
    security: SecurityDescriptor,
    /// How many instances the system lets anybody make.
    limit: u32,
}

impl Factory {
    pub(in crate::sys) fn new(
        path: &Path,
        options: &ListenOptions,
        security: SecurityDescriptor,
    ) -> Self {
        Factory {
            path: path.as_os_str().encode_wide().chain([0]).collect(),
            options: options.clone(),
            security,
            limit: PIPE_UNLIMITED_INSTANCES,
        }
    }

    /// Limits the pipe to one instance: nobody can make another.
    #[cfg(feature = "worker")]
    pub(in crate::sys) fn single(mut self) -> Self {
        self.limit = 1;
        self
    }

    /// Makes one instance. A client can connect to it from this moment on.
    ///
    /// With `first`, fails with ERROR_ACCESS_DENIED when there is a pipe of the name already. The
    /// system's limit on instances is not used: the [pool](super::pool) counts them itself. So it
    /// can make the successor of an instance before that one is closed.
    pub(in crate::sys) fn create(&self, first: bool) -> io::Result<OwnedHandle> {
        let security = SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: self.security.as_ptr(),
            bInheritHandle: 0,
        };
        let first = if first {
            FILE_FLAG_FIRST_PIPE_INSTANCE
        } else {
            0
        };
        let remote = match self.options.accept_remote {
            true => PIPE_ACCEPT_REMOTE_CLIENTS,
            false => PIPE_REJECT_REMOTE_CLIENTS,
        };
        let kind = match self.options.transport.keeps_messages() {
            true => PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE,
            false => PIPE_TYPE_BYTE | PIPE_READMODE_BYTE,
        };
        // SAFETY: the path ends with NUL, and the descriptor lives as long as `self`.
        let handle = unsafe {
            CreateNamedPipeW(
                self.path.as_ptr(),
                PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | first,
                kind | PIPE_WAIT | remote,
                self.limit,
                self.options.out_buffer,
                self.options.in_buffer,
                self.options.default_wait,
                &security,
            )
        };
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just given us this handle, and nobody else has it.
        Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
    }
    /// Takes over an instance for its kind of I/O. Tokio's must be called in its runtime.
    pub(in crate::sys) fn adopt(&self, instance: OwnedHandle) -> io::Result<End> {
        End::new(instance, true, self.options.transport)
    }
}
