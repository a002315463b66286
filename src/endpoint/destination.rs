use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::conversation::Conversation;
use super::link::{Asking, ENDED, LEFT, Link, why};
use super::{EndpointError, EndpointEvent, Envelope, Shared, handling};
use crate::client::random;
use crate::sync::{lock, until};
use crate::tally::Tally;
use crate::{Error, PipeClient, PipeName};

/// How long a handler waits at most for something to be taken out of a queue that has much in it.
/// Nothing is won by it once the other program does not read at all.
const MOMENT: Duration = Duration::from_millis(5);

/// What was in the way of messages that are left when the endpoint has drained for long enough.
const SHUT_DOWN: &str = "this endpoint was shut down";

/// A message that was accepted for sending.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) envelope: Envelope,
    pub(super) frame: Bytes,
    /// Who waits for the reply, if it is a request.
    pub(super) asking: Option<Asking>,
}

/// What the handles need of a program that there is something to send to, or a connection.
#[derive(Debug)]
pub(super) struct Queue {
    /// Has room for what handlers send, too.
    items: mpsc::Sender<Accepted>,
    room: Arc<Room>,
    tally: Arc<Tally>,
    to: String,
    trouble: Trouble,
}

/// Where it is told that something was taken out of a queue, or that the queue has ended.
#[derive(Debug, Default)]
struct Room {
    /// Of those who wait for room, the one whose turn it is has this, and the others stand in line
    /// for it: nobody goes ahead of them, so none of them waits in vain.
    turn: tokio::sync::Mutex<()>,
    /// To the one whose turn it is: there is room for everybody.
    made: Notify,
    /// To handlers, which wait for a moment.
    taken: Notify,
}

/// Why a program is not sent to at the moment. For people.
pub(super) type Trouble = Arc<Mutex<Option<String>>>;

/// What became of a message that was to be put into a queue.
enum Pushed {
    Taken(Trouble),
    /// There is no room at the moment.
    Full(Item, Arc<Room>),
}

#[derive(Debug)]
struct Accepted {
    item: Item,
    since: Instant,
}

/// Sends to one program: what waits for it, and the connection.
struct Destination {
    endpoint: Arc<Shared>,
    to: String,
    pipe: PipeName,
    queue: mpsc::Receiver<Accepted>,
    room: Arc<Room>,
    tally: Arc<Tally>,
    /// Taken from the queue and not with the system yet.
    current: Option<Accepted>,
    /// Whether the system may have a part of it.
    begun: AtomicBool,
    link: Option<Arc<Link>>,
    /// The connection that the other program has asked to end. It handles what came over that one
    /// first, and whoever has its name after it, the rest: not before this time, unless it ends.
    ending: Option<(Arc<Link>, Option<Instant>)>,
    trouble: Trouble,
}

impl Shared {
    /// Takes a message for sending, waiting for room unless it is a handler that sends.
    pub(super) async fn enqueue(
        self: &Arc<Self>,
        to: &str,
        item: Item,
    ) -> Result<Trouble, EndpointError> {
        let pipe = PipeName::new(to)?;
        if handling::is_handler() {
            self.keep_in_step(&pipe).await;
            return match self.push(to, &pipe, item, false)? {
                Pushed::Taken(trouble) => Ok(trouble),
                Pushed::Full(..) => Err(self.full(to)),
            };
        }
        let deadline = Instant::now().checked_add(self.options.give_up_after);
        let pushed = until(deadline, self.push_in_turn(to, &pipe, item)).await;
        pushed.unwrap_or_else(|| Err(self.full(to)))
    }

    /// Waits for room, behind those who wait already.
    async fn push_in_turn(
        self: &Arc<Self>,
        to: &str,
        pipe: &PipeName,
        mut item: Item,
    ) -> Result<Trouble, EndpointError> {
        loop {
            let room = match self.push(to, pipe, item, false)? {
                Pushed::Taken(trouble) => return Ok(trouble),
                Pushed::Full(given_back, room) => {
                    item = given_back;
                    room
                }
            };
            let _turn = room.turn.lock().await;
            loop {
                let mut made = pin!(room.made.notified());
                // From here on none is missed.
                made.as_mut().enable();
                match self.push(to, pipe, item, true)? {
                    Pushed::Taken(trouble) => return Ok(trouble),
                    Pushed::Full(given_back, now) => {
                        item = given_back;
                        if !Arc::ptr_eq(&room, &now) {
                            // The queue has ended, and there is another one.
                            break;
                        }
                    }
                }
                made.await;
            }
        }
    }

    /// As [`enqueue`](Self::enqueue), without waiting.
    pub(super) fn try_enqueue(self: &Arc<Self>, to: &str, item: Item) -> Result<(), EndpointError> {
        match self.push(to, &PipeName::new(to)?, item, false)? {
            Pushed::Taken(_) => Ok(()),
            Pushed::Full(..) => Err(self.full(to)),
        }
    }

    /// Puts a message into the queue, unless it is full, or it is the turn of others who wait for room.
    fn push(
        self: &Arc<Self>,
        to: &str,
        pipe: &PipeName,
        item: Item,
        in_turn: bool,
    ) -> Result<Pushed, EndpointError> {
        // Let go of after the lock: it wakes the next one in line, with code of whoever made its executor.
        let (room, turn);
        // Under the lock, so that no queue ends while something is put into it.
        let mut queues = lock(&self.queues);
        if self.shutdown.is_shut_down() {
            return Err(self.shut_down().into());
        }
        let queue = match queues.entry(pipe.clone()) {
            Entry::Occupied(queue) => queue.into_mut(),
            Entry::Vacant(place) => place.insert(self.start(to, pipe)),
        };
        let is_next = in_turn || handling::is_handler() || {
            room = queue.room.clone();
            turn = room.turn.try_lock();
            turn.is_ok()
        };
        let has_room = is_next && queue.waiting() < self.most();
        if !has_room && !queue.items.is_closed() {
            return Ok(Pushed::Full(item, queue.room.clone()));
        }
        let since = Instant::now();
        match queue.items.try_send(Accepted { item, since }) {
            Ok(()) => {
                queue.tally.accept();
                Ok(Pushed::Taken(queue.trouble.clone()))
            }
            Err(TrySendError::Full(it)) => Ok(Pushed::Full(it.item, queue.room.clone())),
            // The runtime that the endpoint lives in has ended.
            Err(TrySendError::Closed(_)) => Err(self.shut_down().into()),
        }
    }

    fn start(self: &Arc<Self>, to: &str, pipe: &PipeName) -> Queue {
        let (items, queue) = mpsc::channel(self.options.handler_queue());
        let (room, tally) = (Arc::<Room>::default(), Arc::<Tally>::default());
        let trouble = Trouble::default();
        let destination = Destination {
            endpoint: self.clone(),
            to: to.into(),
            pipe: pipe.clone(),
            queue,
            room: room.clone(),
            tally: tally.clone(),
            current: None,
            begun: AtomicBool::new(false),
            link: None,
            ending: None,
            trouble: trouble.clone(),
        };
        self.spawn(destination.run());
        Queue {
            items,
            room,
            tally,
            to: to.into(),
            trouble,
        }
    }

    /// For a handler that finds much in the queue: it goes on when something was taken out, or after
    /// a moment. So while the other program reads, the queue gets no longer by what handlers send.
    ///
    /// Each message waits for a moment. The moments add up to the pause that the other program may make
    /// before a message is lost: one for each place between [`much`](super::Options::much) and the
    /// handlers' bound, which is 4.5 s by default. One for each `queue` of messages would be 70 ms.
    async fn keep_in_step(&self, pipe: &PipeName) {
        let room = match lock(&self.queues).get(pipe) {
            Some(queue) if queue.waiting() >= self.options.much() => queue.room.clone(),
            _ => return,
        };
        let _ = timeout(MOMENT, room.taken.notified()).await;
    }

    /// Waits until all that was accepted before is with the system or given up: for one program, or
    /// for all.
    pub(super) async fn flush(&self, pipe: Option<&PipeName>) -> Result<(), EndpointError> {
        let asked: Vec<_> = {
            let queues = lock(&self.queues);
            let asked = queues
                .iter()
                .filter(|(it, _)| pipe.is_none_or(|pipe| pipe == *it));
            asked
                .map(|(_, queue)| (queue.to.clone(), queue.tally.clone()))
                .collect()
        };
        // All from this moment on, and not each from when its turn comes.
        let flushing = asked.into_iter().map(|(to, tally)| (to, tally.flushed()));
        let flushing: Vec<_> = flushing.collect();
        let flushed = flushing.into_iter().map(async |(to, it)| (to, it.await));
        let lost = join_all(flushed).await.into_iter().find(|it| it.1 > 0);
        match lost {
            None => Ok(()),
            Some((to, messages)) => Err(EndpointError::NotSent { to, messages }),
        }
    }

    /// How many messages may wait for one program, for whoever asks.
    fn most(&self) -> usize {
        match handling::is_handler() {
            true => self.options.handler_queue(),
            false => self.options.queue,
        }
    }

    fn full(&self, to: &str) -> EndpointError {
        EndpointError::QueueFull {
            to: to.into(),
            messages: self.most(),
        }
    }
}

impl Queue {
    fn waiting(&self) -> usize {
        self.items.max_capacity() - self.items.capacity()
    }
}

impl Destination {
    /// Until nothing waits and nobody is connected, or the endpoint is shut down and has drained.
    async fn run(mut self) {
        let endpoint = self.endpoint.clone();
        tokio::select! {
            () = self.deliver_all() => return,
            () = endpoint.drained() => {}
        }
        self.cut(ENDED);
        while let Some(accepted) = self.take_left() {
            let error = self.undelivered(&accepted, SHUT_DOWN.into());
            self.give_back(accepted, error).await;
        }
    }

    async fn deliver_all(&mut self) {
        while self.take_next().await {
            let deadline = self.deadline();
            // What has waited for too long behind others is not begun with.
            if deadline.is_some_and(|it| it <= Instant::now()) {
                self.give_up().await;
                continue;
            }
            if until(deadline, self.deliver()).await.is_none() {
                let begun = self.begun.load(Relaxed);
                if begun {
                    // What is behind it could only follow the rest of it.
                    let reason = lock(&self.trouble).clone();
                    self.cut(reason.as_deref().unwrap_or(LEFT));
                } else if let Some(link) = self.link.clone() {
                    self.take_back(&link);
                }
                self.give_up().await;
                if begun {
                    let to = self.to.clone();
                    let error = EndpointError::Unread { to };
                    self.endpoint.tell(EndpointEvent::Error(error)).await;
                }
            } else {
                self.tally.finish(true);
            }
        }
        self.finish();
    }

    /// Waits for the next message; `false` if there will be none.
    async fn take_next(&mut self) -> bool {
        loop {
            if self.link.as_ref().is_some_and(|it| it.is_over()) {
                self.finish();
            }
            if self.link.is_none() && self.ending.is_none() && self.leaves() {
                return false;
            }
            let next = tokio::select! {
                biased;
                Some(accepted) = self.queue.recv() => Some(accepted),
                // From here on, nothing more is put into the queue.
                () = self.endpoint.shutdown.requested() => self.queue.try_recv().ok(),
                () = over(&self.link) => continue,
                () = ended(&self.ending), if self.ending.is_some() => {
                    self.ending = None;
                    continue;
                }
            };
            let Some(accepted) = next else { return false };
            if self.queue.len() < self.endpoint.options.queue {
                self.room.made.notify_one();
            }
            self.room.taken.notify_one();
            let asking = accepted.item.asking.as_ref();
            // Of a request that nobody waits for any more, nothing is sent.
            if asking.is_none_or(|it| !it.reply.is_closed()) {
                self.current = Some(accepted);
                return true;
            }
            self.tally.finish(true);
        }
    }

    /// Takes itself out of the handles' sight, unless there is something to do.
    fn leaves(&self) -> bool {
        let mut queues = lock(&self.endpoint.queues);
        let leaves = self.queue.is_empty();
        if leaves {
            queues.remove(&self.pipe);
        }
        leaves
    }

    /// When the current message is given up.
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
            self.cut(&why(Some(&error)));
            self.begun.store(false, Relaxed);
            if self.current.is_none() {
                break;
            }
            tracing::debug!(endpoint = %self.endpoint.name, to = %self.to, %error, "cannot send yet");
            let is_missing = matches!(error, Error::NotFound { .. });
            if !(is_missing && was_missing) {
                *lock(&self.trouble) = Some(error.to_string());
            }
            // What the first attempt says of it, further ones do not look for.
            was_missing = is_missing;
            // Anywhere up to the whole pause: those who lost the same server come back apart.
            sleep(pause.mul_f64(random())).await;
            pause = pause.saturating_mul(2).min(longest);
        }
        *lock(&self.trouble) = None;
    }

    /// Sends the current message once, over the connection that there is or a new one.
    ///
    /// Cancelled, or after an error, the connection is of no more use.
    async fn attempt(&mut self) -> Result<(), Error> {
        if self.link.as_ref().is_some_and(|it| it.is_over()) {
            self.finish();
        }
        let link = match &self.link {
            Some(link) => link.clone(),
            None => {
                if self.ending.is_some() {
                    *lock(&self.trouble) = Some("it is shutting down".into());
                    ended(&self.ending).await;
                    self.ending = None;
                }
                self.connect().await?
            }
        };
        let Some(Accepted { item, .. }) = &mut self.current else {
            return Ok(());
        };
        let asking = item.asking.as_ref();
        if asking.is_some_and(|it| it.reply.is_closed()) {
            // Nobody waits for it any more.
            self.current = None;
            return Ok(());
        }
        *lock(&self.trouble) = Some("it does not read".into());
        let id = item.envelope.id.unwrap_or_default();
        if let Some(asking) = item.asking.take() {
            // Before it is sent: the reply can be faster than the word that it was.
            link.expect(id, item.frame.len(), asking);
        }
        link.write_noting(item.frame.clone(), &self.begun).await?;
        link.sent(id);
        self.current = None;
        Ok(())
    }

    async fn connect(&mut self) -> Result<Arc<Link>, Error> {
        let options = &self.endpoint.options;
        let is_first = lock(&self.trouble).is_none();
        // A busy server is waited for as the system does; a missing one is tried again.
        let conn = PipeClient::builder(&self.pipe)
            .timeout(options.backoff.1)
            .max_message_size(options.codec.max_message_size())
            .linger(options.drain_timeout)
            .verify_server(options.verify_server)
            .look_elsewhere(is_first)
            .connect()
            .await?;
        let conversation = Conversation::new(self.endpoint.clone(), conn, Some(self.to.clone()));
        let link = conversation.link().clone();
        self.endpoint.spawn(conversation.run());
        Ok(self.link.insert(link).clone())
    }

    /// Sends nothing more on the connection, which ends when every reply has come.
    fn finish(&mut self) {
        if let Some(link) = self.link.take() {
            link.done.cancel();
            if link.closing.is_cancelled() {
                let drain_timeout = self.endpoint.options.drain_timeout;
                let deadline = Instant::now().checked_add(drain_timeout);
                self.ending = Some((link, deadline));
            }
        }
    }

    /// Ends the connection, which may have taken a part of the current message.
    fn cut(&mut self, reason: &str) {
        if let Some(link) = self.link.take() {
            link.end(reason);
            self.take_back(&link);
        }
    }

    /// Nothing more of the current message goes over this connection.
    fn take_back(&mut self, link: &Link) {
        let Some(Accepted { item, .. }) = &mut self.current else {
            return;
        };
        let Some(id) = item.envelope.id else { return };
        item.asking = link.take(id);
        if item.asking.is_none() {
            // The reply is there: it was sent, although nobody has said so.
            self.current = None;
        }
    }

    /// What will not be sent any more, the oldest first.
    fn take_left(&mut self) -> Option<Accepted> {
        self.current.take().or_else(|| self.queue.try_recv().ok())
    }

    /// What could not be delivered in time goes back to whoever sent it.
    async fn give_up(&mut self) {
        let Some(accepted) = self.current.take() else {
            self.tally.finish(true);
            return;
        };
        let reason = lock(&self.trouble).clone();
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
            envelope, asking, ..
        } = accepted.item;
        if let Some(asking) = asking {
            // Whoever does not wait any more needs no word.
            let _ = asking.reply.send(Err(error));
            return;
        }
        let to = self.to.clone();
        let event = EndpointEvent::Undelivered {
            to,
            envelope,
            error,
        };
        self.endpoint.tell(event).await;
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.cut(ENDED);
        self.queue.close();
        self.room.made.notify_waiters();
        self.room.taken.notify_waiters();
        let mut messages = 0;
        while let Some(mut accepted) = self.take_left() {
            messages += 1;
            if let Some(asking) = accepted.item.asking.take() {
                let error = self.undelivered(&accepted, ENDED.into());
                let _ = asking.reply.send(Err(error));
            }
        }
        self.tally.end();
        if messages > 0 {
            let (endpoint, to) = (&self.endpoint.name, &self.to);
            tracing::warn!(%endpoint, %to, messages, "dropped while messages waited");
        }
    }
}

/// Waits until the connection has ended, or for long enough.
async fn ended(ending: &Option<(Arc<Link>, Option<Instant>)>) {
    if let Some((link, deadline)) = ending {
        until(*deadline, link.gone.cancelled()).await;
    }
}

/// Waits until nothing more is to be sent on the connection; for ever if there is none.
async fn over(link: &Option<Arc<Link>>) {
    match link {
        Some(link) => link.over().await,
        None => std::future::pending().await,
    }
}
