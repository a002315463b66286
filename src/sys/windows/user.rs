//! Users: security identifiers, from tokens and from text.

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{HANDLE, LocalFree};
use windows_sys::Win32::Security::Authorization::{ConvertSidToStringSidW, ConvertStringSidToSidW};
use windows_sys::Win32::Security::{
    GetTokenInformation, PSID, TOKEN_ACCESS_MASK, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetCurrentThread, OpenProcessToken, OpenThreadToken,
};

/// The user that this process runs as.
pub(crate) fn current_user() -> io::Result<String> {
    // SAFETY: the pseudo-handle of the process is always valid.
    of_process(unsafe { GetCurrentProcess() })
}

/// The text of a security identifier as the system writes it, or which rule it breaks.
pub(crate) fn check_user(id: &str) -> Result<String, &'static str> {
    let rule = "a user is a security identifier such as S-1-5-18 here";
    // The system also accepts abbreviations (`BA`), and anything after a NUL.
    let is_identifier = id.get(..2).is_some_and(|it| it.eq_ignore_ascii_case("s-"));
    if !is_identifier || id.contains('\0') {
        return Err(rule);
    }
    let wide: Vec<u16> = OsStr::new(id).encode_wide().chain([0]).collect();
    let mut sid = null_mut();
    // SAFETY: the text ends with NUL. On success `sid` is an identifier, allocated for us to free.
    unsafe {
        if ConvertStringSidToSidW(wide.as_ptr(), &mut sid) == 0 {
            return Err(rule);
        }
        let user = text(sid);
        LocalFree(sid);
        user.map_err(|_| rule)
    }
}

pub(super) fn of_process(process: HANDLE) -> io::Result<String> {
    let mut token = null_mut();
    // SAFETY: the handle is open; `token` is written on success.
    if unsafe { OpenProcessToken(process, TOKEN_QUERY, &mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    of_token(unsafe { OwnedHandle::from_raw_handle(token) }.as_handle())
}

/// The token of whom this thread impersonates; an error if it impersonates nobody.
pub(super) fn thread_token(access: TOKEN_ACCESS_MASK) -> io::Result<OwnedHandle> {
    let mut token = null_mut();
    // SAFETY: the pseudo-handle of the thread is always valid; `token` is written on success. The
    // token is opened as the process: the client's rights may not suffice.
    if unsafe { OpenThreadToken(GetCurrentThread(), access, 1, &mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(token) })
}

pub(super) fn of_token(token: BorrowedHandle<'_>) -> io::Result<String> {
    // A TOKEN_USER and after it the identifier (at most 68 bytes); u64 for the alignment.
    let mut user = [0u64; 16];
    let mut written = 0;
    // SAFETY: the buffer's size is given in bytes. On success it holds an aligned TOKEN_USER,
    // whose identifier follows in the same buffer.
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
/// `sid` points to a security identifier.
pub(super) unsafe fn text(sid: PSID) -> io::Result<String> {
    let mut text = null_mut();
    // SAFETY: on success `text` points at a string that ends with NUL, allocated for us to free.
    unsafe {
        if ConvertSidToStringSidW(sid, &mut text) == 0 {
            return Err(io::Error::last_os_error());
        }
        let len = (0..).take_while(|&i| *text.add(i) != 0).count();
        let user = String::from_utf16_lossy(std::slice::from_raw_parts(text, len));
        LocalFree(text.cast());
        Ok(user)
    }
}
