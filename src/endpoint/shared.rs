use std::collections::HashMap;
use std::future::{Future, pending};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::event::{Event, EventSender};
use super::handlers::Handlers;
use super::life::{Life, Lifecycle, reached};
use super::options::Options;
use super::queue::Queue;
use crate::sync::{lock, until};
use crate::{Error, PipeName, ShutdownHandle};

/// What an endpoint, its handles and its tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) pipe: PipeName,
    pub(super) options: Options,
    pub(super) handlers: Mutex<Handlers>,
    /// The queues of all programs that messages wait for, or that this endpoint has a connection to.
    pub(super) queues: Mutex<HashMap<PipeName, Queue>>,
    pub(super) events: EventSender,
    /// Any handle may ask for the shutdown. The accept loop then advances `life`.
    pub(super) shutdown: ShutdownHandle,
    pub(super) life: Lifecycle,
    pub(super) tasks: TaskTracker,
    pub(super) runtime: Handle,
    pub(super) next_id: AtomicU64,
}

impl Shared {
    /// Runs the task until it ends, or until the endpoint is dropped.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut life = self.life.subscribe();
        let task = async move {
            tokio::select! {
                biased;
                // Also when the wait fails: then nothing is left of the endpoint.
                () = reached(&mut life, |it| *it == Life::Dropped) => {}
                () = task => {}
            }
        };
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Gives an event to the application. Waits until there is room for it.
    pub(super) async fn emit(&self, event: Event) {
        self.events.send(event).await;
    }

    /// Waits until the endpoint is draining and the drain timeout has passed.
    pub(super) async fn drained(&self) {
        let mut life = self.life.subscribe();
        reached(&mut life, |it| it.draining_since().is_some()).await;
        let since = life.borrow().draining_since();
        let deadline = since.and_then(|it| it.checked_add(self.options.drain_timeout));
        until(deadline, pending::<()>()).await;
    }

    pub(super) fn shut_down_error(&self) -> Error {
        Error::ShutDown {
            pipe: self.pipe.clone(),
        }
    }

    pub(super) fn handlers(&self) -> MutexGuard<'_, Handlers> {
        lock(&self.handlers)
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }
}
