use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use futures_core::stream::FusedStream;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dispatch::{handle, refuse, reject};
use super::envelope::{self, Received};
use super::error::EndpointError;
use super::event::Event;
use super::life::{Life, reached};
use super::link::{ENDPOINT_ENDED, Link, LinkState, PEER_LEFT, end_reason};
use super::load::Load;
use super::shared::Shared;
use crate::sync::until;
use crate::{Error, PipeConnection, PipeReceiver};

/// Reads one connection to its end, and handles what comes.
pub(super) struct Conversation {
    endpoint: Arc<Shared>,
    life: watch::Receiver<Life>,
    link: Arc<Link>,
    link_state: watch::Receiver<LinkState>,
    receiver: PipeReceiver,
    /// The program at the other end, if this side has connected to it.
    to: Option<String>,
    phase: Phase,
    /// Handled one after the other.
    messages: VecDeque<BoxFuture<'static, ()>>,
    /// Handled side by side.
    requests: FuturesUnordered<BoxFuture<'static, ()>>,
    load: Arc<Load>,
}

/// What a conversation waits for, in addition to messages and handlers.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The other side has connected. When the endpoint drains, it is asked to send no more.
    Accepted,
    /// As `Accepted`, and the other side was asked to send no more.
    AskedToClose,
    /// This side has connected. When it has nothing more to send, the destination finishes the link.
    Connected,
    /// This side sends nothing more, and waits for the replies.
    AwaitingReplies,
    /// This side has closed its direction, as the other side has asked. The other side handles what it was
    /// sent, and then closes its direction.
    PeerCloses,
}

/// What [`Conversation::next_step`] has found.
enum Step {
    /// A handler has ended.
    Handled,
    Message(BytesMut),
    /// A message above the limit was left out.
    TooLarge {
        size: usize,
        max: usize,
    },
    /// Nothing more comes.
    EndOfStream(Result<(), Error>),
    /// The endpoint is draining.
    Draining,
    /// This side sends nothing more.
    Finishing,
    /// All replies have arrived, or nobody waits for them any more.
    AllAnswered,
    /// The connection is of no more use.
    Ended,
}

impl Conversation {
    /// Over a connection that another program has made.
    pub(super) fn accepted(endpoint: Arc<Shared>, conn: PipeConnection) -> Self {
        Self::new(endpoint, conn, None, Phase::Accepted)
    }

    /// Over a connection that this program has made to `to`.
    pub(super) fn connected(endpoint: Arc<Shared>, conn: PipeConnection, to: String) -> Self {
        Self::new(endpoint, conn, Some(to), Phase::Connected)
    }

    fn new(endpoint: Arc<Shared>, conn: PipeConnection, to: Option<String>, phase: Phase) -> Self {
        let (sender, mut receiver) = conn.split();
        receiver.skip_too_large();
        let link = Arc::new(Link::new(sender));
        Conversation {
            life: endpoint.life.subscribe(),
            link_state: link.subscribe(),
            link,
            receiver,
            to,
            phase,
            messages: VecDeque::new(),
            requests: FuturesUnordered::new(),
            load: Load::new(&endpoint.options),
            endpoint,
        }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Runs until the connection has ended and everything that arrived was handled, or until the endpoint
    /// was shut down and the drain timeout has passed.
    pub(super) async fn run(mut self) {
        let endpoint = self.endpoint.clone();
        let in_time = tokio::select! {
            biased;
            () = self.converse() => true,
            () = endpoint.drained() => false,
        };
        let messages = self.unhandled();
        if !in_time && messages > 0 {
            self.messages.clear();
            self.requests.clear();
            report(&self.endpoint, EndpointError::Unhandled { messages }).await;
        }
    }

    async fn converse(&mut self) {
        let read = self.read().await;
        report_reading(&self.endpoint, read).await;
        self.finish_handlers().await;
        let is_ended = self.link.state().is_ended();
        let closed = match is_ended {
            true => self.link.close_ended(self.receiver.is_terminated()).await,
            false => self.link.close().await,
        };
        let peer_closing = self.link.state().peer_closing;
        if closed.is_ok() && self.to.is_some() && peer_closing {
            self.hear_out().await;
        }
        self.link.end(PEER_LEFT);
        let error = match (&self.to, closed) {
            // If the other side has made the connection, it can have missed only replies.
            (_, Ok(())) | (None, Err(Error::Closed { .. })) => return,
            (Some(to), Err(Error::Closed { .. })) => EndpointError::Unread { to: to.clone() },
            (_, Err(error)) => error.into(),
        };
        report(&self.endpoint, error).await;
    }

    /// Waits until the other side, which has asked to end the connection, has handled everything and
    /// ends it too.
    async fn hear_out(&mut self) {
        if !self.receiver.core.capabilities.half_closes() {
            // One direction of such a pipe cannot be ended alone, so the other side does not know that this
            // side has closed its own. It keeps its name until it has handled everything, because it has an
            // instance of the pipe until then.
            return;
        }
        self.phase = Phase::PeerCloses;
        let deadline = Instant::now().checked_add(self.endpoint.options.drain_timeout);
        let read = until(deadline, self.read()).await;
        report_reading(&self.endpoint, read.unwrap_or(Ok(()))).await;
        self.finish_handlers().await;
    }

    /// Reads until nothing more comes, or until there is no more reason to read.
    async fn read(&mut self) -> Result<(), Error> {
        loop {
            match self.next_step().await {
                Step::Handled => {}
                Step::Message(message) => self.received(&message),
                Step::TooLarge { size, max } => self.too_large(size, max),
                Step::Draining => {
                    self.phase = Phase::AskedToClose;
                    self.ask_to_close();
                }
                Step::Finishing => self.phase = Phase::AwaitingReplies,
                Step::AllAnswered | Step::Ended => return Ok(()),
                Step::EndOfStream(result) => {
                    if matches!(self.phase, Phase::Connected | Phase::AwaitingReplies) {
                        self.link.end(&end_reason(result.as_ref().err()));
                    }
                    return result;
                }
            }
        }
    }

    /// Waits for the next step. Nothing is lost when it is cancelled.
    async fn next_step(&mut self) -> Step {
        let unhandled = self.unhandled();
        tokio::select! {
            biased;
            step = self.phase.next_step(&self.link, &mut self.link_state, &mut self.life) => step,
            () = first(&mut self.messages) => {
                self.messages.pop_front();
                Step::Handled
            }
            Some(()) = self.requests.next(), if !self.requests.is_empty() => Step::Handled,
            // Polled after the handlers: a handler that begins to wait makes room for a message.
            message = next_message(&self.load, unhandled, &mut self.receiver) => match message {
                Some(Ok(message)) => Step::Message(message),
                Some(Err(Error::MessageTooLarge { size, max })) => Step::TooLarge { size, max },
                Some(Err(error)) => Step::EndOfStream(Err(error)),
                None => Step::EndOfStream(Ok(())),
            },
        }
    }

    /// Waits until everything that arrived is handled. If the other side has left, its requests have only
    /// the drain timeout.
    async fn finish_handlers(&mut self) {
        let peer_left = self.receiver.is_terminated() || self.link.state().is_ended();
        let waited = self.endpoint.options.drain_timeout;
        let deadline = Instant::now().checked_add(waited).filter(|_| peer_left);
        while self.unhandled() > 0 {
            tokio::select! {
                () = first(&mut self.messages) => drop(self.messages.pop_front()),
                Some(()) = self.requests.next(), if !self.requests.is_empty() => {}
                _ = until(deadline, pending::<()>()), if !self.requests.is_empty() => {
                    let requests = self.requests.len();
                    self.requests.clear();
                    report(&self.endpoint, EndpointError::Abandoned { requests, waited }).await;
                }
            }
        }
    }

    /// Asks the other side to send no more, so that nothing is on its way when this side ends the
    /// connection.
    fn ask_to_close(&mut self) {
        let (link, closing) = (self.link.clone(), envelope::closing(&self.endpoint.name));
        // In a task of its own, because it must not count as a message that is being handled. The task ends
        // with the connection.
        self.endpoint.spawn(async move {
            if let Err(error) = link.write(closing).await {
                tracing::debug!(%error, "cannot ask the other side to close");
            }
        });
    }

    fn received(&mut self, message: &[u8]) {
        let (endpoint, link) = (self.endpoint.clone(), self.link.clone());
        let permit = self.load.add(message.len());
        match Received::decode(message) {
            Ok(Received::Message(envelope)) => {
                let is_message = envelope.id.is_none();
                let handling = Box::pin(handle(endpoint, link, envelope, permit));
                match is_message {
                    true => self.messages.push_back(handling),
                    false => self.requests.push(handling),
                }
            }
            Ok(Received::Reply(id, outcome)) => match link.take(id) {
                Some(requester) => requester.answer(outcome),
                None => tracing::debug!(id, "a reply that nobody waits for"),
            },
            Ok(Received::Closing) => self.link.peer_closes(),
            Ok(Received::Rejection(to, reason, size)) => {
                match size.and_then(|it| link.take_of_size(it)) {
                    Some(requester) => requester.answer(Err(reason)),
                    None => {
                        let error = EndpointError::Rejected { to, reason };
                        self.messages.push_back(Box::pin(async move {
                            let _permit = permit;
                            endpoint.emit(Event::Error(error)).await;
                        }));
                    }
                }
            }
            Err(malformed) => {
                let refusing = refuse(endpoint, link, malformed, self.process_id());
                // It counts as being handled: the reason may be as long as the message.
                self.messages.push_back(Box::pin(async move {
                    let _permit = permit;
                    refusing.await;
                }));
            }
        }
    }

    /// A message was left out.
    fn too_large(&mut self, size: usize, max: usize) {
        let (endpoint, link) = (self.endpoint.clone(), self.link.clone());
        if self.to.is_some() {
            // It may have been a reply, and nobody knows to which request: all requests fail.
            link.fail_sent(&format!(
                "a message of {size} bytes, which may have been the reply, is above the limit of {max} bytes"
            ));
        }
        let rejecting = reject(endpoint, link, size, max, self.process_id());
        self.messages.push_back(Box::pin(rejecting));
    }

    /// The process at the other end, where the system tells.
    fn process_id(&self) -> Option<u32> {
        self.receiver.peer().ok()?.process_id
    }

    /// How many messages and requests have arrived and are not handled to the end.
    fn unhandled(&self) -> usize {
        self.messages.len() + self.requests.len()
    }
}

impl Phase {
    /// Waits for what ends this phase.
    async fn next_step(
        self,
        link: &Link,
        link_state: &mut watch::Receiver<LinkState>,
        life: &mut watch::Receiver<Life>,
    ) -> Step {
        match self {
            Phase::Accepted => tokio::select! {
                biased;
                () = reached(link_state, LinkState::is_ended) => Step::Ended,
                () = reached(life, |it| it.draining_since().is_some()) => Step::Draining,
            },
            Phase::AskedToClose => {
                reached(link_state, LinkState::is_ended).await;
                Step::Ended
            }
            Phase::Connected => {
                reached(link_state, |it| it.is_ended() || it.is_finishing()).await;
                match link_state.borrow().is_ended() {
                    true => Step::Ended,
                    false => Step::Finishing,
                }
            }
            Phase::AwaitingReplies => tokio::select! {
                biased;
                () = reached(link_state, LinkState::is_ended) => Step::Ended,
                () = link.all_answered() => Step::AllAnswered,
            },
            Phase::PeerCloses => pending().await,
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.link.end(ENDPOINT_ENDED);
        let messages = self.unhandled();
        if messages > 0 {
            let endpoint = &self.endpoint.name;
            tracing::warn!(%endpoint, messages, "dropped while messages were being handled");
        }
    }
}

/// Tells the application why reading has ended, unless the other side has just left.
async fn report_reading(endpoint: &Shared, read: Result<(), Error>) {
    match read {
        Ok(()) | Err(Error::Closed { .. }) => {}
        Err(error) => report(endpoint, error.into()).await,
    }
}

async fn report(endpoint: &Shared, error: EndpointError) {
    endpoint.emit(Event::Error(error)).await;
}

/// Waits for the first of the messages to be handled; forever if there is none.
async fn first(messages: &mut VecDeque<BoxFuture<'static, ()>>) {
    match messages.front_mut() {
        Some(message) => message.await,
        None => pending().await,
    }
}

/// The next message, once there is room for it.
async fn next_message(
    load: &Load,
    unhandled: usize,
    receiver: &mut PipeReceiver,
) -> Option<Result<BytesMut, Error>> {
    poll_fn(|cx| match load.has_room(unhandled) {
        true => receiver.poll_next_unpin(cx),
        false => Poll::Pending,
    })
    .await
}
