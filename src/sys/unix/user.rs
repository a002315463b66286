//! Which user this process runs as, and which user a number stands for.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

/// The effective user.
pub(super) fn uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// The user that this process runs as.
pub(crate) fn current_user() -> io::Result<String> {
    named(uid()).ok_or_else(|| {
        let why = "this process's user has no number in its user namespace";
        io::Error::new(io::ErrorKind::Unsupported, why)
    })
}

/// The text of a user's number as this module writes it, or the rule that it breaks.
pub(crate) fn check_user(id: &str) -> Result<String, &'static str> {
    let rule = "a user is a number below 4294967295 here";
    match id.parse::<u32>() {
        // -1 stands for no user (chown(2), setreuid(2)).
        Ok(uid) if uid != u32::MAX && !id.starts_with('+') => Ok(uid.to_string()),
        _ => Err(rule),
    }
}

/// The user that has this number; `None` when it stands for all users without one here.
pub(super) fn named(uid: u32) -> Option<String> {
    stands_for_one_user(uid).then(|| uid.to_string())
}

/// Whether the file certainly belongs to this user. Goes by the number alone, so the file of a user
/// without a number is nobody's.
pub(super) fn is_own(found: &Metadata) -> bool {
    found.uid() == uid() && stands_for_one_user(found.uid())
}

/// Whether a file belongs to this user, even if the user has no number here. Only the owner can change a
/// file's mode (chmod(2)), so this sets the mode that the file already has.
pub(super) fn owns(file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    if found.uid() != uid() || stands_for_one_user(found.uid()) {
        return Ok(found.uid() == uid());
    }
    match file.set_permissions(found.permissions()) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether the number is one user's, and not the one that the system shows for all users without a
/// number in this user namespace (user_namespaces(7)).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn stands_for_one_user(uid: u32) -> bool {
    use std::fs;
    use std::sync::LazyLock;

    /// The system's own default, where /proc does not say (proc_sys_kernel(5)).
    const OVERFLOW: u32 = 65534;
    static OVERFLOW_UID: LazyLock<u32> = LazyLock::new(|| {
        let told = fs::read_to_string("/proc/sys/kernel/overflowuid");
        let told = told.ok().and_then(|it| it.trim().parse().ok());
        told.unwrap_or(OVERFLOW)
    });
    if uid != *OVERFLOW_UID && uid != OVERFLOW {
        return true;
    }
    // If every user has a number here, this is an ordinary one.
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|it| maps_every_user(&it))
}

/// These systems have no such namespaces.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn stands_for_one_user(_: u32) -> bool {
    true
}

/// Whether a map gives every user a number. Each line has the first number inside the namespace, the
/// first outside, and how many there are. The very last number is no user's.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn maps_every_user(map: &str) -> bool {
    let line = |line: &str| -> Option<(u64, u64)> {
        let mut numbers = line.split_whitespace();
        let first = numbers.next()?.parse().ok()?;
        let count = numbers.nth(1)?.parse().ok()?;
        Some((first, count))
    };
    let Some(mut ranges) = map.lines().map(line).collect::<Option<Vec<_>>>() else {
        return false;
    };
    ranges.sort_unstable();
    let mut next = 0;
    for (first, count) in ranges {
        if first != next {
            return false;
        }
        next += count;
    }
    next >= u64::from(u32::MAX)
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn a_map_maps_every_user_only_without_a_gap_and_to_the_end() {
        assert!(maps_every_user("         0          0 4294967295\n"));
        assert!(maps_every_user("1 1 4294967294\n0 0 1\n"));
        // As in containers: 65534 is in the map, which proves nothing.
        assert!(!maps_every_user("0 100000 65536\n"));
        assert!(!maps_every_user("0 0 1000\n1001 1001 4294966294\n"));
        assert!(!maps_every_user("1 1 4294967294\n"));
        assert!(!maps_every_user("0 0 4294967294\n"));
        assert!(!maps_every_user(""));
        assert!(!maps_every_user("0 0\n"));
        assert!(!maps_every_user("everyone\n"));
    }
}
