//! Accepting messages for sending, and flushing.

use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, timeout};

use super::destination::Destination;
use super::error::EndpointError;
use super::load::is_handler;
use super::queue::{Accepted, Item, Obstacle, Room};
use super::shared::Shared;
use crate::PipeName;
use crate::sync::{lock, until};

/// How long a handler waits at most for something to be taken out of a long queue. A longer wait would not
/// help while the other program does not read at all.
const HANDLER_PAUSE: Duration = Duration::from_millis(5);

/// What became of a message that was to be put into a queue.
enum Pushed {
    Taken(Obstacle),
    /// There is no room at the moment.
    Full(Item, Arc<Room>),
}

impl Shared {
    /// Accepts a message for sending. Waits for room, unless the caller is a handler.
    pub(super) async fn enqueue(
        self: &Arc<Self>,
        to: &str,
        item: Item,
    ) -> Result<Obstacle, EndpointError> {
        let pipe = PipeName::new(to)?;
        if is_handler() {
            self.pause_handler(&pipe).await;
            return match self.push(to, &pipe, item, false)? {
                Pushed::Taken(obstacle) => Ok(obstacle),
                Pushed::Full(..) => Err(self.full(to)),
            };
        }
        let deadline = Instant::now().checked_add(self.options.give_up_after);
        let pushed = until(deadline, self.push_in_turn(to, &pipe, item)).await;
        pushed.unwrap_or_else(|| Err(self.full(to)))
    }

    /// Puts a message into the queue. Waits for room, behind those who wait already.
    async fn push_in_turn(
        self: &Arc<Self>,
        to: &str,
        pipe: &PipeName,
        mut item: Item,
    ) -> Result<Obstacle, EndpointError> {
        loop {
            let room = match self.push(to, pipe, item, false)? {
                Pushed::Taken(obstacle) => return Ok(obstacle),
                Pushed::Full(returned, room) => {
                    item = returned;
                    room
                }
            };
            let _turn = room.turn.lock().await;
            loop {
                let mut below_limit = pin!(room.below_limit.notified());
                // Registers before the attempt, so that no notification is missed.
                below_limit.as_mut().enable();
                match self.push(to, pipe, item, true)? {
                    Pushed::Taken(obstacle) => return Ok(obstacle),
                    Pushed::Full(returned, now) => {
                        item = returned;
                        if !Arc::ptr_eq(&room, &now) {
                            // The queue has ended, and there is another one.
                            break;
                        }
                    }
                }
                below_limit.await;
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

    /// Puts a message into the queue, unless the queue is full, or others wait for room and it is not
    /// the caller's turn.
    fn push(
        self: &Arc<Self>,
        to: &str,
        pipe: &PipeName,
        item: Item,
        in_turn: bool,
    ) -> Result<Pushed, EndpointError> {
        // Declared first, so that they are dropped after the locks: dropping `turn` wakes the next in line,
        // which runs the code of its executor.
        let (room, turn);
        // Under this lock, so that no queue ends while a message is put into it.
        let mut queues = lock(&self.queues);
        // While this is held, the endpoint stays open: nothing is put into a queue afterwards.
        let open = self.life.hold_open();
        if open.is_none() || self.shutdown.is_shut_down() {
            return Err(self.shut_down_error().into());
        }
        let queue = match queues.entry(pipe.clone()) {
            Entry::Occupied(queue) => queue.into_mut(),
            Entry::Vacant(place) => place.insert(Destination::start(self, to, pipe)),
        };
        let is_next = in_turn || is_handler() || {
            room = queue.room.clone();
            turn = room.turn.try_lock();
            turn.is_ok()
        };
        let has_room = is_next && queue.len() < self.queue_limit();
        if !has_room && !queue.items.is_closed() {
            return Ok(Pushed::Full(item, queue.room.clone()));
        }
        let since = Instant::now();
        match queue.items.try_send(Accepted { item, since }) {
            Ok(()) => {
                queue.tally.accept();
                Ok(Pushed::Taken(queue.obstacle.clone()))
            }
            Err(TrySendError::Full(it)) => Ok(Pushed::Full(it.item, queue.room.clone())),
            // The runtime of the endpoint has ended.
            Err(TrySendError::Closed(_)) => Err(self.shut_down_error().into()),
        }
    }

    /// Lets a handler wait if the queue is long: until a message is taken out, or for [`HANDLER_PAUSE`]. So
    /// handlers do not make the queue longer while the other program reads.
    ///
    /// Each message waits for one such pause. Together they are the time for which the other program may
    /// stop reading before a message is refused: one pause for each place between
    /// [`high_water`](super::options::Options::high_water) and the handlers' bound, which is 4.5 s by
    /// default. With one pause for each `queue` of messages, it would be only 70 ms.
    async fn pause_handler(&self, pipe: &PipeName) {
        let room = match lock(&self.queues).get(pipe) {
            Some(queue) if queue.len() >= self.options.high_water() => queue.room.clone(),
            _ => return,
        };
        let _ = timeout(HANDLER_PAUSE, room.taken.notified()).await;
    }

    /// Waits until all messages that were accepted before were sent or given up: those to one program, or to
    /// all.
    pub(super) async fn flush(&self, pipe: Option<&PipeName>) -> Result<(), EndpointError> {
        let tallies: Vec<_> = {
            let queues = lock(&self.queues);
            let chosen = queues
                .iter()
                .filter(|(it, _)| pipe.is_none_or(|pipe| pipe == *it));
            chosen
                .map(|(_, queue)| (queue.to.clone(), queue.tally.clone()))
                .collect()
        };
        // Each flush begins now, so it covers what was accepted before this call.
        let flushing = tallies.into_iter().map(|(to, it)| (to, it.flushed()));
        let flushing: Vec<_> = flushing.collect();
        let flushed = flushing.into_iter().map(async |(to, it)| (to, it.await));
        let lost = join_all(flushed).await.into_iter().find(|it| it.1 > 0);
        match lost {
            None => Ok(()),
            Some((to, messages)) => Err(EndpointError::NotSent { to, messages }),
        }
    }

    /// How many messages may wait for one program when the caller sends one more.
    fn queue_limit(&self) -> usize {
        match is_handler() {
            true => self.options.handler_queue(),
            false => self.options.queue,
        }
    }

    fn full(&self, to: &str) -> EndpointError {
        EndpointError::QueueFull {
            to: to.into(),
            messages: self.queue_limit(),
        }
    }
}
