//! What the reader and the writer of one connection share: its state, its sender, and the requests that wait
//! for replies.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout_at};

use super::error::EndpointError;
use crate::sync::lock;
use crate::{Error, PipeName, PipeSender};

/// Why there are no more replies: the other side has left, or this side has ended.
pub(super) const PEER_LEFT: &str = "it left before it replied";
pub(super) const ENDPOINT_ENDED: &str = "this endpoint has ended";

/// Why there are no more replies after this error, or after an orderly end.
pub(super) fn end_reason(error: Option<&Error>) -> String {
    match error {
        None | Some(Error::Closed { .. }) => PEER_LEFT.into(),
        Some(error) => error.to_string(),
    }
}

/// The state of a connection. The front page of the module has a diagram of it.
#[derive(Clone, Debug)]
pub(super) struct LinkState {
    pub(super) phase: Phase,
    /// The other side asks this side to send nothing more. It may ask in any phase.
    pub(super) peer_closing: bool,
}

/// The phases of a connection. It goes through them only in this order.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Messages can be sent on it.
    Open,
    /// This side sends nothing more, and ends the connection when every reply has arrived.
    Finishing,
    /// No more replies arrive, and nothing can be sent.
    Ended {
        /// The reason in the errors of the requests that have no reply.
        reason: Arc<str>,
    },
}

impl LinkState {
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    pub(super) fn is_finishing(&self) -> bool {
        matches!(self.phase, Phase::Finishing)
    }

    /// Whether nothing more is to be sent.
    pub(super) fn is_over(&self) -> bool {
        self.peer_closing || self.is_ended()
    }
}

/// Who waits for the reply to a request.
#[derive(Debug)]
pub(super) struct Requester {
    pub(super) to: String,
    pub(super) action: String,
    pub(super) reply: oneshot::Sender<Result<Value, EndpointError>>,
    /// `None`: waits forever.
    pub(super) deadline: Option<Instant>,
}

impl Requester {
    /// Passes on what the other side has replied, if somebody still waits.
    pub(super) fn answer(self, outcome: Result<Value, String>) {
        let Requester {
            to, action, reply, ..
        } = self;
        let refused = |reason| EndpointError::Refused { to, action, reason };
        let _ = reply.send(outcome.map_err(refused));
    }

    fn is_waiting(&self) -> bool {
        !self.reply.is_closed() && self.deadline.is_none_or(|it| it > Instant::now())
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pipe: PipeName,
    state: watch::Sender<LinkState>,
    writer: tokio::sync::Mutex<PipeSender>,
    requests: Mutex<Requests>,
}

/// Requests without a reply, by their number.
#[derive(Debug, Default)]
struct Requests {
    by_id: HashMap<u64, Request>,
    /// At this number of requests, those that nobody waits for any more are removed.
    tidy_at: usize,
}

#[derive(Debug)]
struct Request {
    requester: Requester,
    /// The length of its frame.
    size: usize,
    /// Whether the system has all of it. If not, it goes out again over another connection.
    is_sent: bool,
}

impl Requests {
    /// Takes the requests that were sent, for [`fail`].
    fn take_sent(&mut self) -> Vec<Request> {
        let sent = self.by_id.extract_if(|_, it| it.is_sent);
        sent.map(|(_, it)| it).collect()
    }

    /// Takes the requests that nobody waits for any more.
    fn take_given_up(&mut self) -> Vec<Request> {
        let given_up = self.by_id.extract_if(|_, it| !it.requester.is_waiting());
        given_up.map(|(_, it)| it).collect()
    }
}

/// Tells the requesters that no reply will arrive. Do not call it under the lock: it wakes their tasks, which
/// runs the code of their executor.
fn fail(requests: Vec<Request>, reason: &str) {
    for Request { requester, .. } in requests {
        let error = EndpointError::Unanswered {
            to: requester.to,
            action: requester.action,
            reason: reason.into(),
        };
        // Fails if nobody waits any more.
        let _ = requester.reply.send(Err(error));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The endpoint itself reports a message that was sent in part, so the sender logs nothing.
        self.writer.get_mut().discard();
    }
}

impl Link {
    pub(super) fn new(sender: PipeSender) -> Self {
        Link {
            pipe: sender.name().clone(),
            state: watch::Sender::new(LinkState {
                phase: Phase::Open,
                peer_closing: false,
            }),
            writer: tokio::sync::Mutex::new(sender),
            requests: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> watch::Ref<'_, LinkState> {
        self.state.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Notes that the other side asks this side to send nothing more.
    pub(super) fn peer_closes(&self) {
        self.state.send_modify(|state| state.peer_closing = true);
    }

    /// From now on this side sends nothing more. Returns whether the other side has asked for that.
    pub(super) fn finish(&self) -> bool {
        self.state.send_if_modified(|state| {
            let is_open = matches!(state.phase, Phase::Open);
            if is_open {
                state.phase = Phase::Finishing;
            }
            is_open
        });
        self.state().peer_closing
    }

    /// Ends the connection: the requests that were sent fail with `reason`, or with that of the first call.
    /// If the system has only a part of a request, the destination decides what becomes of it.
    pub(super) fn end(&self, reason: &str) {
        self.state.send_if_modified(|state| {
            let is_news = !state.is_ended();
            if is_news {
                let reason = reason.into();
                state.phase = Phase::Ended { reason };
            }
            is_news
        });
        self.fail_if_ended();
    }

    /// Fails the requests that were sent if the connection has ended. It is called after the connection was
    /// ended, and after a request was sent: the later of these calls finds both.
    fn fail_if_ended(&self) {
        let phase = self.state().phase.clone();
        if let Phase::Ended { reason } = phase {
            self.fail_sent(&reason);
        }
    }

    /// Fails all requests that were sent.
    pub(super) fn fail_sent(&self, reason: &str) {
        let sent = self.requests().take_sent();
        fail(sent, reason);
    }

    /// Waits until the connection has ended.
    pub(super) async fn ended(&self) {
        // Cannot fail: the sender of the states is in `self`.
        let _ = self.subscribe().wait_for(LinkState::is_ended).await;
    }

    /// Waits until nothing more is to be sent on the connection.
    pub(super) async fn over(&self) {
        let _ = self.subscribe().wait_for(LinkState::is_over).await;
    }

    /// Waits until the system has the message.
    ///
    /// If it is cancelled, the system may have a part of the message. Then either the connection has ended,
    /// or the next write completes the message.
    pub(super) async fn write(&self, message: Bytes) -> Result<(), Error> {
        self.write_noting(message, &AtomicBool::new(false)).await
    }

    /// As [`write`](Self::write). Sets `begun` when it begins to send: nothing was sent before that.
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
            () = self.ended() => Err(self.closed()),
            written = writing => written,
        }
    }

    /// Waits until the other side has read everything.
    pub(super) async fn close(&self) -> Result<(), Error> {
        SinkExt::close(&mut *self.writer.lock().await).await
    }

    /// In place of [`close`](Self::close) once the connection has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] if the other side has left, and may not have read everything.
    pub(super) async fn close_ended(&self, peer_left: bool) -> Result<(), Error> {
        let mut writer = self.writer.lock().await;
        if writer.has_failed() || (peer_left && writer.unsent() > 0) {
            return Err(self.closed());
        }
        match peer_left {
            // The system may know whether the other side has read everything.
            true => SinkExt::close(&mut *writer).await,
            false => Ok(()),
        }
    }

    fn closed(&self) -> Error {
        Error::Closed {
            pipe: self.pipe.clone(),
            by_this_end: false,
        }
    }

    /// Notes a request that is about to be sent.
    pub(super) fn expect(&self, id: u64, size: usize, requester: Requester) {
        let mut requests = self.requests();
        let mut given_up = Vec::new();
        if requests.by_id.len() >= requests.tidy_at {
            given_up = requests.take_given_up();
            requests.tidy_at = 2 * requests.by_id.len() + 16;
        }
        let request = Request {
            requester,
            size,
            is_sent: false,
        };
        requests.by_id.insert(id, request);
        drop(requests);
        // Not under the lock: this wakes the tasks of the requesters.
        drop(given_up);
    }

    /// Notes that the request was sent: its reply comes over this connection, or not at all.
    pub(super) fn sent(&self, id: u64) {
        if let Some(request) = self.requests().by_id.get_mut(&id) {
            request.is_sent = true;
        }
        self.fail_if_ended();
    }

    /// Takes out a request that was not sent, or whose reply has arrived.
    pub(super) fn take(&self, id: u64) -> Option<Requester> {
        Some(self.requests().by_id.remove(&id)?.requester)
    }

    /// Takes out the oldest request whose frame has this size: the other side has left it out.
    pub(super) fn take_of_size(&self, size: u64) -> Option<Requester> {
        let mut requests = self.requests();
        let is_it = |it: &Request| u64::try_from(it.size) == Ok(size);
        let ids = requests.by_id.iter().filter(|(_, it)| is_it(it));
        let id = *ids.map(|(id, _)| id).min()?;
        Some(requests.by_id.remove(&id)?.requester)
    }

    /// Waits until nobody waits for a reply any more. It does not notice when a reply arrives: call it again
    /// after each reply.
    pub(super) async fn all_answered(&self) {
        while let Some(deadline) = self.last_deadline() {
            // Outside of the task's budget, because it polls all requests, however many there are.
            let given_up = unconstrained(poll_fn(|cx| self.poll_given_up(cx)));
            let _ = timeout_at(deadline, given_up).await;
        }
    }

    /// Ready if a requester has given up.
    fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut requests = self.requests();
        let mut given_up = Poll::Pending;
        for request in requests.by_id.values_mut() {
            if request.requester.reply.poll_closed(cx).is_ready() {
                given_up = Poll::Ready(());
            }
        }
        given_up
    }

    /// The time at which the last requester gives up: a time far away if one waits forever, `None` if nobody
    /// waits.
    fn last_deadline(&self) -> Option<Instant> {
        let mut requests = self.requests();
        let given_up = requests.take_given_up();
        let deadlines = requests.by_id.values().map(|it| it.requester.deadline);
        let last = deadlines.map(|it| it.unwrap_or_else(far_away)).max();
        drop(requests);
        drop(given_up);
        last
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
