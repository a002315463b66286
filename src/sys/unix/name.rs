//! Names are paths of socket files.
//!
//! The system takes any bytes but NUL, as many as fit into its `sockaddr_un` with a NUL at the end: 107
//! on Linux, 103 on macOS and the BSDs. Linux also takes a path without the NUL (unix(7)), but other
//! programs cannot be relied on to write one.

use std::ffi::OsStr;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{connect, folder};
use crate::sys::Address;

/// The path, if `name` is a full one; the rule that it breaks, if it cannot be a name here.
pub(crate) fn full_path(name: &OsStr) -> Option<Result<PathBuf, &'static str>> {
    let bytes = name.as_encoded_bytes();
    if bytes.starts_with(br"\\") {
        return Some(Err(
            "a Windows pipe path means nothing here; use the logical name",
        ));
    }
    if !bytes.starts_with(b"/") {
        return None;
    }
    if bytes.contains(&0) {
        return Some(Err("a path has no NUL"));
    }
    // Anything else can only be a folder.
    if bytes
        .rsplit(|it| *it == b'/')
        .next()
        .is_none_or(|it| matches!(it, b"" | b"." | b".."))
    {
        return Some(Err("the path of a socket ends with a file's name"));
    }
    Some(Ok(name.into()))
}

/// Where the socket of a logical name is.
pub(crate) fn resolve(logical: &str) -> PathBuf {
    folder::path().join(format!("{logical}.sock"))
}

/// Where a server of this logical name listens if it was started with another environment.
pub(crate) fn elsewhere(address: Address<'_>) -> Option<PathBuf> {
    let (here, file) = (address.path.parent()?, address.path.file_name()?);
    if !address.is_logical {
        return None;
    }
    let listens = |path: &PathBuf| match connect::open(path) {
        Ok(_) => true,
        Err(e) => connect::is_busy(&e),
    };
    folder::everywhere()
        .filter(|it| it != here && folder::check(it).is_ok())
        .map(|it| it.join(file))
        .find(listens)
}

/// The path must fit into a `sockaddr_un`.
pub(crate) fn check_length(path: &Path) -> Result<(), String> {
    match SocketAddr::from_pathname(path) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "the socket's path {} has {} bytes, more than the system takes in an address",
            path.display(),
            path.as_os_str().len()
        )),
    }
}
