//! What is behind a handle, from asyncipc_create_instance() to asyncipc_destroy().

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use asyncipc::PipeName;

use crate::callbacks::Caller;
use crate::failure::{Code, Failure};
use crate::options::{Key, Options};
use crate::run::{self, Run, Start};
use crate::sync::lock;

/// How bytes are moved, as programs know it that were written for completion routines or for
/// overlapped I/O. What goes over the pipe is the same, and either end may have either.
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

fn not_yet() -> Failure {
    Failure::new(Code::WrongState, "asyncipc_create was not called yet")
}

#[derive(Debug)]
pub(crate) struct Pipe {
    kind: Kind,
    state: Mutex<State>,
    /// Whether no further callback may begin.
    silenced: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    options: Options,
    /// The last one, which may be over.
    run: Option<Arc<Run>>,
    destroyed: bool,
}

impl State {
    /// To be used, if it can be.
    fn run(&self) -> Result<Arc<Run>, Failure> {
        let run = self.run.clone().ok_or_else(not_yet)?;
        run.is_of_this_process()?;
        Ok(run)
    }

    fn running(&self) -> Option<&Run> {
        self.run.as_deref().filter(|run| !run.may_be_followed())
    }
}

impl Pipe {
    pub(crate) fn new(kind: Kind) -> Self {
        Pipe {
            kind,
            state: Mutex::default(),
            silenced: Arc::default(),
        }
    }

    pub(crate) fn set_option(&self, key: Key, value: u64) -> Result<(), Failure> {
        let mut state = self.state();
        if state.running().is_some() {
            let text = "options are for before asyncipc_create";
            return Err(Failure::new(Code::WrongState, text));
        }
        state.options.set(key, value)
    }

    pub(crate) fn create(&self, name: PipeName, role: Role, caller: Caller) -> Result<(), Failure> {
        let mut state = self.state();
        if state.destroyed {
            return Err(Failure::new(Code::InvalidHandle, "the pipe was destroyed"));
        }
        if let Some(run) = &state.run {
            run.is_of_this_process()?;
        }
        if let Some(run) = state.running() {
            return Err(run.is_in_the_way());
        }
        let (run, begun) = Run::start(Start {
            name,
            role,
            kind: self.kind,
            options: state.options.clone(),
            caller,
            silenced: self.silenced.clone(),
            previous: state.run.clone(),
        })?;
        state.run = Some(run);
        begun
    }

    pub(crate) fn send(&self, message: &[u8]) -> Result<(), Failure> {
        self.run()?.send(message)
    }

    pub(crate) fn send_to(&self, client: u64, message: &[u8]) -> Result<(), Failure> {
        self.run()?.send_to(client, message)
    }

    pub(crate) fn disconnect(&self, client: u64) -> Result<(), Failure> {
        self.run()?.disconnect(client)
    }

    pub(crate) fn exit(&self) -> Result<(), Failure> {
        let run = {
            // Under this lock, or another run could begin in between.
            let state = self.state();
            let run = state.run()?;
            if run.is_in_its_last_callback() {
                // Nothing is left to end, and another one may begin there.
                return Ok(());
            }
            run.shut_down();
            run
        };
        if !run::is_callback() {
            run.wait_for_end();
        }
        Ok(())
    }

    /// To be called once, when no handle leads here any more.
    pub(crate) fn destroy(&self) {
        self.state().destroyed = true;
        if run::is_callback() {
            self.silenced.store(true, Ordering::Release);
        }
        // Fails where there is nothing to end.
        let _ = self.exit();
    }

    fn run(&self) -> Result<Arc<Run>, Failure> {
        self.state().run()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
