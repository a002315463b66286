//! What a connection's two sides share: the one that reads it, and the one that sends to it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::EndpointError;
use crate::sync::lock;
use crate::{Error, PipeName, PipeSender};

/// What a request is answered with.
pub(super) type Outcome = Result<Value, EndpointError>;

/// Why a connection has ended: the other side's doing, or this one's.
pub(super) const LEFT: &str = "it left before it replied";
pub(super) const ENDED: &str = "this endpoint has ended";

/// Why a connection has ended, in which something failed or nothing did.
pub(super) fn why(error: Option<&Error>) -> String {
    match error {
        None | Some(Error::Closed { .. }) => LEFT.into(),
        Some(error) => error.to_string(),
    }
}

/// Whoever waits for the reply to a request.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) to: String,
    pub(super) action: String,
    pub(super) reply: oneshot::Sender<Outcome>,
    /// `None`: for ever.
    pub(super) deadline: Option<Instant>,
}

impl Asking {
    /// Gives what the other side has said. Whoever does not wait any more needs none.
    pub(super) fn answer(self, outcome: Result<Value, String>) {
        let Asking {
            to, action, reply, ..
        } = self;
        let refused = |reason| EndpointError::Refused { to, action, reason };
        let _ = reply.send(outcome.map_err(refused));
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pipe: PipeName,
    writer: tokio::sync::Mutex<PipeSender>,
    pending: Mutex<Pending>,
    /// The other side asks to be sent nothing more.
    pub(super) closing: CancellationToken,
    /// This side sends nothing more: the connection ends when every reply has come.
    pub(super) done: CancellationToken,
    /// The connection is of no more use.
    pub(super) gone: CancellationToken,
}

/// Requests without a reply, by their number.
#[derive(Debug, Default)]
struct Pending {
    requests: HashMap<u64, Pended>,
    /// Why there will be no more replies, once that is so.
    ended: Option<String>,
    /// As soon as there are so many, those that nobody waits for any more are looked for.
    tidy_at: usize,
}

#[derive(Debug)]
struct Pended {
    asking: Asking,
    /// Of its frame.
    size: usize,
    /// Whether the system has it. If it has not, it goes out again over another connection.
    sent: bool,
}

impl Pended {
    fn is_waited_for(&self) -> bool {
        let deadline = self.asking.deadline;
        !self.asking.reply.is_closed() && deadline.is_none_or(|it| it > Instant::now())
    }
}

impl Pending {
    /// Those that were sent: to be told by [`fail`].
    fn take_sent(&mut self) -> Vec<Pended> {
        let sent = self.requests.extract_if(|_, it| it.sent);
        sent.map(|(_, it)| it).collect()
    }

    /// Those that nobody waits for any more.
    fn take_given_up(&mut self) -> Vec<Pended> {
        let given_up = self.requests.extract_if(|_, it| !it.is_waited_for());
        given_up.map(|(_, it)| it).collect()
    }
}

/// Tells those whose reply does not come any more. Not under the lock: it wakes them, with code of
/// whoever made their executor.
fn fail(requests: Vec<Pended>, reason: &str) {
    for Pended { asking, .. } in requests {
        let error = EndpointError::Unanswered {
            to: asking.to,
            action: asking.action,
            reason: reason.into(),
        };
        // Whoever does not wait any more needs no word.
        let _ = asking.reply.send(Err(error));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // What becomes of a message that was begun is told as of any other one.
        self.writer.get_mut().discard();
    }
}

impl Link {
    pub(super) fn new(sender: PipeSender) -> Self {
        Link {
            pipe: sender.name().clone(),
            writer: tokio::sync::Mutex::new(sender),
            pending: Mutex::default(),
            closing: CancellationToken::new(),
            done: CancellationToken::new(),
            gone: CancellationToken::new(),
        }
    }

    /// Whether nothing more is to be sent on it.
    pub(super) fn is_over(&self) -> bool {
        self.closing.is_cancelled() || self.gone.is_cancelled()
    }

    pub(super) async fn over(&self) {
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = self.gone.cancelled() => {}
        }
    }

    /// Waits until the system has the message.
    ///
    /// Cancelled, it may have taken a part: the connection is `gone` then, or goes on to be
    /// written to.
    pub(super) async fn write(&self, message: Bytes) -> Result<(), Error> {
        self.write_noting(message, &AtomicBool::new(false)).await
    }

    /// As [`write`](Self::write), and notes when it has `begun`: until then, nothing was sent.
    pub(super) async fn write_noting(
        &self,
        message: Bytes,
        begun: &AtomicBool,
    ) -> Result<(), Error> {
        let writing = async {
            let mut writer = self.writer.lock().await;
            poll_fn(|cx| writer.poll_ready_unpin(cx)).await?;
            begun.store(true, Relaxed);
            writer.start_send_unpin(message)?;
            writer.flush().await
        };
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Error::Closed {
                pipe: self.pipe.clone(),
                by_this_end: false,
            }),
            written = writing => written,
        }
    }

    /// Waits until the other side has read everything.
    pub(super) async fn close(&self) -> Result<(), Error> {
        SinkExt::close(&mut *self.writer.lock().await).await
    }

    /// [`Error::Closed`] if the other side has left, and may not have read everything.
    pub(super) async fn left(&self, has_left: bool) -> Result<(), Error> {
        let mut writer = self.writer.lock().await;
        if writer.has_failed() || (has_left && writer.unsent() > 0) {
            return Err(Error::Closed {
                pipe: self.pipe.clone(),
                by_this_end: false,
            });
        }
        match has_left {
            // The system may know.
            true => SinkExt::close(&mut *writer).await,
            false => Ok(()),
        }
    }

    /// A request that is about to be sent.
    pub(super) fn expect(&self, id: u64, size: usize, asking: Asking) {
        let mut pending = self.pending();
        let mut given_up = Vec::new();
        if pending.requests.len() >= pending.tidy_at {
            given_up = pending.take_given_up();
            pending.tidy_at = 2 * pending.requests.len() + 16;
        }
        let pended = Pended {
            asking,
            size,
            sent: false,
        };
        pending.requests.insert(id, pended);
        drop(pending);
        drop(given_up);
    }

    /// The request has been sent: its reply comes over this connection, or not at all.
    pub(super) fn sent(&self, id: u64) {
        let mut pending = self.pending();
        if let Some(pended) = pending.requests.get_mut(&id) {
            pended.sent = true;
        }
        let Some(reason) = pending.ended.clone() else {
            return;
        };
        let sent = pending.take_sent();
        drop(pending);
        fail(sent, &reason);
    }

    /// The request has not been sent, or its reply is there.
    pub(super) fn take(&self, id: u64) -> Option<Asking> {
        Some(self.pending().requests.remove(&id)?.asking)
    }

    /// The other side has left out a frame of this size: the request that was in it.
    pub(super) fn take_of_size(&self, size: u64) -> Option<Asking> {
        let mut pending = self.pending();
        let is_it = |it: &Pended| u64::try_from(it.size) == Ok(size);
        let ids = pending.requests.iter().filter(|(_, it)| is_it(it));
        let id = *ids.map(|(id, _)| id).min()?;
        Some(pending.requests.remove(&id)?.asking)
    }

    /// A reply was left out, and whose it was is not known: none of those who wait for one is
    /// left waiting.
    pub(super) fn miss_reply(&self, reason: &str) {
        let sent = self.pending().take_sent();
        fail(sent, reason);
    }

    /// No reply comes any more; the first reason is the one that counts. For requests of which the
    /// system has no more than a part, their sender sees to it.
    pub(super) fn end(&self, reason: &str) {
        let mut pending = self.pending();
        let reason = pending.ended.get_or_insert_with(|| reason.into()).clone();
        let sent = pending.take_sent();
        drop(pending);
        fail(sent, &reason);
        self.gone.cancel();
    }

    /// Waits until nobody waits for a reply any more. That a reply has come is not noticed here: to
    /// be called again then.
    pub(super) async fn answered(&self) {
        while let Some(deadline) = self.last_deadline() {
            // However many there are, it waits for all of them.
            let given_up = unconstrained(poll_fn(|cx| self.poll_given_up(cx)));
            let _ = timeout_at(deadline, given_up).await;
        }
    }

    /// Whether one of those who wait has given up.
    fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pending = self.pending();
        let mut given_up = Poll::Pending;
        for pended in pending.requests.values_mut() {
            if pended.asking.reply.poll_closed(cx).is_ready() {
                given_up = Poll::Ready(());
            }
        }
        given_up
    }

    /// When the last of those who wait for a reply gives up. Nobody waits: `None`. They wait for
    /// ever: a time that is far away.
    fn last_deadline(&self) -> Option<Instant> {
        let mut pending = self.pending();
        let given_up = pending.take_given_up();
        let deadlines = pending.requests.values().map(|it| it.asking.deadline);
        let last = deadlines.map(|it| it.unwrap_or_else(far_away)).max();
        drop(pending);
        drop(given_up);
        last
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
