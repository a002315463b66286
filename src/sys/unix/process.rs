//! Which process this is, as distinct from those that are forked from it.

use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A process. Its number alone does not identify it: a child in its own namespace can have its parent's
/// number (pid_namespaces(7)), and a later process that of an ancestor which has ended. Nor does the
/// count of forks alone: a child made by the bare system call is not counted.
///
/// `capi/src/sys.rs` repeats this, because it is not public. Change both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    id: u32,
    /// How many forks have led here since the first `Process` was made.
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
        // SAFETY: the handler does only what a signal handler may do. It is never called after its code
        // is gone: systems remove it along with its library, or do not unload a library that has
        // thread-local values. If there is no memory for it, the process has only its number.
        unsafe { pthread_atfork(None, None, Some(forked)) };
    });
    FORKS.load(Relaxed)
}
