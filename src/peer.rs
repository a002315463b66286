use std::fmt;
use std::str::FromStr;

use crate::sys::{self, Credentials};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The process that opened the other end, where the system says. It may have ended since, and may
    /// have handed its end to another process: use it for logs, not for trust.
    pub process_id: Option<u32>,
    /// The session in which that process runs. On Windows only.
    pub session_id: Option<u32>,
    /// The user, where the system says.
    ///
    /// On Unix, the user of the other end when it connected or began to listen; unknown when that user
    /// has no number in this process's user namespace (in a container, say). On Windows, a server gets
    /// the client's user as the pipe knows it once something was read from it, and before that the user
    /// of the client's process. A client gets the owner of the pipe.
    pub user: Option<UserId>,
}

impl Peer {
    /// Whether the other end belongs to the user that this process runs as. `false` when the system does
    /// not say who one of the two users is.
    ///
    /// A server on Windows should ask after the first message: before that, the answer is about the
    /// client's process, which may have handed over its end.
    pub fn is_same_user(&self) -> bool {
        self.user
            .as_ref()
            .is_some_and(|user| sys::current_user().is_ok_and(|it| it == user.0))
    }
}

impl From<Credentials> for Peer {
    fn from(told: Credentials) -> Self {
        Peer {
            process_id: told.process_id,
            session_id: told.session_id,
            user: told.user.map(UserId),
        }
    }
}

/// A user, as the system identifies one: the security identifier (`S-1-5-…`) on Windows, the
/// number elsewhere.
///
/// [`Display`](fmt::Display) shows it, and [`FromStr`] reads it, for example from a configuration file.
/// Users are ordered as text, for use in sorted collections.
///
/// ```
/// use asyncipc::UserId;
///
/// let text = if cfg!(windows) { "S-1-5-18" } else { "0" };
/// let root: UserId = text.parse()?;
/// assert_eq!(root.to_string(), text);
/// assert!("nobody".parse::<UserId>().is_err());
/// # Ok::<(), asyncipc::InvalidUserId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(String);

impl UserId {
    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({})", self.0)
    }
}

/// Takes what [`Display`](fmt::Display) shows of a user on this platform. Does not ask the system
/// whether there is such a user.
impl FromStr for UserId {
    type Err = InvalidUserId;

    fn from_str(id: &str) -> Result<Self, InvalidUserId> {
        sys::check_user(id)
            .map(UserId)
            .map_err(|rule| InvalidUserId {
                id: id.into(),
                rule,
            })
    }
}

/// A text that identifies no user on this platform: which text, and which rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid user {id:?}: {rule}")]
pub struct InvalidUserId {
    id: String,
    rule: &'static str,
}

impl InvalidUserId {
    /// The text as it was given.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The rule that it breaks.
    pub fn rule(&self) -> &str {
        self.rule
    }
}
