//! Instances of a named pipe, as the system makes them.

use std::ffi::c_void;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{INVALID_HANDLE_VALUE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, PIPE_ACCEPT_REMOTE_CLIENTS, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS,
    PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES, PIPE_WAIT,
};

use super::user;

#[derive(Clone, Debug)]
pub(crate) struct ListenOptions {
    pub(super) in_buffer: u32,
    pub(super) out_buffer: u32,
    pub(super) accept_remote: bool,
    /// `None` for the owner and the system account alone.
    pub(super) security_descriptor: Option<String>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            in_buffer: 64 << 10,
            out_buffer: 64 << 10,
            accept_remote: false,
            security_descriptor: None,
        }
    }
}

/// Makes instances that are alike.
#[derive(Debug)]
pub(super) struct Factory {
    path: Vec<u16>,
    options: ListenOptions,
    security: SecurityDescriptor,
}

impl Factory {
    pub(super) fn new(path: &Path, options: &ListenOptions) -> io::Result<Self> {
        let security = match &options.security_descriptor {
            Some(sddl) => SecurityDescriptor::new(sddl)?,
            // The system's own default lets everybody read. This grants the user and the system
            // account everything (FA), and inherits nothing (P).
            None => SecurityDescriptor::new(&format!("D:P(A;;FA;;;{})(A;;FA;;;SY)", user::sid()?))?,
        };
        let path = path.as_os_str().encode_wide().chain([0]).collect();
        Ok(Factory {
            path,
            options: options.clone(),
            security,
        })
    }

    /// Makes one instance, to which a client can connect from this moment on.
    ///
    /// With `first`, fails with ERROR_ACCESS_DENIED when there is a pipe of the name already. The
    /// system's limit on instances is not used: [`Listener`](super::Listener) counts them itself,
    /// and so can make the successor of an instance before that one is closed.
    pub(super) fn create(&self, first: bool) -> io::Result<OwnedHandle> {
        let security = SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: self.security.0,
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
        // SAFETY: the path ends with NUL, and the descriptor lives as long as `self`.
        let handle = unsafe {
            CreateNamedPipeW(
                self.path.as_ptr(),
                PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | first,
                PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | remote,
                PIPE_UNLIMITED_INSTANCES,
                self.options.out_buffer,
                self.options.in_buffer,
                0,
                &security,
            )
        };
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just given us this handle, and nobody else has it.
        Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
    }
}

/// A security descriptor in the system's binary form.
#[derive(Debug)]
struct SecurityDescriptor(*mut c_void);

// SAFETY: the descriptor is never written to after it was made, and LocalFree may be called on
// any thread.
unsafe impl Send for SecurityDescriptor {}
// SAFETY: as above.
unsafe impl Sync for SecurityDescriptor {}

impl SecurityDescriptor {
    fn new(sddl: &str) -> io::Result<Self> {
        let wide: Vec<u16> = sddl.encode_utf16().chain([0]).collect();
        let mut descriptor = null_mut();
        // SAFETY: the text ends with NUL; `descriptor` is written on success.
        let done = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                wide.as_ptr(),
                SDDL_REVISION_1,
                &mut descriptor,
                null_mut(),
            )
        };
        if done == 0 {
            let error = io::Error::last_os_error();
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the security descriptor {sddl:?} is refused: {error}"),
            ));
        }
        Ok(SecurityDescriptor(descriptor))
    }
}

impl Drop for SecurityDescriptor {
    fn drop(&mut self) {
        // SAFETY: allocated by the conversion for us to free, and freed only here.
        unsafe { LocalFree(self.0) };
    }
}
