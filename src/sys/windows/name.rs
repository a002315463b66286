//! Names are paths in the pipe file system.
//!
//! Which names it accepts: <https://learn.microsoft.com/windows/win32/ipc/pipe-names>, which forbids
//! a backslash and allows every other character. The system itself accepts backslashes, and some of
//! these names have a meaning: `LOCAL\` is for AppContainers
//! (<https://learn.microsoft.com/windows/win32/api/namedpipeapi/nf-namedpipeapi-createnamedpipew>),
//! and only administrators can listen on `ProtectedPrefix\Administrators\`. There are no folders:
//! while there is a pipe `a`, `a\b` is ERROR_INVALID_NAME for servers and clients (Microsoft's
//! article Q100291).
//!
//! How Win32 changes a path before that file system sees it:
//! <https://learn.microsoft.com/archive/blogs/jeremykuhne/path-normalization>. Names that it would
//! change are refused, because they would silently be another pipe. Wine changes them in the same
//! way. Win32 leaves alone what begins with `\\?\`. In other paths it leaves alone device names such
//! as `con`, control characters, `:` and `*`, and spaces at the end of any part but the last.

use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::sys::Address;

/// The longest path of a pipe, in UTF-16 units, as documented. `\\?\` does not change it.
const MAX_PATH_UNITS: usize = 256;

/// The prefix of a name on this machine. It is as long with `?` in place of the dot.
const LOCAL: &str = r"\\.\pipe\";

/// The path if `name` is a full one, or which rule it breaks if it cannot be a name here.
pub(crate) fn full_path(name: &OsStr) -> Option<Result<PathBuf, &'static str>> {
    let bytes = name.as_encoded_bytes();
    if bytes.starts_with(b"//") {
        return Some(Err(r"the path of a pipe is written with `\`"));
    }
    if bytes.starts_with(b"/") {
        return Some(Err(
            "a Unix socket path means nothing here; use the logical name",
        ));
    }
    if !bytes.starts_with(br"\\") {
        return None;
    }
    Some(check(bytes).map(|()| name.into()))
}

fn check(path: &[u8]) -> Result<(), &'static str> {
    let full = Full::parse(path)
        .ok_or(r"a full path is \\.\pipe\NAME, or \\SERVER\pipe\NAME for clients")?;
    if full.pipe.is_empty() {
        return Err("the pipe's name is not empty");
    }
    if path.contains(&0) {
        return Err("the pipe's name has no NUL");
    }
    let mut parts = full.pipe.split(|it| *it == b'\\');
    if parts.clone().any(<[u8]>::is_empty) {
        return Err(r"the pipe's name has something before and behind each `\`");
    }
    if full.verbatim {
        return Ok(());
    }
    if full.pipe.contains(&b'/') {
        return Err(r"the pipe's name has no `/`, which Windows takes for `\` outside of \\?\");
    }
    // This includes `.` and `..`, which would lead elsewhere.
    if parts.any(|it| it.ends_with(b".")) {
        return Err(
            r"no part of the pipe's name ends with a dot, which Windows drops outside of \\?\",
        );
    }
    if full.pipe.ends_with(b" ") {
        return Err(
            r"the pipe's name does not end with a space, which Windows drops outside of \\?\",
        );
    }
    Ok(())
}

/// The parts of a full path.
struct Full<'a> {
    /// Another machine, if it is not this one.
    server: Option<&'a [u8]>,
    pipe: &'a [u8],
    /// Whether Win32 leaves the path as it is.
    verbatim: bool,
}

impl<'a> Full<'a> {
    /// Takes `\\.\pipe\NAME`, `\\SERVER\pipe\NAME` and `\\.\UNC\SERVER\pipe\NAME`; the dot may be `?`.
    fn parse(path: &'a [u8]) -> Option<Self> {
        let (root, rest) = next(path.strip_prefix(br"\\")?)?;
        let device = matches!(root, b"." | b"?");
        let (mut folder, mut rest) = next(rest)?;
        let mut server = (!device).then_some(root);
        if device && folder.eq_ignore_ascii_case(b"unc") {
            let (named, behind) = next(rest)?;
            server = Some(named);
            (folder, rest) = next(behind)?;
        }
        let named = !matches!(server, Some(b"" | b"." | b"?"));
        (named && folder.eq_ignore_ascii_case(b"pipe")).then_some(Full {
            server,
            pipe: rest,
            verbatim: root == b"?",
        })
    }
}

/// What is before the next backslash, and what is after it.
fn next(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().position(|it| *it == b'\\')?;
    Some((&path[..at], &path[at + 1..]))
}

/// Whether the path is on this machine: a server can listen only there.
pub(super) fn is_local(path: &Path) -> bool {
    Full::parse(path.as_os_str().as_encoded_bytes()).is_some_and(|it| it.server.is_none())
}

/// What the pipe file system calls a pipe on this machine: all of the path after the folder.
pub(super) fn pipe(path: &Path) -> impl Iterator<Item = u16> {
    path.as_os_str().encode_wide().skip(LOCAL.len())
}

/// The path of a pipe on this machine in the form that every call accepts.
pub(super) fn usual(path: &Path) -> impl Iterator<Item = u16> {
    LOCAL.encode_utf16().chain(pipe(path))
}

/// Where the pipe of a logical name is.
pub(crate) fn resolve(logical: &str) -> PathBuf {
    format!("{LOCAL}{logical}").into()
}

/// On Windows all names are in one place.
pub(crate) fn elsewhere(_: Address<'_>) -> Option<PathBuf> {
    None
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
