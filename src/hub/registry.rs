use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::event::DisconnectReason;
use super::options::{HubOptions, Overflow};
use crate::sync::lock;
use crate::tally::Tally;
use crate::{ConnectionId, Error, MessageCodec, PipeName, ShutdownHandle, StatsHandle};

/// The clients of a hub. Its handles and the clients' tasks share it.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) name: PipeName,
    pub(super) codec: MessageCodec,
    pub(super) options: HubOptions,
    pub(super) drain_timeout: Duration,
    pub(super) shutdown: ShutdownHandle,
    pub(super) stats: StatsHandle,
    /// The clients that can be sent to.
    clients: Mutex<Clients>,
    /// The tallies of these clients, and of those that are ending.
    tallies: Mutex<BTreeMap<ConnectionId, Arc<Tally>>>,
}

/// The clients that can be sent to, by their numbers.
pub(super) type Clients = BTreeMap<ConnectionId, Client>;

/// What the handles need of a client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) queue: mpsc::Sender<Bytes>,
    pub(super) tally: Arc<Tally>,
    /// Ends the client's task, for this reason.
    pub(super) end: oneshot::Sender<DisconnectReason>,
}

/// What a client's task gets from the registry.
pub(super) struct Registered {
    pub(super) registration: Registration,
    pub(super) tally: Arc<Tally>,
    /// The messages that the handles send.
    pub(super) queue: mpsc::Receiver<Bytes>,
    /// Receives the reason when the hub ends the client.
    pub(super) end: oneshot::Receiver<DisconnectReason>,
}

/// Keeps a client in the registry until it is dropped.
pub(super) struct Registration {
    registry: Arc<Registry>,
    id: ConnectionId,
}

impl Registration {
    pub(super) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let client = self.registry.lock().remove(&self.id);
        let tally = lock(&self.registry.tallies).remove(&self.id);
        drop((client, tally));
    }
}

impl Registry {
    pub(super) fn new(
        name: &PipeName,
        codec: MessageCodec,
        options: HubOptions,
        drain_timeout: Duration,
        shutdown: ShutdownHandle,
        stats: StatsHandle,
    ) -> Arc<Self> {
        Arc::new(Registry {
            name: name.clone(),
            codec,
            options,
            drain_timeout,
            shutdown,
            stats,
            clients: Mutex::default(),
            tallies: Mutex::default(),
        })
    }

    /// From now on messages can be sent to this client.
    pub(super) fn register(self: &Arc<Self>, id: ConnectionId) -> Registered {
        let (messages, queue) = mpsc::channel(self.options.queue);
        let (end, ended) = oneshot::channel();
        let tally = Arc::<Tally>::default();
        lock(&self.tallies).insert(id, tally.clone());
        let client = Client {
            queue: messages,
            tally: tally.clone(),
            end,
        };
        self.lock().insert(id, client);
        Registered {
            registration: Registration {
                registry: self.clone(),
                id,
            },
            tally,
            queue,
            end: ended,
        }
    }

    /// The clients, unless the hub is shut down.
    pub(super) fn open(&self) -> Result<MutexGuard<'_, Clients>, Error> {
        match self.shutdown.is_shut_down() {
            false => Ok(self.lock()),
            true => Err(self.shut_down()),
        }
    }

    /// The tally of a client, also of one that is ending.
    pub(super) fn tally(&self, id: ConnectionId) -> Option<Arc<Tally>> {
        lock(&self.tallies).get(&id).cloned()
    }

    pub(super) fn tallies(&self) -> BTreeMap<ConnectionId, Arc<Tally>> {
        lock(&self.tallies).clone()
    }

    /// Applies the policy to a client whose queue is full.
    pub(super) fn overflowed(&self, clients: &mut Clients, id: ConnectionId) {
        if self.options.overflow == Overflow::Disconnect
            && let Some(client) = clients.remove(&id)
        {
            let _ = client.end.send(DisconnectReason::Overflow);
        }
    }

    pub(super) fn unknown(&self, id: ConnectionId) -> Error {
        Error::UnknownClient {
            pipe: self.name.clone(),
            id,
        }
    }

    /// The error for a client that was there, and whose queue is closed.
    pub(super) fn gone(&self, id: ConnectionId) -> Error {
        match self.shutdown.is_shut_down() {
            true => self.shut_down(),
            false => self.unknown(id),
        }
    }

    fn shut_down(&self) -> Error {
        Error::ShutDown {
            pipe: self.name.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Clients> {
        lock(&self.clients)
    }
}
