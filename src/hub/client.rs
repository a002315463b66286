use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::PollSender;

use super::event::{DisconnectReason, Event};
use super::registry::{Registered, Registration, Registry};
use crate::stats::Place;
use crate::sync::until;
use crate::tally::Tally;
use crate::{ConnectionId, Error, Peer, PipeReceiver, PipeSender};

/// What the task of one client owns: the hub's end of the connection, the queue of messages to the client,
/// and the events that are on their way to the application.
pub(super) struct HubClient {
    id: ConnectionId,
    /// The first field, so that it is dropped first: nothing more comes into the queue then.
    registration: Registration,
    receiver: PipeReceiver,
    outgoing: QueuedSender,
    outbox: Outbox,
    end: oneshot::Receiver<DisconnectReason>,
    /// Counts the client as connected. `None` if the server that accepted it counts it.
    place: Option<Place>,
}

impl HubClient {
    /// Registers a client, so that the handles can send to it, and returns its first event.
    pub(super) fn enter(
        registry: &Arc<Registry>,
        sender: PipeSender,
        receiver: PipeReceiver,
        place: Option<Place>,
        events: &mpsc::Sender<Event>,
    ) -> (Event, Self) {
        let id = sender.id();
        let peer = sender.peer().unwrap_or(Peer {
            process_id: None,
            session_id: None,
            user: None,
        });
        tracing::debug!(pipe = %registry.name, id = id.get(), peer = peer.process_id, "connected");
        let Registered {
            registration,
            tally,
            queue,
            end,
        } = registry.register(id);
        let client = HubClient {
            id,
            registration,
            receiver,
            outbox: Outbox {
                waiting: VecDeque::new(),
                holds_message: false,
                bound: queue.max_capacity(),
                events: PollSender::new(events.clone()),
            },
            outgoing: QueuedSender {
                tally,
                queue,
                sender,
                in_flight: None,
                open: true,
            },
            end,
            place,
        };
        (Event::Connected { id, peer }, client)
    }

    /// Runs until the client has gone and its last event is delivered. The caller delivers the first event.
    pub(super) async fn run(mut self) {
        let reason = self.converse().await;
        let registry = self.registration.registry().clone();
        if !matches!(
            reason,
            DisconnectReason::Failed(_) | DisconnectReason::Overflow
        ) {
            let deadline = Instant::now().checked_add(registry.drain_timeout);
            // Nothing is received any more: what still arrives is thrown away.
            let conn = self.receiver.core.clone();
            conn.closing.nobody_reads();
            let drained = conn.discarding(self.drain());
            if until(deadline, drained).await.is_none() {
                let id = self.id;
                tracing::warn!(pipe = %registry.name, id = id.get(), "does not read what it was sent");
            }
        }

        // The handles and the client see the end before the application does.
        let HubClient {
            id,
            registration,
            receiver,
            outgoing,
            mut outbox,
            place,
            ..
        } = self;
        drop((registration, receiver, outgoing, place));
        tracing::debug!(pipe = %registry.name, id = id.get(), %reason, "disconnected");
        outbox.waiting.push_back(Event::Disconnected { id, reason });
        while !outbox.waiting.is_empty() {
            outbox.deliver().await;
        }
    }

    /// Sends and receives until there is a reason to end.
    async fn converse(&mut self) -> DisconnectReason {
        let id = self.id;
        loop {
            tokio::select! {
                Ok(reason) = &mut self.end => return reason,
                _ = self.registration.registry().shutdown.requested() => return DisconnectReason::ShutDown,
                () = self.outbox.deliver() => {}
                sent = self.outgoing.send_next(), if self.outgoing.open => match sent {
                    Ok(len) => self.outbox.sent(id, len),
                    // The client has left. What it sent before is still to be read.
                    Err(Error::Closed { .. }) => self.outgoing.close(),
                    Err(error) => return DisconnectReason::Failed(error),
                },
                message = self.receiver.next(), if !self.outbox.holds_message => match message {
                    Some(Ok(message)) => self.outbox.received(id, message.freeze()),
                    // On some systems, `Closed` says that a client left before it had read everything.
                    None | Some(Err(Error::Closed { .. })) => return DisconnectReason::Left,
                    Some(Err(error)) => return DisconnectReason::Failed(error),
                },
            }
        }
    }

    /// Sends the queue, and closes when the client has read it.
    async fn drain(&mut self) {
        let id = self.id;
        let mut sending = self.outgoing.open;
        self.outgoing.close();
        while sending {
            tokio::select! {
                () = self.outbox.deliver() => {}
                sent = self.outgoing.send_next() => match sent {
                    Ok(len) => self.outbox.sent(id, len),
                    Err(_) => sending = false,
                },
            }
        }
        let closing = SinkExt::close(&mut self.outgoing.sender);
        tokio::pin!(closing);
        loop {
            tokio::select! {
                () = self.outbox.deliver() => {}
                _ = &mut closing => return,
            }
        }
    }
}

/// Sends the messages of the client's queue.
struct QueuedSender {
    tally: Arc<Tally>,
    queue: mpsc::Receiver<Bytes>,
    sender: PipeSender,
    /// The length of the message that was taken out of the queue, if the system has not taken it yet.
    in_flight: Option<usize>,
    /// Whether the queue takes more.
    open: bool,
}

impl QueuedSender {
    /// Hands the next message to the system, and returns its length. Waits for a message while the queue is
    /// open. [`Error::Closed`] when the queue is closed and empty.
    ///
    /// Can be cancelled and called again.
    async fn send_next(&mut self) -> Result<usize, Error> {
        let len = match self.in_flight {
            Some(len) => len,
            None => {
                // Waits for room before it takes a message: if it were cancelled while it had a message and
                // no room for it, the message would be lost.
                poll_fn(|cx| self.sender.poll_ready_unpin(cx)).await?;
                let next = self.queue.recv().await;
                let message = next.ok_or_else(|| self.sender.core.closed(true))?;
                let len = message.len();
                self.sender.start_send_unpin(message)?;
                *self.in_flight.insert(len)
            }
        };
        self.sender.flush().await?;
        self.in_flight = None;
        self.tally.finish(true);
        Ok(len)
    }

    /// Takes nothing more into the queue.
    fn close(&mut self) {
        self.queue.close();
        self.open = false;
    }
}

impl Drop for QueuedSender {
    fn drop(&mut self) {
        // The warning below counts the messages that are lost, so the sender logs none.
        self.sender.discard();
        let messages = self.tally.end();
        if messages > 0 {
            let (pipe, id) = (self.sender.name(), self.sender.id());
            tracing::warn!(%pipe, id = id.get(), messages, "a connection has ended, and messages that waited for the client were not sent");
        }
    }
}

/// Events of this client that the application has no room for yet.
struct Outbox {
    waiting: VecDeque<Event>,
    /// Whether one of the events is a message. Then nothing more is read from the client.
    holds_message: bool,
    /// How many may wait before one `Sent` stands for several messages.
    bound: usize,
    /// Keeps its place in the line when a wait for room is interrupted.
    events: PollSender<Event>,
}

impl Outbox {
    fn received(&mut self, id: ConnectionId, message: Bytes) {
        self.waiting.push_back(Event::Received { id, message });
        self.holds_message = true;
    }

    fn sent(&mut self, id: ConnectionId, bytes: usize) {
        if self.waiting.len() >= self.bound
            && let Some(Event::Sent { messages, len, .. }) = self.waiting.back_mut()
        {
            *messages += 1;
            *len += bytes;
            return;
        }
        self.waiting.push_back(Event::Sent {
            id,
            messages: 1,
            len: bytes,
        });
    }

    /// Delivers the next event to the application; waits forever if there is none.
    ///
    /// Can be cancelled and called again.
    async fn deliver(&mut self) {
        if self.waiting.is_empty() {
            return pending().await;
        }
        let room = poll_fn(|cx| self.events.poll_reserve(cx)).await;
        if let Some(event) = self.waiting.pop_front() {
            self.holds_message &= !matches!(event, Event::Received { .. });
            // Without room the hub has gone, and this task is about to end.
            let _ = room.and_then(|()| self.events.send_item(event));
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let is_message = |it: &&Event| matches!(it, Event::Received { .. });
        let messages = self.waiting.iter().filter(is_message).count();
        if messages > 0 {
            tracing::warn!(
                messages,
                "a hub was dropped, and messages that it had received were not read"
            );
        }
    }
}
