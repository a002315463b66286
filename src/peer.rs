use std::fmt;

use crate::sys;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The process that opened the other end, where the system tells. It may have ended since,
    /// and have handed its end to another process: good for logs, not for trust.
    pub process_id: Option<u32>,
    /// The session that this process runs in. On Windows only.
    pub session_id: Option<u32>,
    /// The user, where the system tells.
    ///
    /// On Unix the one that the other end had when it connected, or began to listen; unknown when
    /// it has no number in this process's user namespace (in a container, say). On Windows,
    /// for a server: the client's user as the pipe knows it once something was read from it, and
    /// before that the user of the client's process; for a client: the owner of the pipe.
    pub user: Option<UserId>,
}

impl Peer {
    /// Whether the other end belongs to the user that this process runs as. `false` when the
    /// system does not tell, of either of them.
    ///
    /// A server on Windows should ask after the first message: before that, the answer is about
    /// the client's process, which may have handed over its end.
    pub fn is_same_user(&self) -> bool {
        self.user
            .as_ref()
            .is_some_and(|user| sys::current_user().is_ok_and(|it| it == *user))
    }
}

/// A user, as the system identifies one: the security identifier (`S-1-5-…`) on Windows, the
/// number elsewhere. [`Display`](fmt::Display) shows it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserId(String);

impl UserId {
    pub(crate) fn new(id: impl Into<String>) -> Self {
        UserId(id.into())
    }

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
