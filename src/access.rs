/// Who may connect to a server. Nobody but the owner may listen on its name.
///
/// On Unix, others cannot enter the folder of logical names: to admit more than the owner, use a full
/// path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// The user that the server runs as; on Windows also the system account, elsewhere the
    /// superuser.
    #[default]
    Owner,
    /// On Windows, all users that have identified themselves (`Authenticated Users`); elsewhere the
    /// members of the socket file's group (mode 0660).
    Group,
    /// Everyone on this machine.
    Everyone,
}
