//! Who is at the other end of a pipe.

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{ERROR_NO_TOKEN, ERROR_SUCCESS, HANDLE, LocalFree};
use windows_sys::Win32::Security::Authorization::{GetSecurityInfo, SE_KERNEL_OBJECT};
use windows_sys::Win32::Security::{
    OWNER_SECURITY_INFORMATION, PSID, RevertToSelf, TOKEN_IMPERSONATE, TOKEN_QUERY,
};
use windows_sys::Win32::System::Pipes::{
    GetNamedPipeClientProcessId, GetNamedPipeClientSessionId, GetNamedPipeServerProcessId,
    GetNamedPipeServerSessionId, ImpersonateNamedPipeClient,
};
use windows_sys::Win32::System::Threading::{
    OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, SetThreadToken,
};

use super::user::{of_process, of_token, text, thread_token};
use crate::sys::Credentials;

/// Who is at the other end. Leaves out what the system does not tell. It must tell the process, and does
/// so as long as the pipe is connected.
pub(super) fn of(pipe: BorrowedHandle<'_>, is_server: bool) -> io::Result<Credentials> {
    let (process_id, session_id, user) = if is_server {
        let process_id = ask(pipe, GetNamedPipeClientProcessId)?;
        let session_id = ask(pipe, GetNamedPipeClientSessionId);
        (process_id, session_id, of_client(pipe, process_id))
    } else {
        let process_id = ask(pipe, GetNamedPipeServerProcessId)?;
        let session_id = ask(pipe, GetNamedPipeServerSessionId);
        (process_id, session_id, of_owner(pipe))
    };
    Ok(Credentials {
        process_id: Some(process_id),
        session_id: session_id.ok(),
        user: user.ok(),
    })
}

/// The process at the client's end of an instance.
#[cfg(feature = "worker")]
pub(super) fn client_process(instance: BorrowedHandle<'_>) -> io::Result<u32> {
    ask(instance, GetNamedPipeClientProcessId)
}

/// Asks the system for one of the numbers that it keeps about a pipe.
fn ask(
    pipe: BorrowedHandle<'_>,
    question: unsafe extern "system" fn(HANDLE, *mut u32) -> i32,
) -> io::Result<u32> {
    let mut answer = 0;
    // SAFETY: the handle is open for as long as it is borrowed; `answer` is written.
    if unsafe { question(pipe.as_raw_handle(), &mut answer) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer)
}

/// The client at the other end of a server's pipe.
///
/// Impersonating gives a sure answer, but only once something was read from the pipe
/// (ERROR_CANNOT_IMPERSONATE before: Wine's dlls/kernel32/tests/pipe.c,
/// `test_ImpersonateNamedPipeClient`), and not when the client stays anonymous. Before that, this asks
/// for the user of the client's process, if it still exists.
fn of_client(pipe: BorrowedHandle<'_>, process_id: u32) -> io::Result<String> {
    let own = match thread_token(TOKEN_IMPERSONATE) {
        Ok(token) => Some(token),
        Err(e) if e.raw_os_error() == Some(ERROR_NO_TOKEN as i32) => None,
        // A token that cannot be restored must not be replaced.
        Err(e) => return Err(e),
    };
    // SAFETY: no preconditions.
    if own.is_some() && unsafe { RevertToSelf() } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is open. The thread's own identity is restored below, before it does
    // anything else.
    let user = match unsafe { ImpersonateNamedPipeClient(pipe.as_raw_handle()) } {
        0 => None,
        // On an overlapped handle the system may answer STATUS_PENDING. Then the call reports success,
        // whatever the outcome (ReactOS, dll/win32/advapi32/sec/misc.c). If it has failed, this thread
        // has no token.
        _ => match thread_token(TOKEN_QUERY) {
            Err(e) if e.raw_os_error() == Some(ERROR_NO_TOKEN as i32) => None,
            token => Some(token.and_then(|it| of_token(it.as_handle()))),
        },
    };
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
    if let Some(user) = user {
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
fn of_owner(pipe: BorrowedHandle<'_>) -> io::Result<String> {
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
