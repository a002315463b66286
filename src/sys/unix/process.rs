//! Which process this is, told apart from those that are forked from it.

use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A process. Its number alone does not tell it: a child in a namespace of its own can have its
/// parent's (pid_namespaces(7)), and a later one that of an ancestor which has ended. The count of forks
/// alone does not either, since a child that is made by the bare system call is not counted.
///
/// `capi/src/sys.rs` repeats this, because it is not public. Change both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    id: u32,
    /// How many forks have led here since the first of these was made.
    forks: u64,
}

impl Process {
    pub(super) fn this() -> Self {
        Process {
            id: process::id(),
            forks: forks(),
        }
    }
}

fn forks() -> u64 {
    type Handler = Option<extern "C" fn()>;
    unsafe extern "C" {
        // POSIX; the crate libc has it for some systems only.
        fn pthread_atfork(prepare: Handler, parent: Handler, child: Handler) -> libc::c_int;
    }
    static FORKS: AtomicU64 = AtomicU64::new(0);
    static COUNTING: Once = Once::new();

    extern "C" fn forked() {
        FORKS.fetch_add(1, Relaxed);
    }

    COUNTING.call_once(|| {
        // SAFETY: the handler does what a signal handler may do. It is not called without its code:
        // systems forget it with the library that it is in, or do not unload one that has thread-local
        // values. When there is no memory for it, the process has only its number.
        unsafe { pthread_atfork(None, None, Some(forked)) };
    });
    FORKS.load(Relaxed)
}
