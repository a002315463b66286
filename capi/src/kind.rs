//! The kind and the role of a pipe.

use crate::failure::{Code, Failure};

/// How bytes are moved: the names are those that programs for completion routines or overlapped I/O use.
/// What goes over the pipe is the same, and the two ends may have different kinds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The default: on Windows by a completion port, elsewhere by a socket.
    Async = 0,
    /// On Windows by overlapped I/O of this library, which is faster for messages of 1 KiB and more;
    /// elsewhere the same as ASYNCIPC_KIND_ASYNC.
    Overlapped = 1,
}

/// Which end of the pipe it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// The one that listens, for any number of clients.
    Server = 0,
    /// One that connects.
    Client = 1,
}

impl Kind {
    pub(crate) fn from_number(number: i32) -> Result<Self, Failure> {
        match number {
            0 => Ok(Kind::Async),
            1 => Ok(Kind::Overlapped),
            _ => Err(no_such("asyncipc_kind", number)),
        }
    }
}

impl Role {
    pub(crate) fn from_number(number: i32) -> Result<Self, Failure> {
        match number {
            0 => Ok(Role::Server),
            1 => Ok(Role::Client),
            _ => Err(no_such("asyncipc_role", number)),
        }
    }
}

fn no_such(what: &str, number: i32) -> Failure {
    let text = format!("there is no {what} {number}");
    Failure::new(Code::InvalidArgument, text)
}
