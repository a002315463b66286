//! What a pipe's thread and the program's threads share, from asyncipc_create() to the last callback.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use asyncipc::PipeName;
use asyncipc::hub::HubHandle;
use tokio_util::sync::CancellationToken;

use crate::failure::{Code, Failure};
use crate::sync::lock;
use crate::sys::Process;

thread_local! {
    /// The address of the run that this thread belongs to; 0 in the program's own threads.
    #[allow(clippy::missing_const_for_thread_local, reason = "it is const")]
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Whether this is called from a callback: there, nothing may wait.
pub(crate) fn is_in_callback() -> bool {
    // A pipe's thread comes here only through the program's callbacks.
    CURRENT.get() != 0
}

#[derive(Debug)]
pub(crate) struct Run {
    name: PipeName,
    /// The process that has its thread: a forked child does not have it.
    process: Process,
    send_timeout: Duration,
    /// What asyncipc_create() returns: the failure of a server that cannot listen.
    outcome: Result<(), Failure>,
    /// In a client, set once it is connected.
    hub: OnceLock<HubHandle>,
    exit: CancellationToken,
    /// Whether only the last callback is left.
    finished: AtomicBool,
    /// Whether the last callback has returned too.
    ended: AtomicBool,
    /// Whether no further callback may begin.
    silenced: Arc<AtomicBool>,
    /// The caller that takes it waits for its end. All others wait for the lock.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Run {
    pub(crate) fn new(
        name: PipeName,
        send_timeout: Duration,
        outcome: Result<(), Failure>,
        silenced: Arc<AtomicBool>,
    ) -> Self {
        Run {
            name,
            process: Process::this(),
            send_timeout,
            hub: OnceLock::new(),
            exit: CancellationToken::new(),
            finished: AtomicBool::new(outcome.is_err()),
            outcome,
            ended: AtomicBool::new(false),
            silenced,
            thread: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &PipeName {
        &self.name
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.send_timeout
    }

    /// What asyncipc_create() returns.
    pub(crate) fn outcome(&self) -> Result<(), Failure> {
        self.outcome.clone()
    }

    /// Whether another run may begin. It may do so in the last callback of this one, unless asyncipc_exit()
    /// was called.
    pub(crate) fn allows_another(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.is_finished() && !self.exit.is_cancelled()
    }

    /// Why no other run may begin.
    pub(crate) fn in_use(&self) -> Failure {
        let text = match self.exit.is_cancelled() {
            true => "asyncipc_exit was called, and the last callback has not returned yet",
            false => "the pipe was created already",
        };
        Failure::new(Code::WrongState, format!("{}: {text}", self.name))
    }

    /// Whether this is called from its own last callback.
    pub(crate) fn is_called_from_last_callback(&self) -> bool {
        CURRENT.get() == ptr::from_ref(self).addr() && self.is_finished()
    }

    pub(crate) fn is_of_this_process(&self) -> Result<(), Failure> {
        if self.process == Process::this() {
            return Ok(());
        }
        let (name, process) = (&self.name, self.process.id);
        let text = format!("{name} was created in process {process}, of which this is a fork");
        Err(Failure::new(Code::WrongState, text))
    }

    /// The hub, if messages can be sent.
    pub(crate) fn hub(&self) -> Result<&HubHandle, Failure> {
        if self.exit.is_cancelled() {
            return Err(self.was_shut_down());
        }
        match self.hub.get() {
            Some(_) if self.is_finished() => Err(self.not_connected("no longer connected to")),
            Some(hub) => Ok(hub),
            None => Err(self.not_connected("not connected to")),
        }
    }

    pub(crate) fn not_connected(&self, what: &str) -> Failure {
        Failure::new(Code::NotConnected, format!("{what} {}", self.name))
    }

    pub(crate) fn was_shut_down(&self) -> Failure {
        let text = format!("asyncipc_exit was called for {}", self.name);
        Failure::new(Code::ShutDown, text)
    }

    /// Ends the run in order. Does not wait.
    pub(crate) fn shut_down(&self) {
        self.exit.cancel();
    }

    /// Waits until [`shut_down`](Self::shut_down) is called.
    pub(crate) async fn shutdown_requested(&self) {
        self.exit.cancelled().await;
    }

    /// Waits until the thread has ended. Do not call it in the run's own callbacks.
    pub(crate) fn wait_for_end(&self) {
        let mut thread = lock(&self.thread);
        if let Some(thread) = thread.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }

    /// From now on messages can be sent.
    pub(crate) fn set_hub(&self, hub: HubHandle) {
        let _ = self.hub.set(hub);
    }

    pub(crate) fn set_thread(&self, thread: JoinHandle<()>) {
        *lock(&self.thread) = Some(thread);
    }

    /// Makes the calling thread the thread of this run. The run ends when the guard is dropped.
    pub(crate) fn enter_thread(&self) -> ThreadGuard<'_> {
        CURRENT.set(ptr::from_ref(self).addr());
        ThreadGuard(self)
    }

    /// Calls the program, unless it has destroyed the pipe in a callback.
    pub(crate) fn call(&self, callback: impl FnOnce()) {
        if !self.silenced.load(Ordering::Acquire) {
            callback();
        }
    }

    /// From now on, only the last callback is left.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }
}

/// Marks the run as ended when its thread ends, also by a panic.
pub(crate) struct ThreadGuard<'a>(&'a Run);

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        self.0.finish();
        self.0.ended.store(true, Ordering::Release);
    }
}
