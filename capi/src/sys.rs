//! What differs between platforms.

use std::io;

use asyncipc::{ClientBuilder, ServerBuilder};

/// How messages move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Default,
    Overlapped,
    Messages,
}

/// Tells a process from those that were forked from it. The process id alone is not enough: a child in a
/// namespace of its own can have the id of its parent, and a later process that of an ancestor that has
/// ended.
///
/// This repeats `src/sys/unix/process.rs` of the crate, which is not public, because no program in Rust asks
/// in which process a pipe was made. Change both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) id: u32,
    /// How many forks since the first pipe have led here.
    forks: u64,
}

impl Process {
    pub(crate) fn this() -> Self {
        Process {
            id: std::process::id(),
            forks: forks(),
        }
    }
}

#[cfg(windows)]
mod platform {
    use std::ptr;

    use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
    use windows_sys::Win32::System::LibraryLoader::{
        GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_PIN, GetModuleHandleExW,
    };

    use super::*;

    pub(crate) const HAS_MESSAGE_MODE: bool = true;

    pub(crate) fn server(builder: ServerBuilder, transport: Transport) -> ServerBuilder {
        match transport {
            Transport::Default => builder,
            Transport::Overlapped => builder.overlapped_io(),
            Transport::Messages => builder.message_mode(),
        }
    }

    pub(crate) fn client(builder: ClientBuilder, transport: Transport) -> ClientBuilder {
        match transport {
            Transport::Default => builder,
            Transport::Overlapped => builder.overlapped_io(),
            Transport::Messages => builder.message_mode(),
        }
    }

    /// Keeps the module with this code, a library or the program, loaded until the process ends. Otherwise
    /// FreeLibrary could unload the code while threads run in it.
    pub(crate) fn stay_loaded() -> io::Result<()> {
        let flags = GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS;
        let here: fn() -> io::Result<()> = stay_loaded;
        let mut module = ptr::null_mut();
        // SAFETY: with this flag, the name is an address in the module; `module` is there to be
        // written to.
        match unsafe { GetModuleHandleExW(flags, here as *const u16, &mut module) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// There is no fork.
    pub(super) fn forks() -> u64 {
        0
    }

    /// There are no signals that choose a thread.
    pub(crate) fn without_signals<T>(start: impl FnOnce() -> T) -> T {
        start()
    }
}

#[cfg(unix)]
mod platform {
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::Once;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    pub(crate) const HAS_MESSAGE_MODE: bool = false;

    /// Sockets are all the same.
    pub(crate) fn server(builder: ServerBuilder, _: Transport) -> ServerBuilder {
        builder
    }

    pub(crate) fn client(builder: ClientBuilder, _: Transport) -> ClientBuilder {
        builder
    }

    /// Systems keep a library loaded while a thread has thread-local values of it.
    pub(crate) fn stay_loaded() -> io::Result<()> {
        Ok(())
    }

    /// Counts from the first call on. The first pipe makes that call before it has a thread.
    pub(super) fn forks() -> u64 {
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
            // SAFETY: the handler does what a signal handler may do. It is not called without its
            // code: systems forget it with the library, or do not unload one that has thread-local
            // values. When there is no memory for it, the process has only its number.
            unsafe { pthread_atfork(None, None, Some(forked)) };
        });
        FORKS.load(Relaxed)
    }

    /// Signals that a thread causes itself. Handlers of the program, of a sanitizer or of another runtime
    /// handle them, and the system ends a program that blocks them.
    const FAULTS: [libc::c_int; 7] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGABRT,
        libc::SIGTRAP,
        libc::SIGSYS,
    ];

    /// Calls `start`, which starts a thread. That thread, and all that it starts, has every signal blocked
    /// but those of faults.
    ///
    /// Signals are for the program's own threads. If the program waits for one in sigwait(), this thread must
    /// not receive it instead, because that would end the program. And SIGPIPE must not end the program: a
    /// peer that has left is an error.
    pub(crate) fn without_signals<T>(start: impl FnOnce() -> T) -> T {
        let mut blocked = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: both sets are there for all calls, and the first one makes `blocked` a set. With
        // valid sets and signals nothing fails, and then `before` is a set as well.
        unsafe {
            libc::sigfillset(blocked.as_mut_ptr());
            for fault in FAULTS {
                libc::sigdelset(blocked.as_mut_ptr(), fault);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, blocked.as_ptr(), before.as_mut_ptr());
        }
        let started = start();
        // SAFETY: `before` is what this thread had. The new one's is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
        started
    }
}

pub(crate) use platform::*;
