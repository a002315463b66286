//! Names are paths in the pipe file system.
//!
//! The rules: <https://learn.microsoft.com/windows/win32/ipc/pipe-names>.

use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest path of a pipe, in UTF-16 units.
const MAX_PATH_UNITS: usize = 256;

/// The path, when `name` is a full one; which rule it breaks, when it can be no name here.
pub(crate) fn full_path(name: &OsStr) -> Option<Result<PathBuf, &'static str>> {
    let bytes = name.as_encoded_bytes();
    if bytes.starts_with(b"/") {
        return Some(Err(
            "a Unix socket path means nothing here; use the logical name",
        ));
    }
    if !bytes.starts_with(br"\\") {
        return None;
    }
    Some(match split(bytes) {
        Some((_, b"")) => Err("the pipe's name is not empty"),
        Some((_, pipe)) if pipe.contains(&b'\\') => Err("the pipe's name has no `\\`"),
        // Win32 would make it a backslash.
        Some((_, pipe)) if pipe.contains(&b'/') => Err("the pipe's name has no `/`"),
        // Win32 would drop them.
        Some((_, [.., b'.' | b' '])) => Err("the pipe's name does not end with a dot or a space"),
        Some((_, pipe)) if pipe.contains(&0) => Err("the pipe's name has no NUL"),
        Some((server, _)) if !server.is_empty() => Ok(name.into()),
        _ => Err(r"a full path is \\.\pipe\NAME, or \\SERVER\pipe\NAME for clients"),
    })
}

/// The server and the pipe of `\\SERVER\pipe\NAME`.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = path.strip_prefix(br"\\")?.splitn(3, |it| *it == b'\\');
    let (server, pipe, name) = (parts.next()?, parts.next()?, parts.next()?);
    pipe.eq_ignore_ascii_case(b"pipe").then_some((server, name))
}

/// Whether the path names this machine: only there can a server listen.
pub(super) fn is_local(path: &Path) -> bool {
    split(path.as_os_str().as_encoded_bytes())
        .is_some_and(|(server, _)| matches!(server, b"." | b"?"))
}

/// What the pipe file system calls it: the path without server and folder.
pub(super) fn pipe(path: &Path) -> &OsStr {
    path.file_name().unwrap_or(path.as_os_str())
}

/// Where the pipe of a logical name is.
pub(crate) fn resolve(logical: &str) -> PathBuf {
    format!(r"\\.\pipe\{logical}").into()
}

pub(crate) fn check_length(path: &Path) -> Result<(), String> {
    let units = path.as_os_str().encode_wide().count();
    if units > MAX_PATH_UNITS {
        return Err(format!(
            "the pipe's path has {units} UTF-16 units, more than the {MAX_PATH_UNITS} that the \
             system takes"
        ));
    }
    Ok(())
}
