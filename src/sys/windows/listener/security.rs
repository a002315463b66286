//! Who may do what with a pipe.

use std::ffi::c_void;
use std::io;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::GetSecurityDescriptorOwner;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_GENERIC_READ, FILE_WRITE_ATTRIBUTES, FILE_WRITE_DATA, FILE_WRITE_EA,
};

use crate::access::Access;
use crate::sys::PlatformError;
use crate::sys::platform::user;

/// What a client needs: reading, writing, setting the read mode. Not FILE_GENERIC_WRITE, which
/// contains FILE_APPEND_DATA, for pipes the right to create instances:
/// <https://learn.microsoft.com/windows/win32/ipc/named-pipe-security-and-access-rights>.
/// Foreign clients ask for it with GENERIC_WRITE. For a client's end the system ignores it
/// (ReactOS, drivers/filesystems/npfs/create.c, `NpCreateClientEnd`). .NET relies on that too: its
/// PipeAccessRights.ReadWrite are these rights.
pub(in crate::sys) const CLIENT_RIGHTS: u32 =
    FILE_GENERIC_READ | FILE_WRITE_DATA | FILE_WRITE_ATTRIBUTES | FILE_WRITE_EA;

/// A security descriptor in the system's binary form.
#[derive(Debug)]
pub(in crate::sys) struct SecurityDescriptor(*mut c_void);

// SAFETY: nobody writes to the descriptor after it was made, and LocalFree may be called on any
// thread.
unsafe impl Send for SecurityDescriptor {}
// SAFETY: as above.
unsafe impl Sync for SecurityDescriptor {}

impl SecurityDescriptor {
    /// The system's own default lets everybody read. This makes the user the owner, gives the user
    /// and the system account all rights (FA), others at most a client's, and inherits nothing (P).
    pub(in crate::sys) fn of(access: Access) -> io::Result<Self> {
        let user = user::current_user()?;
        let others = match access {
            Access::Owner => String::new(),
            Access::Group => format!("(A;;{CLIENT_RIGHTS:#x};;;AU)"),
            Access::Everyone => format!("(A;;{CLIENT_RIGHTS:#x};;;WD)"),
        };
        parse(&format!("O:{user}D:P(A;;FA;;;{user})(A;;FA;;;SY){others}"))
    }

    /// If `sddl` names no owner, the user becomes the owner. The pipe of an elevated process would
    /// otherwise belong to the Administrators, and its clients could not tell whose it is.
    pub(super) fn new(sddl: &str) -> Result<Self, PlatformError> {
        let parsed = parse(sddl).map_err(|error| {
            let rule = match refused_part(sddl) {
                Some((at, part)) => {
                    format!("the system refuses {part:?} at byte {at} of {sddl:?}: {error}")
                }
                None => format!("the system refuses {sddl:?}: {error}"),
            };
            PlatformError::invalid_option("security_descriptor", rule)
        })?;
        if parsed.has_owner() {
            return Ok(parsed);
        }
        user::current_user()
            .and_then(|user| parse(&format!("O:{user}{sddl}")))
            .map_err(|e| PlatformError::io("cannot listen on", e))
    }

    /// Valid for as long as `self` exists.
    pub(super) fn as_ptr(&self) -> *mut c_void {
        self.0
    }

    fn has_owner(&self) -> bool {
        let (mut owner, mut defaulted) = (null_mut(), 0);
        // SAFETY: the descriptor is valid; the pointer that is written points into it.
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

/// The first entry in parentheses that the system refuses by itself, in both kinds of list, and
/// where it begins. The system itself does not say which part it refuses.
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
        // SAFETY: the conversion allocated it for us to free, and it is freed only here.
        unsafe { LocalFree(self.0) };
    }
}
