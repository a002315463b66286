//! Instances of a named pipe, as the system makes them.

use std::ffi::c_void;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{FromRawHandle, IntoRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr::null_mut;

use tokio::net::windows::named_pipe::NamedPipeServer;
use windows_sys::Win32::Foundation::{INVALID_HANDLE_VALUE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{GetSecurityDescriptorOwner, SECURITY_ATTRIBUTES};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, FILE_GENERIC_READ, FILE_WRITE_ATTRIBUTES,
    FILE_WRITE_DATA, FILE_WRITE_EA, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::Pipes::{
    CreateNamedPipeW, PIPE_ACCEPT_REMOTE_CLIENTS, PIPE_READMODE_BYTE, PIPE_READMODE_MESSAGE,
    PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_TYPE_MESSAGE, PIPE_UNLIMITED_INSTANCES,
    PIPE_WAIT,
};

use super::pipe::Pipe;
use super::user;
use crate::{Access, Error};

/// The system's own, which it takes for 0: given as a number, because Wine takes 0 as it is.
pub(super) const DEFAULT_WAIT: u32 = 50;

/// 24 days. The system makes a negative 64-bit number of it, and refuses any other (ReactOS,
/// drivers/filesystems/npfs/create.c, `NpCreateNewNamedPipe`). More milliseconds would be negative as a
/// signed 32-bit number, and what the system makes of them could be positive.
pub(super) const LONGEST_WAIT: u32 = i32::MAX as u32;

#[derive(Clone, Debug)]
pub(crate) struct ListenOptions {
    pub(super) in_buffer: u32,
    pub(super) out_buffer: u32,
    pub(super) accept_remote: bool,
    pub(super) transport: Transport,
    pub(super) empty_is_end: bool,
    /// What clients that ask for it wait at most, in milliseconds.
    pub(super) default_wait: u32,
    /// In place of what the access says.
    pub(super) security_descriptor: Option<String>,
}

/// Whose I/O moves the bytes of a pipe, and whether the system keeps messages apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// tokio's, as bytes.
    Tokio,
    /// Our own, as bytes.
    Overlapped,
    /// Our own, as messages.
    Messages,
}

/// An instance that has its client.
#[derive(Debug)]
pub(super) enum Instance {
    Tokio(NamedPipeServer),
    Own { pipe: Pipe, messages: bool },
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            in_buffer: 64 << 10,
            out_buffer: 64 << 10,
            accept_remote: false,
            transport: Transport::Tokio,
            empty_is_end: false,
            default_wait: DEFAULT_WAIT,
            security_descriptor: None,
        }
    }
}

/// In a pipe of bytes there are no empty messages.
pub(super) fn check_end(empty_is_end: bool, transport: Transport) -> Result<(), Error> {
    if empty_is_end && transport != Transport::Messages {
        return Err(Error::InvalidOption {
            option: "end_on_empty_message",
            rule: "only together with message_mode".into(),
        });
    }
    Ok(())
}

/// Makes instances that are alike.
#[derive(Debug)]
pub(super) struct Factory {
    path: Vec<u16>,
    options: ListenOptions,
    security: SecurityDescriptor,
    /// How many instances the system lets anybody make.
    limit: u32,
}

impl Factory {
    pub(super) fn new(path: &Path, access: Access, options: &ListenOptions) -> Result<Self, Error> {
        check_end(options.empty_is_end, options.transport)?;
        let security = match &options.security_descriptor {
            Some(sddl) => SecurityDescriptor::new(sddl)?,
            None => SecurityDescriptor::new(&sddl(access)?)?,
        };
        let path = path.as_os_str().encode_wide().chain([0]).collect();
        Ok(Factory {
            path,
            options: options.clone(),
            security,
            limit: PIPE_UNLIMITED_INSTANCES,
        })
    }

    /// Makes one instance, and nobody can make another.
    #[cfg(feature = "worker")]
    pub(super) fn single(mut self) -> Self {
        self.limit = 1;
        self
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
        let kind = match self.options.transport {
            Transport::Messages => PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE,
            Transport::Tokio | Transport::Overlapped => PIPE_TYPE_BYTE | PIPE_READMODE_BYTE,
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
}

impl Factory {
    /// Takes over an instance for the I/O that it is meant for. Tokio's needs to be in its runtime.
    pub(super) fn adopt(&self, instance: OwnedHandle) -> io::Result<Instance> {
        let messages = match self.options.transport {
            Transport::Tokio => {
                // SAFETY: the handle is an overlapped end of a pipe that nobody else owns. On
                // failure tokio has closed it.
                let pipe = unsafe { NamedPipeServer::from_raw_handle(instance.into_raw_handle()) };
                return pipe.map(Instance::Tokio);
            }
            Transport::Overlapped => false,
            Transport::Messages => true,
        };
        Ok(Instance::Own {
            pipe: Pipe::new(instance, self.options.empty_is_end)?,
            messages,
        })
    }
}

/// What a client needs for talking: reading, writing, setting the read mode. Not
/// FILE_GENERIC_WRITE, which contains FILE_APPEND_DATA, which for pipes is the right to create
/// instances: <https://learn.microsoft.com/windows/win32/ipc/named-pipe-security-and-access-rights>.
/// Others' clients ask for it with GENERIC_WRITE; for a client's end the system leaves it out
/// (ReactOS, drivers/filesystems/npfs/create.c, `NpCreateClientEnd`), as .NET relies on too, whose
/// PipeAccessRights.ReadWrite are these rights.
pub(super) const CLIENT_RIGHTS: u32 =
    FILE_GENERIC_READ | FILE_WRITE_DATA | FILE_WRITE_ATTRIBUTES | FILE_WRITE_EA;

/// The system's own default lets everybody read. This makes the user the owner, gives the user
/// and the system account everything (FA), lets others talk, and inherits nothing (P).
fn sddl(access: Access) -> io::Result<String> {
    let user = user::current_user()?;
    let others = match access {
        Access::Owner => String::new(),
        Access::Group => format!("(A;;{CLIENT_RIGHTS:#x};;;AU)"),
        Access::Everyone => format!("(A;;{CLIENT_RIGHTS:#x};;;WD)"),
    };
    Ok(format!("O:{user}D:P(A;;FA;;;{user})(A;;FA;;;SY){others}"))
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
    /// One that names no owner gets the user: the pipe of an elevated process would otherwise
    /// belong to the Administrators, and its clients could not tell whose it is.
    fn new(sddl: &str) -> Result<Self, Error> {
        let parsed = parse(sddl).map_err(|error| Error::InvalidOption {
            option: "security_descriptor",
            rule: match refused_part(sddl) {
                Some((at, part)) => {
                    format!("the system refuses {part:?} at byte {at} of {sddl:?}: {error}")
                }
                None => format!("the system refuses {sddl:?}: {error}"),
            },
        })?;
        if parsed.has_owner() {
            return Ok(parsed);
        }
        Ok(parse(&format!("O:{}{sddl}", user::current_user()?))?)
    }

    fn has_owner(&self) -> bool {
        let (mut owner, mut defaulted) = (null_mut(), 0);
        // SAFETY: the descriptor is a valid one; what is written points into it.
        let done = unsafe { GetSecurityDescriptorOwner(self.0, &mut owner, &mut defaulted) };
        done != 0 && !owner.is_null()
    }
}

fn parse(sddl: &str) -> io::Result<SecurityDescriptor> {
    if sddl.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it contains a NUL",
        ));
    }
    let wide: Vec<u16> = sddl.encode_utf16().chain([0]).collect();
    let mut descriptor = null_mut();
    // SAFETY: the text ends with NUL; `descriptor` is written on success.
    let done = unsafe {
        let text = wide.as_ptr();
        let (revision, no_size) = (SDDL_REVISION_1, null_mut());
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text,
            revision,
            &mut descriptor,
            no_size,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(SecurityDescriptor(descriptor))
}

/// The first entry in parentheses that the system refuses on its own, in either kind of list, and
/// where it begins: the system itself does not say what it stumbled over.
fn refused_part(sddl: &str) -> Option<(usize, &str)> {
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in sddl.bytes().enumerate() {
        match byte {
            b'(' => {
                if depth == 0 {
                    start = at;
                }
                depth += 1;
            }
            b')' if depth > 0 => {
                depth -= 1;
                let part = &sddl[start..=at];
                let refused = |list| parse(&format!("{list}:{part}")).is_err();
                if depth == 0 && refused("D") && refused("S") {
                    return Some((start, part));
                }
            }
            _ => {}
        }
    }
    None
}

impl Drop for SecurityDescriptor {
    fn drop(&mut self) {
        // SAFETY: allocated by the conversion for us to free, and freed only here.
        unsafe { LocalFree(self.0) };
    }
}
