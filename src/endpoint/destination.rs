use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::conversation::Conversation;
use super::error::EndpointError;
use super::event::Event;
use super::life::{Life, reached};
use super::link::{ENDPOINT_ENDED, Link, PEER_LEFT, end_reason};
use super::queue::{Accepted, Item, Obstacle, Queue, Room};
use super::shared::Shared;
use crate::client::random;
use crate::sync::{lock, until};
use crate::tally::Tally;
use crate::{Error, PipeClient, PipeName};

/// Why the messages that are left at the drain timeout were not delivered.
const SHUT_DOWN: &str = "this endpoint was shut down";

/// Sends to one program: takes messages from its queue, and keeps the connection.
pub(super) struct Destination {
    endpoint: Arc<Shared>,
    to: String,
    pipe: PipeName,
    life: watch::Receiver<Life>,
    queue: mpsc::Receiver<Accepted>,
    room: Arc<Room>,
    tally: Arc<Tally>,
    /// The message that was taken from the queue and that the system has not taken yet.
    current: Option<Accepted>,
    /// Whether the system may have a part of the current message.
    begun: AtomicBool,
    connection: Connection,
    obstacle: Obstacle,
}

/// The connection to the program.
enum Connection {
    None,
    Open(Arc<Link>),
    /// The other program has asked to end the connection, and first handles what came over it. The next
    /// message goes to the program that takes the name after it, but only when this connection has ended or
    /// the deadline has passed. `None`: there is no deadline.
    Ending(Arc<Link>, Option<Instant>),
}

/// What [`Destination::next_event`] has found.
#[allow(
    clippy::large_enum_variant,
    reason = "the caller takes it apart at once, and none is stored"
)]
enum Wake {
    Message(Accepted),
    /// There will be no more messages.
    NoMore,
    /// The state of the connection has changed.
    Connection,
}

impl Destination {
    /// Starts the task of a new destination.
    pub(super) fn start(endpoint: &Arc<Shared>, to: &str, pipe: &PipeName) -> Queue {
        let (items, queue) = mpsc::channel(endpoint.options.handler_queue());
        let (room, tally) = (Arc::<Room>::default(), Arc::<Tally>::default());
        let obstacle = Obstacle::default();
        let destination = Destination {
            endpoint: endpoint.clone(),
            to: to.into(),
            pipe: pipe.clone(),
            life: endpoint.life.subscribe(),
            queue,
            room: room.clone(),
            tally: tally.clone(),
            current: None,
            begun: AtomicBool::new(false),
            connection: Connection::None,
            obstacle: obstacle.clone(),
        };
        endpoint.spawn(destination.run());
        Queue {
            items,
            room,
            tally,
            to: to.into(),
            obstacle,
        }
    }

    /// Runs until no message waits and there is no connection, or until the endpoint was shut down and the
    /// drain timeout has passed.
    async fn run(mut self) {
        let endpoint = self.endpoint.clone();
        tokio::select! {
            () = self.deliver_all() => return,
            () = endpoint.drained() => {}
        }
        self.cut(ENDPOINT_ENDED);
        while let Some(accepted) = self.take_left() {
            let error = self.undelivered(&accepted, SHUT_DOWN.into());
            self.give_back(accepted, error).await;
        }
    }

    async fn deliver_all(&mut self) {
        while self.take_next().await {
            let deadline = self.deadline();
            // If a message has waited too long behind others, sending it does not begin.
            if deadline.is_some_and(|it| it <= Instant::now()) {
                self.give_up().await;
                continue;
            }
            if until(deadline, self.deliver()).await.is_some() {
                self.tally.finish(true);
                continue;
            }
            let begun = self.begun.load(Relaxed);
            if begun {
                // On this connection, the next message could only follow the rest of this one.
                let reason = self.obstacle.get();
                self.cut(reason.as_deref().unwrap_or(PEER_LEFT));
            } else if let Connection::Open(link) = &self.connection {
                let link = link.clone();
                self.take_back(&link);
            }
            self.give_up().await;
            if begun {
                let to = self.to.clone();
                let error = EndpointError::Unread { to };
                self.endpoint.emit(Event::Error(error)).await;
            }
        }
        self.finish();
    }

    /// Waits for the next message; `false` if there will be none.
    async fn take_next(&mut self) -> bool {
        loop {
            self.finish_if_over();
            if matches!(self.connection, Connection::None) && self.leaves() {
                return false;
            }
            let accepted = match self.next_event().await {
                Wake::Message(accepted) => accepted,
                Wake::NoMore => return false,
                Wake::Connection => {
                    if matches!(self.connection, Connection::Ending(..)) {
                        self.connection = Connection::None;
                    }
                    continue;
                }
            };
            if self.queue.len() < self.endpoint.options.queue {
                self.room.below_limit.notify_one();
            }
            self.room.taken.notify_one();
            let requester = accepted.item.requester.as_ref();
            // A request that nobody waits for any more is not sent.
            if requester.is_none_or(|it| !it.reply.is_closed()) {
                self.current = Some(accepted);
                return true;
            }
            self.tally.finish(true);
        }
    }

    async fn next_event(&mut self) -> Wake {
        tokio::select! {
            biased;
            Some(accepted) = self.queue.recv() => Wake::Message(accepted),
            // Nothing more is put into the queue then.
            () = reached(&mut self.life, |it| *it > Life::Open) => match self.queue.try_recv() {
                Ok(accepted) => Wake::Message(accepted),
                Err(_) => Wake::NoMore,
            },
            () = self.connection.changed() => Wake::Connection,
        }
    }

    /// Removes its queue from the map in which the handles find it, unless a message waits. Returns whether
    /// it has.
    fn leaves(&self) -> bool {
        let mut queues = lock(&self.endpoint.queues);
        let leaves = self.queue.is_empty();
        if leaves {
            queues.remove(&self.pipe);
        }
        leaves
    }

    /// The time at which the current message is given up.
    fn deadline(&self) -> Option<Instant> {
        let accepted = self.current.as_ref()?;
        let give_up_after = self.endpoint.options.give_up_after;
        accepted.since.checked_add(give_up_after)
    }

    /// Tries until the system has the current message.
    async fn deliver(&mut self) {
        self.begun.store(false, Relaxed);
        let (mut pause, longest) = self.endpoint.options.backoff;
        let mut was_missing = false;
        while let Err(error) = self.attempt().await {
            self.cut(&end_reason(Some(&error)));
            self.begun.store(false, Relaxed);
            if self.current.is_none() {
                break;
            }
            tracing::debug!(endpoint = %self.endpoint.name, to = %self.to, %error, "cannot send yet");
            let is_missing = matches!(error, Error::NotFound { .. });
            if !(is_missing && was_missing) {
                self.obstacle.set(error.to_string());
            }
            // Only the first attempt looks for the server in other folders, so its error says the most.
            was_missing = is_missing;
            // A random part of the pause: those who lost the same server connect again at different times.
            sleep(pause.mul_f64(random())).await;
            pause = pause.saturating_mul(2).min(longest);
        }
        self.obstacle.clear();
    }

    /// Sends the current message once, over the connection that there is or a new one.
    ///
    /// After an error, or when it is cancelled, the connection cannot be used any more.
    async fn attempt(&mut self) -> Result<(), Error> {
        self.finish_if_over();
        if matches!(self.connection, Connection::Ending(..)) {
            self.obstacle.set("it is shutting down");
            self.connection.changed().await;
            self.connection = Connection::None;
        }
        let link = match &self.connection {
            Connection::Open(link) => link.clone(),
            _ => self.connect().await?,
        };
        let Some(Accepted { item, .. }) = &mut self.current else {
            return Ok(());
        };
        let requester = item.requester.as_ref();
        if requester.is_some_and(|it| it.reply.is_closed()) {
            // Nobody waits for it any more.
            self.current = None;
            return Ok(());
        }
        self.obstacle.set("it does not read");
        let id = item.envelope.id;
        if let (Some(id), Some(requester)) = (id, item.requester.take()) {
            // Before the request is sent: its reply may arrive before the write completes.
            link.expect(id, item.frame.len(), requester);
        }
        link.write_noting(item.frame.clone(), &self.begun).await?;
        if let Some(id) = id {
            link.sent(id);
        }
        self.current = None;
        Ok(())
    }

    async fn connect(&mut self) -> Result<Arc<Link>, Error> {
        let options = &self.endpoint.options;
        let is_first = self.obstacle.get().is_none();
        // Waits for a busy server here. `deliver` tries again if the server is missing.
        let conn = PipeClient::builder(&self.pipe)
            .timeout(options.backoff.1)
            .max_message_size(options.codec.max_message_size())
            .linger(options.linger())
            .verify_server(options.verify_server)
            .look_elsewhere(is_first)
            .connect()
            .await?;
        let conversation = Conversation::connected(self.endpoint.clone(), conn, self.to.clone());
        let link = conversation.link().clone();
        self.endpoint.spawn(conversation.run());
        self.connection = Connection::Open(link.clone());
        Ok(link)
    }

    /// Finishes the connection if nothing more is to be sent over it.
    fn finish_if_over(&mut self) {
        if matches!(&self.connection, Connection::Open(link) if link.state().is_over()) {
            self.finish();
        }
    }

    /// Sends nothing more on the connection. It ends when every reply has arrived.
    fn finish(&mut self) {
        let Connection::Open(link) = &self.connection else {
            return;
        };
        self.connection = match link.finish() {
            true => {
                let drain_timeout = self.endpoint.options.drain_timeout;
                let deadline = Instant::now().checked_add(drain_timeout);
                Connection::Ending(link.clone(), deadline)
            }
            false => Connection::None,
        };
    }

    /// Ends the connection. It may have taken a part of the current message.
    fn cut(&mut self, reason: &str) {
        if let Connection::Open(link) = &self.connection {
            let link = link.clone();
            self.connection = Connection::None;
            link.end(reason);
            self.take_back(&link);
        }
    }

    /// Takes the current message back: nothing more of it goes over this connection.
    fn take_back(&mut self, link: &Link) {
        let Some(Accepted { item, .. }) = &mut self.current else {
            return;
        };
        let Some(id) = item.envelope.id else { return };
        item.requester = link.take(id);
        if item.requester.is_none() {
            // The reply has arrived: so the request was sent, although the write has not completed.
            self.current = None;
        }
    }

    /// Takes a message that will not be sent any more, the oldest first.
    fn take_left(&mut self) -> Option<Accepted> {
        self.current.take().or_else(|| self.queue.try_recv().ok())
    }

    /// Gives the current message back to its sender: it could not be delivered in time.
    async fn give_up(&mut self) {
        let Some(accepted) = self.current.take() else {
            self.tally.finish(true);
            return;
        };
        let reason = self.obstacle.get();
        let reason = reason.unwrap_or_else(|| "its turn did not come".into());
        let error = self.undelivered(&accepted, reason);
        self.give_back(accepted, error).await;
    }

    fn undelivered(&self, accepted: &Accepted, reason: String) -> EndpointError {
        EndpointError::Undelivered {
            to: self.to.clone(),
            waited: accepted.since.elapsed(),
            reason,
        }
    }

    async fn give_back(&self, accepted: Accepted, error: EndpointError) {
        self.tally.finish(false);
        let Item {
            envelope,
            requester,
            ..
        } = accepted.item;
        if let Some(requester) = requester {
            // Fails if nobody waits any more.
            let _ = requester.reply.send(Err(error));
            return;
        }
        let to = self.to.clone();
        let event = Event::Undelivered {
            to,
            envelope,
            error,
        };
        self.endpoint.emit(event).await;
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.cut(ENDPOINT_ENDED);
        self.queue.close();
        self.room.notify_all();
        let mut messages = 0;
        while let Some(mut accepted) = self.take_left() {
            messages += 1;
            if let Some(requester) = accepted.item.requester.take() {
                let error = self.undelivered(&accepted, ENDPOINT_ENDED.into());
                let _ = requester.reply.send(Err(error));
            }
        }
        self.tally.end();
        if messages > 0 {
            let (endpoint, to) = (&self.endpoint.name, &self.to);
            tracing::warn!(%endpoint, %to, messages, "dropped while messages waited");
        }
    }
}

impl Connection {
    /// Waits until nothing more is to be sent over an open connection, until an ending one has ended or
    /// its deadline has passed, and forever if there is none.
    async fn changed(&self) {
        match self {
            Connection::None => std::future::pending().await,
            Connection::Open(link) => link.over().await,
            Connection::Ending(link, deadline) => {
                until(*deadline, link.ended()).await;
            }
        }
    }
}
