//! The private folder that holds the sockets of logical names.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::mode;
use super::user::{self, uid};

/// The folder's path: below `$XDG_RUNTIME_DIR` if the user owns that, otherwise below the temporary
/// folder, with the user in its name.
///
/// The variable often survives a change of user (`su`, `sudo`), so its owner is checked.
pub(super) fn path() -> PathBuf {
    runtime().unwrap_or_else(temporary)
}

/// The path below the temporary folder, whatever the runtime folder is.
pub(super) fn temporary() -> PathBuf {
    in_temporary(std::env::temp_dir())
}

/// Where the folder may be for processes with other environment variables.
pub(super) fn everywhere() -> impl Iterator<Item = PathBuf> {
    // The login session sets the variable to this (pam_systemd(8)).
    let usual = Path::new("/run/user").join(uid().to_string());
    let usual = is_own_folder(&usual).then(|| usual.join("asyncipc"));
    let temporary = [std::env::temp_dir(), "/tmp".into()].map(in_temporary);
    runtime().into_iter().chain(usual).chain(temporary)
}

fn runtime() -> Option<PathBuf> {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    (runtime.is_absolute() && is_own_folder(&runtime)).then(|| runtime.join("asyncipc"))
}

fn in_temporary(folder: PathBuf) -> PathBuf {
    // A relative path would depend on the directory in which each process runs.
    let absolute = Some(folder).filter(|it| it.is_absolute());
    absolute
        .unwrap_or("/tmp".into())
        .join(format!("asyncipc-{}", uid()))
}

/// Whether it is a folder that belongs to the user. For most users, the metadata are enough.
fn is_own_folder(folder: &Path) -> bool {
    let is_owned = || open(folder, 0).and_then(|it| user::owns(&it));
    fs::metadata(folder).is_ok_and(|found| {
        found.is_dir()
            && found.uid() == uid()
            && (user::is_own(&found) || is_owned().is_ok_and(|owned| owned))
    })
}

/// Makes the folder if it is missing, and makes sure that nobody else can enter it.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(about("cannot make the folder", folder, e));
        }
        _ => {}
    }
    let opened = match open_own(folder) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let found = fs::symlink_metadata(folder)?;
            if !found.is_dir() || found.uid() != uid() || found.mode() & 0o700 == 0o700 {
                return Err(e);
            }
            // A umask has locked out the owner as well.
            mode::set(folder, &found, 0o700)?;
            open_own(folder)?
        }
        opened => opened?,
    };
    if opened.metadata()?.mode() & 0o777 != 0o700 {
        opened
            .set_permissions(Permissions::from_mode(0o700))
            .map_err(|e| about("cannot change the mode of the folder", folder, e))?;
    }
    Ok(())
}

/// The system's error with the folder's path and what failed. The kind stays the same.
fn about(what: &str, folder: &Path, error: io::Error) -> io::Error {
    let text = format!("{what} {}: {error}", folder.display());
    io::Error::new(error.kind(), text)
}

/// Checks that nobody but the user can have put anything into the folder. Changes nothing.
pub(super) fn check(folder: &Path) -> io::Result<()> {
    if open_own(folder)?.metadata()?.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("others can write to the folder {}", folder.display()),
        ));
    }
    Ok(())
}

/// Opens the folder. Refuses one that somebody else could have put there: whoever owns the folder
/// decides who answers in it.
fn open_own(folder: &Path) -> io::Result<File> {
    let opened = open(folder, libc::O_NOFOLLOW).map_err(|e| match e.raw_os_error() {
        // The errors of O_DIRECTORY and O_NOFOLLOW.
        Some(libc::ENOTDIR | libc::ELOOP) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is a link, or no folder", folder.display()),
        ),
        _ => about("cannot open the folder", folder, e),
    })?;
    if !user::owns(&opened).map_err(|e| about("cannot tell the owner of", folder, e))? {
        let owner = opened.metadata()?.uid();
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "the folder {} belongs to user {owner}, not to you",
                folder.display()
            ),
        ));
    }
    Ok(opened)
}

fn open(folder: &Path, flags: libc::c_int) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | flags)
        .open(folder)
}
