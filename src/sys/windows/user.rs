//! The user that this process runs as.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::ConvertSidToStringSidW;
use windows_sys::Win32::Security::{GetTokenInformation, TOKEN_QUERY, TOKEN_USER, TokenUser};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// The user's security identifier in its text form, `S-1-5-…`.
pub(super) fn sid() -> io::Result<String> {
    let mut token = null_mut();
    // SAFETY: the pseudo-handle of the process is always valid; `token` is written on success.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };

    // A TOKEN_USER and the identifier behind it (at most 68 bytes); u64 for the alignment.
    let mut user = [0u64; 16];
    let mut written = 0;
    // SAFETY: the buffer's size is given in bytes, and the token outlives the call.
    let done = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            user.as_mut_ptr().cast(),
            size_of_val(&user) as u32,
            &mut written,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    let mut text = null_mut();
    // SAFETY: the call above has put a TOKEN_USER there, aligned, whose identifier is behind it
    // in the same buffer; `text` is written on success.
    let done = unsafe {
        let user = &*user.as_ptr().cast::<TOKEN_USER>();
        ConvertSidToStringSidW(user.User.Sid, &mut text)
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success `text` points at a string that ends with NUL, allocated for us.
    unsafe {
        let len = (0..).take_while(|&i| *text.add(i) != 0).count();
        let sid = String::from_utf16_lossy(std::slice::from_raw_parts(text, len));
        LocalFree(text.cast());
        Ok(sid)
    }
}
