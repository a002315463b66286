//! Sends from any thread. Waits for room, except in callbacks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use asyncipc::hub::HubHandle;
use asyncipc::{ConnectionId, Error};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::failure::{Code, Failure};
use crate::run::{Run, is_in_callback};
use crate::sync::wait;

impl Run {
    /// Sends to all clients.
    pub(crate) fn send(&self, message: &[u8]) -> Result<(), Failure> {
        let hub = self.hub()?;
        match hub.clients()[..] {
            [] => return Err(self.not_connected("nobody is connected to")),
            // If the only client leaves meanwhile, nobody gets the message, and the caller gets an error.
            [only] => return self.send_to(only, message),
            _ => {}
        }
        let message = copy(hub, message)?;
        let full = hub.broadcast(message.clone())?;
        // If a client leaves meanwhile, that is no failure: its on_disconnected() reports it.
        self.send_when_there_is_room(hub, full, message, |_| Ok(()))
    }

    pub(crate) fn send_to(&self, client: ConnectionId, message: &[u8]) -> Result<(), Failure> {
        let hub = self.hub()?;
        let message = copy(hub, message)?;
        let full = match hub.try_send(client, message.clone()) {
            Err(Error::QueueFull { .. }) => vec![client],
            sent => return Ok(sent?),
        };
        self.send_when_there_is_room(hub, full, message, |gone| Err(gone.into()))
    }

    pub(crate) fn disconnect(&self, client: ConnectionId) -> Result<(), Failure> {
        Ok(self.hub()?.disconnect(client)?)
    }

    fn send_when_there_is_room(
        &self,
        hub: &HubHandle,
        full: Vec<ConnectionId>,
        message: Bytes,
        gone: impl Fn(Error) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut full: BTreeSet<ConnectionId> = full.into_iter().collect();
        let timeout = match is_in_callback() {
            true => Duration::ZERO,
            false => self.send_timeout(),
        };
        if !timeout.is_zero() {
            let send = async |client| (client, hub.send(client, message.clone()).await);
            let mut sends: FuturesUnordered<_> = full.iter().copied().map(send).collect();
            let all = async {
                while let Some((client, sent)) = sends.next().await {
                    full.remove(&client);
                    match sent {
                        Err(error @ Error::UnknownClient { .. }) => gone(error)?,
                        sent => sent?,
                    }
                }
                Ok(())
            };
            if let Some(sent) = wait(Instant::now().checked_add(timeout), all) {
                return sent;
            }
        }
        if full.is_empty() {
            return Ok(());
        }
        let clients: Vec<_> = full.iter().map(ConnectionId::to_string).collect();
        let (clients, name) = (clients.join(", "), self.name());
        let text = match timeout.is_zero() {
            true => format!("the queue of client {clients} of {name} is full"),
            false => format!("the queue of client {clients} of {name} was full for {timeout:.1?}"),
        };
        Err(Failure::new(Code::QueueFull, text))
    }
}

/// A copy of the message for the queues. A message above the limit is an error, and is not copied.
fn copy(hub: &HubHandle, message: &[u8]) -> Result<Bytes, Failure> {
    let (size, max) = (message.len(), hub.max_message_size());
    if size > max {
        let text = format!("a message of {size} bytes is above the limit of {max} bytes");
        return Err(Failure::new(Code::MessageTooLarge, text));
    }
    let mut copy = Vec::new();
    copy.try_reserve_exact(size).map_err(|_| {
        let text = format!("there is no memory for a message of {size} bytes");
        Failure::new(Code::NoMemory, text)
    })?;
    copy.extend_from_slice(message);
    Ok(copy.into())
}
