use std::convert::Infallible;
use std::ffi::OsStr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::sys::{self, Address};

/// Where a server listens: a logical name such as `echo`, or a full path.
///
/// | given | on Windows | elsewhere |
/// |---|---|---|
/// | `echo` | `\\.\pipe\echo` | `echo.sock` in a folder that only the user can enter |
/// | `\\.\pipe\echo` | as it is | refused |
/// | `\\server\pipe\echo` | as it is, for clients | refused |
/// | `/run/echo.sock` | refused | as it is |
///
/// The folder is `$XDG_RUNTIME_DIR/asyncipc` if the user owns the folder that this variable names,
/// otherwise `asyncipc-<uid>` under the temporary folder ([`std::env::temp_dir`]). So both ends must see
/// the same environment. The folder is made with mode 0700, and refused when somebody else owns it.
///
/// Every rule is checked when the name is made, before any socket or pipe is touched. The system's
/// limit on the whole path comes last: 256 UTF-16 units on Windows, 107 bytes on Linux, 103 on
/// macOS.
///
/// # Logical names
///
/// They follow one set of rules everywhere, so that what works on one platform works on the others:
/// valid Unicode, not empty, no `/`, `\` or control character, no dot or space at the end. For a pipe
/// whose name has a backslash, such as `App\query`, give the full path, `\\.\pipe\App\query`.
///
/// # Full paths
///
/// On Unix they are absolute and end with a file's name: a relative path would depend on the directory
/// in which each process runs. The system decides about the rest.
///
/// On Windows, the name after `\\.\pipe\` may have any characters, and backslashes between its parts.
/// Some names mean something to the system: `\\.\pipe\LOCAL\…` is where a process in an AppContainer can
/// listen; only administrators can listen on `\\.\pipe\ProtectedPrefix\Administrators\…`. There are no
/// folders, though: while a pipe `a` exists, nobody can listen on `a\b`, or connect there, and the
/// system calls the name invalid ([`Error::Io`](crate::Error::Io)). This crate refuses what Windows
/// would change silently: `/`, a part that ends with a dot (also `.` and `..`), a space at the end.
/// `\\?\pipe\NAME` takes these as they are. The same rules hold for clients of other machines, with
/// `\\SERVER\pipe\NAME` and `\\?\UNC\SERVER\pipe\NAME`.
///
/// Pipe names are case-insensitive on Windows and case-sensitive elsewhere. Two `PipeName`s are equal
/// when their paths are the same, letter by letter.
///
/// ```
/// use asyncipc::PipeName;
///
/// let name = PipeName::new("echo")?;
/// println!("{name}"); // the path that it resolved to
///
/// let refused = PipeName::new("a/b").unwrap_err();
/// assert!(refused.to_string().starts_with(r#"invalid pipe name "a/b""#));
/// # Ok::<(), asyncipc::InvalidName>(())
/// ```
#[derive(Clone)]
pub struct PipeName {
    path: Arc<Path>,
    /// Whether it was given as a logical name.
    logical: bool,
}

impl PartialEq for PipeName {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for PipeName {}

impl Hash for PipeName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
    }
}

impl PipeName {
    /// Takes a logical name or a full path.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] with the rule that the name breaks.
    pub fn new(name: impl AsRef<OsStr>) -> Result<Self, InvalidName> {
        let name = name.as_ref();
        let (path, logical) = match sys::full_path(name) {
            Some(path) => (path.map_err(|rule| InvalidName::new(name, rule))?, false),
            None => {
                let logical = logical_name(name).map_err(|rule| InvalidName::new(name, rule))?;
                (sys::resolve(logical), true)
            }
        };
        sys::check_length(&path).map_err(|rule| InvalidName::new(name, rule))?;
        Ok(PipeName {
            path: path.into(),
            logical,
        })
    }

    /// The name of a pipe that nobody looks up: it is shown, and never checked.
    #[cfg(feature = "worker")]
    pub(crate) fn as_it_is(path: &str) -> Self {
        PipeName {
            path: Path::new(path).into(),
            logical: false,
        }
    }

    pub(crate) fn address(&self) -> Address<'_> {
        Address {
            path: &self.path,
            is_logical: self.logical,
        }
    }

    /// The full path of the pipe or socket.
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

/// Checks the rules for logical names, which are the same on every platform.
fn logical_name(name: &OsStr) -> Result<&str, &'static str> {
    let name = name.to_str().ok_or("a logical name is valid Unicode")?;
    if name.is_empty() {
        return Err("a name is not empty");
    }
    // `/` would lead into a folder on Unix; `\\` would be a part of the pipe's name on Windows.
    if name.contains(['/', '\\']) {
        return Err("a logical name has no `/` or `\\`, and a full path is absolute");
    }
    if name.chars().any(char::is_control) {
        return Err("a logical name has no control characters");
    }
    // Windows would drop them silently, and three names would be one pipe.
    if name.ends_with(['.', ' ']) {
        return Err("a logical name does not end with a dot or a space");
    }
    Ok(name)
}

impl fmt::Display for PipeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl fmt::Debug for PipeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeName")
            .field("path", &self.path)
            .field("logical", &self.logical)
            .finish()
    }
}

impl AsRef<Path> for PipeName {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl FromStr for PipeName {
    type Err = InvalidName;
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        PipeName::new(name)
    }
}

impl From<&PipeName> for PipeName {
    fn from(name: &PipeName) -> Self {
        name.clone()
    }
}

macro_rules! try_from {
    ($($given:ty),*) => {$(
        impl TryFrom<$given> for PipeName {
            type Error = InvalidName;
            fn try_from(name: $given) -> Result<Self, InvalidName> {
                PipeName::new(name)
            }
        }
    )*};
}
try_from!(&str, String, &String, &OsStr, &Path, PathBuf, &PathBuf);

/// A name that breaks a rule: which name, and which rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid pipe name {name:?}: {rule}")]
pub struct InvalidName {
    name: String,
    rule: String,
}

impl InvalidName {
    pub(crate) fn new(name: &OsStr, rule: impl Into<String>) -> Self {
        InvalidName {
            name: name.to_string_lossy().into_owned(),
            rule: rule.into(),
        }
    }

    /// The name as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rule that it breaks.
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

/// Lets a [`PipeName`] stand wherever a name is taken.
impl From<Infallible> for InvalidName {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
