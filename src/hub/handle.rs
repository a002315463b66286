use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc::error::TrySendError;

use super::event::DisconnectReason;
use super::options::Overflow;
use super::registry::Registry;
use crate::{ConnectionId, Error, PipeName, ServerStats, ShutdownHandle};

/// Sends to the clients of a [`PipeHub`](crate::PipeHub). Any number of tasks can have one.
///
/// It does not keep the hub alive.
#[derive(Clone, Debug)]
pub struct HubHandle(Arc<Registry>);

impl HubHandle {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        HubHandle(registry)
    }

    /// The pipe's name.
    pub fn name(&self) -> &PipeName {
        &self.0.name
    }

    /// The longest message that can be sent, in bytes. A longer one is [`Error::MessageTooLarge`].
    pub fn max_message_size(&self) -> usize {
        self.0.codec.max_message_size()
    }

    /// What the server has done so far, as [`PipeServer::stats`](crate::PipeServer::stats); also after
    /// the hub has ended. In the hub of a client, the server at the other end counts as the only
    /// client.
    pub fn stats(&self) -> ServerStats {
        self.0.stats.stats()
    }

    /// Puts a message into a client's queue, from which it goes out by itself. With
    /// [`Overflow::Wait`] this waits for room.
    ///
    /// While the task that reads the events waits here, it reads no events. A client that never reads can
    /// stop it, and so can a client that itself waits for this hub to read. If you do not trust
    /// the clients, or they send long answers, use [`try_send`](Self::try_send),
    /// [`Overflow::Disconnect`], or another task.
    ///
    /// # Errors
    ///
    /// - [`Error::UnknownClient`]: there is no such client, or it has left, also while this waits
    /// - [`Error::QueueFull`]: with [`Overflow::Disconnect`]; the client is being disconnected
    /// - [`Error::MessageTooLarge`]
    /// - [`Error::ShutDown`]: also when the hub was dropped or has ended
    ///
    /// # Cancel safety
    ///
    /// If it is cancelled, nothing was sent.
    ///
    /// # What `Ok` means
    ///
    /// The hub has the message. [`flush`](Self::flush) waits until the system has it, and
    /// [`Event::Sent`](super::Event::Sent) says so. What is still in the queue when the hub is dropped
    /// or the process ends is lost.
    pub async fn send(&self, id: ConnectionId, message: Bytes) -> Result<(), Error> {
        if self.0.options.overflow == Overflow::Disconnect {
            return self.try_send(id, message);
        }
        let queue = {
            let clients = self.0.open()?;
            let client = clients.get(&id).ok_or_else(|| self.0.unknown(id))?;
            self.0.codec.header(message.len())?;
            client.queue.clone()
        };
        let place = queue.reserve_owned().await;
        let place = place.map_err(|_| self.0.gone(id))?;
        // Under the lock, so that messages are counted in the order in which they are queued.
        let clients = self.0.open()?;
        let client = clients.get(&id).ok_or_else(|| self.0.unknown(id))?;
        place.send(message);
        client.tally.accept();
        Ok(())
    }

    /// Waits until the system has all messages that were accepted for this client before this call.
    /// The client need not have read them, but while it does not read, this can wait for ever.
    ///
    /// After that, the process can end without losing them, except on Windows with a pipe that is not
    /// in message mode: there the last write goes on in the background, and ends with the process. Call
    /// [`shutdown`](Self::shutdown) and read the events to their end instead.
    ///
    /// Also works after [`disconnect`](Self::disconnect) and [`shutdown`](Self::shutdown), while the
    /// queue is being sent. While the task that reads the events waits here, it reads none.
    ///
    /// # Errors
    ///
    /// - [`Error::UnknownClient`]: there is no such client, or it has gone already
    /// - [`Error::Unsent`]: the client left or the hub ended meanwhile, and some messages were not sent
    ///
    /// # Cancel safety
    ///
    /// Cancelling changes nothing.
    pub async fn flush(&self, id: ConnectionId) -> Result<(), Error> {
        let tally = self.0.tally(id);
        let tally = tally.ok_or_else(|| self.0.unknown(id))?;
        self.all_sent(id, tally.flushed().await)
    }

    /// As [`flush`](Self::flush), for all clients. It waits for all of them, and returns the error of
    /// the oldest client that has one.
    ///
    /// # Errors
    ///
    /// [`Error::Unsent`]
    ///
    /// # Cancel safety
    ///
    /// The same.
    pub async fn flush_all(&self) -> Result<(), Error> {
        let tallies = self.0.tallies();
        // Each flush begins now, and not when the one before it is done.
        let flushing = tallies.iter().map(|(id, tally)| (*id, tally.flushed()));
        let flushing: Vec<_> = flushing.collect();
        let flushed = flushing.into_iter().map(async |(id, it)| (id, it.await));
        let flushed = join_all(flushed).await;
        let mut flushed = flushed.into_iter();
        flushed.try_for_each(|(id, lost)| self.all_sent(id, lost))
    }

    /// As [`send`](Self::send), without ever waiting.
    ///
    /// # Errors
    ///
    /// The same, and [`Error::QueueFull`] with either policy.
    pub fn try_send(&self, id: ConnectionId, message: Bytes) -> Result<(), Error> {
        let mut clients = self.0.open()?;
        let client = clients.get(&id).ok_or_else(|| self.0.unknown(id))?;
        self.0.codec.header(message.len())?;
        let sent = client.queue.try_send(message);
        let result = match &sent {
            Ok(()) => {
                client.tally.accept();
                Ok(())
            }
            Err(TrySendError::Closed(_)) => Err(self.0.gone(id)),
            Err(TrySendError::Full(_)) => {
                self.0.overflowed(&mut clients, id);
                Err(Error::QueueFull {
                    pipe: self.0.name.clone(),
                    id,
                })
            }
        };
        drop(clients);
        // Holds the message if it was not accepted. Dropping it may run the application's code, so it is
        // dropped after the lock.
        drop(sent);
        result
    }

    /// Puts a message into the queue of every client, and returns the clients that had no room for it.
    ///
    /// Never waits, not even with [`Overflow::Wait`]: otherwise one client that does not read would keep the
    /// next message from all others. The clients that had no room do not get this message: the caller can
    /// [`send`](Self::send) it to them in another task, or disconnect them. With
    /// [`Overflow::Disconnect`], they are being disconnected.
    ///
    /// Each client gets the messages of one task in the order of the calls.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`] and [`Error::ShutDown`]: then no client gets it.
    pub fn broadcast(&self, message: Bytes) -> Result<Vec<ConnectionId>, Error> {
        let mut clients = self.0.open()?;
        self.0.codec.header(message.len())?;
        let mut full = Vec::new();
        for (id, client) in clients.iter() {
            match client.queue.try_send(message.clone()) {
                Ok(()) => client.tally.accept(),
                Err(TrySendError::Full(_)) => full.push(*id),
                // It has gone.
                Err(TrySendError::Closed(_)) => {}
            }
        }
        for id in &full {
            self.0.overflowed(&mut clients, *id);
        }
        Ok(full)
    }

    /// Ends a client's connection. First its queue is sent, for up to the server's drain timeout;
    /// nothing is received from it any more. Does not wait:
    /// [`Event::Disconnected`](super::Event::Disconnected) says when it is done.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownClient`], also when this was called before; [`Error::ShutDown`].
    pub fn disconnect(&self, id: ConnectionId) -> Result<(), Error> {
        let mut clients = self.0.open()?;
        let client = clients.remove(&id).ok_or_else(|| self.0.unknown(id))?;
        // Fails if the client is ending already: then it has another reason.
        let _ = client.end.send(DisconnectReason::Disconnected);
        Ok(())
    }

    /// The clients that can be sent to, the oldest first. Empty once the hub is shut down.
    pub fn clients(&self) -> Vec<ConnectionId> {
        let clients = self.0.open();
        clients.map_or_else(|_| Vec::new(), |it| it.keys().copied().collect())
    }

    /// Shuts the hub down: nobody is accepted, nothing is received, and nothing new can be sent.
    /// The queues are sent for up to the server's drain timeout, then each client gets its
    /// [`Event::Disconnected`](super::Event::Disconnected), and the stream ends. Does not wait.
    pub fn shutdown(&self) {
        self.0.shutdown.shutdown();
    }

    /// A handle that can shut the hub down, and says whether it is shut down. That is also so when the hub
    /// has ended by itself or was dropped.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.0.shutdown.clone()
    }

    fn all_sent(&self, id: ConnectionId, lost: u64) -> Result<(), Error> {
        match lost {
            0 => Ok(()),
            messages => Err(Error::Unsent {
                pipe: self.0.name.clone(),
                id,
                messages,
            }),
        }
    }
}
