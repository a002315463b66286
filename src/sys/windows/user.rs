//! Users, as the system identifies them.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{ERROR_NO_TOKEN, ERROR_SUCCESS, HANDLE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, GetSecurityInfo, SE_KERNEL_OBJECT,
};
use windows_sys::Win32::Security::{
    GetTokenInformation, OWNER_SECURITY_INFORMATION, PSID, RevertToSelf, TOKEN_ACCESS_MASK,
    TOKEN_IMPERSONATE, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Pipes::ImpersonateNamedPipeClient;
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetCurrentThread, OpenProcess, OpenProcessToken, OpenThreadToken,
    PROCESS_QUERY_LIMITED_INFORMATION, SetThreadToken,
};

use crate::UserId;

/// The user that this process runs as.
pub(crate) fn current_user() -> io::Result<UserId> {
    // SAFETY: the pseudo-handle of the process is always valid.
    of_process(unsafe { GetCurrentProcess() })
}

/// The client at the other end of a server's pipe.
///
/// Impersonating tells for sure, but only once something was read from the pipe
/// (ERROR_CANNOT_IMPERSONATE before: Wine's dlls/kernel32/tests/pipe.c,
/// `test_ImpersonateNamedPipeClient`), and not when the client stays anonymous; before that there is
/// the client's process, if it still exists.
pub(super) fn of_client(pipe: BorrowedHandle<'_>, process_id: u32) -> io::Result<UserId> {
    let own = match thread_token(TOKEN_IMPERSONATE) {
        Ok(token) => Some(token),
        Err(e) if e.raw_os_error() == Some(ERROR_NO_TOKEN as i32) => None,
        // What cannot be restored is not replaced.
        Err(e) => return Err(e),
    };
    // SAFETY: the handle is open. What this thread was before is restored below, before it does
    // anything else.
    if unsafe { ImpersonateNamedPipeClient(pipe.as_raw_handle()) } != 0 {
        let user = thread_token(TOKEN_QUERY).and_then(|it| of_token(it.as_handle()));
        // SAFETY: no preconditions, and an open token.
        let restored = unsafe {
            match own {
                Some(own) => SetThreadToken(null(), own.as_raw_handle()),
                None => RevertToSelf(),
            }
        };
        if restored == 0 {
            // This thread would go on as somebody else: nothing must run on it any more.
            std::process::abort();
        }
        return user;
    }
    // SAFETY: no preconditions.
    let process = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, process_id) };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    let process = unsafe { OwnedHandle::from_raw_handle(process) };
    of_process(process.as_raw_handle())
}

/// The owner of the pipe that a client has opened: whoever made its first instance.
pub(super) fn of_owner(pipe: BorrowedHandle<'_>) -> io::Result<UserId> {
    let (mut owner, mut descriptor): (PSID, _) = (null_mut(), null_mut());
    // SAFETY: the handle is open; `owner` and `descriptor` are written on success, the one
    // pointing into the other.
    unsafe {
        let error = GetSecurityInfo(
            pipe.as_raw_handle(),
            SE_KERNEL_OBJECT,
            OWNER_SECURITY_INFORMATION,
            &mut owner,
            null_mut(),
            null_mut(),
            null_mut(),
            &mut descriptor,
        );
        if error != ERROR_SUCCESS {
            return Err(io::Error::from_raw_os_error(error as i32));
        }
        let user = text(owner);
        LocalFree(descriptor);
        user
    }
}

fn of_process(process: HANDLE) -> io::Result<UserId> {
    let mut token = null_mut();
    // SAFETY: the handle is open; `token` is written on success.
    if unsafe { OpenProcessToken(process, TOKEN_QUERY, &mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    of_token(unsafe { OwnedHandle::from_raw_handle(token) }.as_handle())
}

/// Whom this thread impersonates; an error if nobody.
fn thread_token(access: TOKEN_ACCESS_MASK) -> io::Result<OwnedHandle> {
    let mut token = null_mut();
    // SAFETY: the pseudo-handle of the thread is always valid; `token` is written on success. The
    // token is opened as the process: the client's rights may not suffice.
    if unsafe { OpenThreadToken(GetCurrentThread(), access, 1, &mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(token) })
}

fn of_token(token: BorrowedHandle<'_>) -> io::Result<UserId> {
    // A TOKEN_USER and the identifier behind it (at most 68 bytes); u64 for the alignment.
    let mut user = [0u64; 16];
    let mut written = 0;
    // SAFETY: the buffer's size is given in bytes. On success a TOKEN_USER is there, aligned,
    // whose identifier is behind it in the same buffer.
    unsafe {
        let (buffer, size) = (user.as_mut_ptr(), size_of_val(&user) as u32);
        let token = token.as_raw_handle();
        if GetTokenInformation(token, TokenUser, buffer.cast(), size, &mut written) == 0 {
            return Err(io::Error::last_os_error());
        }
        text((*buffer.cast::<TOKEN_USER>()).User.Sid)
    }
}

/// The text form of a security identifier.
///
/// # Safety
///
/// `sid` points at one.
unsafe fn text(sid: PSID) -> io::Result<UserId> {
    let mut text = null_mut();
    // SAFETY: on success `text` points at a string that ends with NUL, allocated for us to free.
    unsafe {
        if ConvertSidToStringSidW(sid, &mut text) == 0 {
            return Err(io::Error::last_os_error());
        }
        let len = (0..).take_while(|&i| *text.add(i) != 0).count();
        let user = String::from_utf16_lossy(std::slice::from_raw_parts(text, len));
        LocalFree(text.cast());
        Ok(UserId::new(user))
    }
}
