//! The pipe of a handle, from asyncipc_create_instance() to asyncipc_destroy().

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use asyncipc::{ConnectionId, PipeName};

use crate::callbacks::Caller;
use crate::failure::{Code, Failure};
use crate::kind::{Kind, Role};
use crate::options::{Key, PipeOptions};
use crate::run::{self, Run};
use crate::sync::lock;
use crate::thread::Start;

fn not_yet() -> Failure {
    Failure::new(Code::WrongState, "asyncipc_create was not called yet")
}

#[derive(Debug)]
pub(crate) struct Pipe {
    kind: Kind,
    state: Mutex<PipeState>,
    /// Whether no further callback may begin.
    silenced: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct PipeState {
    options: PipeOptions,
    /// The last run, which may have ended.
    run: Option<Arc<Run>>,
    destroyed: bool,
}

impl PipeState {
    /// The last run, if this process has created one.
    fn run(&self) -> Result<Arc<Run>, Failure> {
        let run = self.run.clone().ok_or_else(not_yet)?;
        run.is_of_this_process()?;
        Ok(run)
    }

    /// The last run, unless another one may begin.
    fn running(&self) -> Option<&Run> {
        self.run.as_deref().filter(|run| !run.allows_another())
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
            return Err(run.in_use());
        }
        let start = Start {
            name,
            role,
            kind: self.kind,
            options: state.options.clone(),
            caller,
            silenced: self.silenced.clone(),
            previous: state.run.clone(),
        };
        let run = start.run()?;
        let outcome = run.outcome();
        state.run = Some(run);
        outcome
    }

    pub(crate) fn send(&self, message: &[u8]) -> Result<(), Failure> {
        self.run()?.send(message)
    }

    pub(crate) fn send_to(&self, client: ConnectionId, message: &[u8]) -> Result<(), Failure> {
        self.run()?.send_to(client, message)
    }

    pub(crate) fn disconnect(&self, client: ConnectionId) -> Result<(), Failure> {
        self.run()?.disconnect(client)
    }

    pub(crate) fn exit(&self) -> Result<(), Failure> {
        let run = {
            // Under this lock, because otherwise another run could begin in between.
            let state = self.state();
            let run = state.run()?;
            if run.is_called_from_last_callback() {
                // The run has ended already, and its last callback may begin another one.
                return Ok(());
            }
            run.shut_down();
            run
        };
        if !run::is_in_callback() {
            run.wait_for_end();
        }
        Ok(())
    }

    /// Call this once, after the handle was removed from the table.
    pub(crate) fn destroy(&self) {
        self.state().destroyed = true;
        if run::is_in_callback() {
            self.silenced.store(true, Ordering::Release);
        }
        // Fails if there is no run to end.
        let _ = self.exit();
    }

    fn run(&self) -> Result<Arc<Run>, Failure> {
        self.state().run()
    }

    fn state(&self) -> MutexGuard<'_, PipeState> {
        lock(&self.state)
    }
}
