use std::any::Any;
use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use futures_core::stream::FusedStream;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::time::Instant;

use super::brief::brief;
use super::envelope::{self, Incoming, Malformed};
use super::handling::{self, InHand, Load};
use super::link::{ENDED, LEFT, Link, why};
use super::{EndpointError, EndpointEvent, Envelope, Shared};
use crate::error::chain;
use crate::sync::until;
use crate::{Error, PipeConnection, PipeReceiver};

/// Reads one connection to its end, and handles what comes.
pub(super) struct Conversation {
    endpoint: Arc<Shared>,
    link: Arc<Link>,
    receiver: PipeReceiver,
    /// Who is at the other end, if we have connected to it.
    to: Option<String>,
    /// Handled one after the other.
    messages: VecDeque<BoxFuture<'static, ()>>,
    /// Handled side by side.
    requests: FuturesUnordered<BoxFuture<'static, ()>>,
    load: Arc<Load>,
}

impl Conversation {
    pub(super) fn new(endpoint: Arc<Shared>, conn: PipeConnection, to: Option<String>) -> Self {
        let (sender, mut receiver) = conn.split();
        receiver.skip_too_large();
        let load = Load::new(&endpoint.options);
        Conversation {
            endpoint,
            link: Arc::new(Link::new(sender)),
            receiver,
            to,
            messages: VecDeque::new(),
            requests: FuturesUnordered::new(),
            load,
        }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Until the connection has ended and everything that came was handled, or the endpoint is
    /// shut down and has drained for long enough.
    pub(super) async fn run(mut self) {
        let endpoint = self.endpoint.clone();
        let in_time = tokio::select! {
            biased;
            () = self.converse() => true,
            () = endpoint.drained() => false,
        };
        let messages = self.in_hand();
        if !in_time && messages > 0 {
            self.messages.clear();
            self.requests.clear();
            let error = EndpointError::Unhandled { messages };
            endpoint.tell(EndpointEvent::Error(error)).await;
        }
    }

    async fn converse(&mut self) {
        // That it has left is no error in itself.
        if let Err(error) = self.read().await
            && !matches!(error, Error::Closed { .. })
        {
            let event = EndpointEvent::Error(error.into());
            self.endpoint.tell(event).await;
        }
        self.handle_rest().await;
        let closed = match self.link.gone.is_cancelled() {
            true => self.link.left(self.receiver.is_terminated()).await,
            false => self.link.close().await,
        };
        if closed.is_ok() && self.to.is_some() && self.link.closing.is_cancelled() {
            self.hear_out().await;
        }
        self.link.end(LEFT);
        let error = match (&self.to, closed) {
            // Those who have connected to us have only missed replies.
            (_, Ok(())) | (None, Err(Error::Closed { .. })) => return,
            (Some(to), Err(Error::Closed { .. })) => EndpointError::Unread { to: to.clone() },
            (_, Err(error)) => error.into(),
        };
        self.endpoint.tell(EndpointEvent::Error(error)).await;
    }

    /// Waits until the other side, which has asked to end the connection, has handled everything and
    /// ends it too.
    async fn hear_out(&mut self) {
        if !self.receiver.shared.io.can_shutdown() {
            // It knows of no end before this side is gone. Its name is not free before it has
            // handled everything: it has a pipe instance until then.
            return;
        }
        let deadline = Instant::now().checked_add(self.endpoint.options.drain_timeout);
        if let Some(Err(error)) = until(deadline, self.hear()).await
            && !matches!(error, Error::Closed { .. })
        {
            let event = EndpointEvent::Error(error.into());
            self.endpoint.tell(event).await;
        }
        self.handle_rest().await;
    }

    /// Reads to the end, and handles what comes meanwhile.
    async fn hear(&mut self) -> Result<(), Error> {
        loop {
            let in_hand = self.in_hand();
            tokio::select! {
                biased;
                () = first(&mut self.messages) => drop(self.messages.pop_front()),
                Some(()) = self.requests.next(), if !self.requests.is_empty() => {}
                message = next(&self.load, in_hand, &mut self.receiver) => match message {
                    Some(Ok(message)) => self.received(&message),
                    Some(Err(Error::MessageTooLarge { size, max })) => self.too_large(size, max),
                    ended => return ended.map_or(Ok(()), |it| it.map(drop)),
                },
            }
        }
    }

    /// Handles what has come to its end: requests of someone who has left, for the drain timeout at
    /// most.
    async fn handle_rest(&mut self) {
        let has_left = self.receiver.is_terminated() || self.link.gone.is_cancelled();
        let waited = self.endpoint.options.drain_timeout;
        let deadline = Instant::now().checked_add(waited).filter(|_| has_left);
        while self.in_hand() > 0 {
            tokio::select! {
                () = first(&mut self.messages) => drop(self.messages.pop_front()),
                Some(()) = self.requests.next(), if !self.requests.is_empty() => {}
                () = until(deadline, pending::<()>()).map(drop), if !self.requests.is_empty() => {
                    let requests = self.requests.len();
                    self.requests.clear();
                    let error = EndpointError::Abandoned { requests, waited };
                    self.endpoint.tell(EndpointEvent::Error(error)).await;
                }
            }
        }
    }

    /// Reads to the end, or until there is no more reason to.
    async fn read(&mut self) -> Result<(), Error> {
        let (mut told, mut done) = (self.to.is_some(), false);
        loop {
            let in_hand = self.in_hand();
            tokio::select! {
                biased;
                () = self.link.gone.cancelled() => return Ok(()),
                () = self.link.done.cancelled(), if !done => done = true,
                () = self.link.answered(), if done => return Ok(()),
                () = self.endpoint.deaf.cancelled(), if !told => {
                    told = true;
                    self.ask_to_close();
                }
                () = first(&mut self.messages) => drop(self.messages.pop_front()),
                Some(()) = self.requests.next(), if !self.requests.is_empty() => {}
                message = next(&self.load, in_hand, &mut self.receiver) => match message {
                    Some(Ok(message)) => self.received(&message),
                    Some(Err(Error::MessageTooLarge { size, max })) => self.too_large(size, max),
                    ended => {
                        let ended = ended.map_or(Ok(()), |it| it.map(drop));
                        if self.to.is_some() {
                            self.link.end(&why(ended.as_ref().err()));
                        }
                        return ended;
                    }
                },
            }
        }
    }

    /// So that nothing more is on its way when this side ends the connection.
    fn ask_to_close(&mut self) {
        let (link, closing) = (self.link.clone(), envelope::closing(&self.endpoint.name));
        // No message that is in hand. It ends with the connection.
        self.endpoint.spawn(async move {
            if let Err(error) = link.write(closing).await {
                tracing::debug!(%error, "cannot ask the other side to close");
            }
        });
    }

    fn received(&mut self, message: &[u8]) {
        let (endpoint, link) = (self.endpoint.clone(), self.link.clone());
        let in_hand = self.load.take(message.len());
        match Incoming::decode(message) {
            Ok(Incoming::Message(envelope)) => {
                let is_message = envelope.id.is_none();
                let handling = Box::pin(handle(endpoint, link, envelope, in_hand));
                match is_message {
                    true => self.messages.push_back(handling),
                    false => self.requests.push(handling),
                }
            }
            Ok(Incoming::Reply(id, outcome)) => match link.take(id) {
                Some(asking) => asking.answer(outcome),
                None => tracing::debug!(id, "a reply that nobody waits for"),
            },
            Ok(Incoming::Closing) => self.link.closing.cancel(),
            Ok(Incoming::Rejection(to, reason, size)) => {
                match size.and_then(|it| link.take_of_size(it)) {
                    Some(asking) => asking.answer(Err(reason)),
                    None => {
                        let error = EndpointError::Rejected { to, reason };
                        let telling = async move {
                            let _in_hand = in_hand;
                            endpoint.tell(EndpointEvent::Error(error)).await;
                        };
                        self.messages.push_back(Box::pin(telling));
                    }
                }
            }
            Err(malformed) => {
                let refusing = refuse(endpoint, link, malformed, self.process_id());
                // The reason may be as long as the message.
                let telling = async move {
                    let _in_hand = in_hand;
                    refusing.await;
                };
                self.messages.push_back(Box::pin(telling));
            }
        }
    }

    /// A message was left out.
    fn too_large(&mut self, size: usize, max: usize) {
        let (endpoint, link) = (self.endpoint.clone(), self.link.clone());
        if self.to.is_some() {
            link.miss_reply(&format!(
                "a message of {size} bytes, which may have been the reply, is above the limit of {max} bytes"
            ));
        }
        let telling = reject(endpoint, link, size, max, self.process_id());
        self.messages.push_back(Box::pin(telling));
    }

    /// Of the other side, where the system tells.
    fn process_id(&self) -> Option<u32> {
        self.receiver.peer().ok()?.process_id
    }

    /// How many messages came and are not handled to the end.
    fn in_hand(&self) -> usize {
        self.messages.len() + self.requests.len()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.link.end(ENDED);
        let messages = self.in_hand();
        if messages > 0 {
            let endpoint = &self.endpoint.name;
            tracing::warn!(%endpoint, messages, "dropped while messages were being handled");
        }
    }
}

/// Waits for the first; for ever if there is none.
async fn first(messages: &mut VecDeque<BoxFuture<'static, ()>>) {
    match messages.front_mut() {
        Some(message) => message.await,
        None => pending().await,
    }
}

/// The next message, once there is room for it. To be polled after the handlers: those that wait
/// then make room.
async fn next(
    load: &Load,
    in_hand: usize,
    receiver: &mut PipeReceiver,
) -> Option<Result<BytesMut, Error>> {
    poll_fn(|cx| match load.has_room(in_hand) {
        true => receiver.poll_next_unpin(cx),
        false => Poll::Pending,
    })
    .await
}

/// Calls whoever is there for the message. The first one answers, if it is a request.
async fn handle(endpoint: Arc<Shared>, link: Arc<Link>, envelope: Envelope, message: InHand) {
    let handlers = endpoint.handlers().find(&envelope);
    let mut asked = envelope.id;
    let is_message = asked.is_none();
    if handlers.is_empty() {
        if endpoint.dropped.is_cancelled() {
            // The handlers are gone.
            return;
        }
        match asked {
            None => endpoint.tell(EndpointEvent::Message(envelope)).await,
            Some(id) => {
                let error = Err("there is no handler for it".into());
                answer(&endpoint, &link, &envelope.action, id, error).await;
            }
        }
        return;
    }
    let (action, from) = (envelope.action.clone(), envelope.from.clone());
    let (mut envelope, last) = (Some(envelope), handlers.len() - 1);
    for (n, handler) in handlers.into_iter().enumerate() {
        // The last one gets the only copy.
        let given = match n == last {
            true => envelope.take(),
            false => envelope.clone(),
        };
        let Some(given) = given else { return };
        // The handler itself is called in here too: it may panic before its first await.
        // So is the text of its error, for the same reason.
        let handling = handling::run(&message, is_message, async {
            let outcome = handler(given).await;
            let text = outcome.as_ref().err().map(|it| chain(&**it).to_string());
            (outcome, text)
        });
        let (outcome, text) = AssertUnwindSafe(handling)
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| {
                let text = panicked(&*panic);
                (Err(text.clone().into()), Some(text))
            });
        match (asked.take(), outcome) {
            (Some(id), outcome) => {
                let outcome = outcome.map_err(|_| text.unwrap_or_default());
                answer(&endpoint, &link, &action, id, outcome).await;
            }
            (None, Ok(_)) => {}
            (None, Err(source)) => {
                let error = EndpointError::Handler {
                    action: action.clone(),
                    from: from.clone(),
                    source,
                };
                endpoint.tell(EndpointEvent::Error(error)).await;
            }
        }
    }
}

/// Replies to a request.
async fn answer(
    endpoint: &Shared,
    link: &Link,
    action: &str,
    id: u64,
    outcome: Result<Value, String>,
) {
    let reply = |action, outcome: Result<&Value, &str>| {
        link.write(envelope::reply(&endpoint.name, action, id, outcome))
    };
    let outcome = outcome.and_then(|data| envelope::readable(&data).map(|()| data));
    let outcome = outcome.as_ref().map_err(String::as_str);
    let mut sent = reply(action, outcome).await;
    if let Err(error @ Error::MessageTooLarge { .. }) = sent {
        sent = reply(action, Err(&error.to_string())).await;
    }
    if let Err(Error::MessageTooLarge { .. }) = sent {
        // Not even that. Whoever asked does not wait in vain.
        sent = reply("", Err("the reply is above the limit")).await;
    }
    if let Err(error) = sent {
        let action = brief(action);
        tracing::warn!(endpoint = %endpoint.name, %action, %error, "cannot reply");
    }
}

/// Tells of a message that is not an envelope, and its sender too if it waits for a reply.
async fn refuse(
    endpoint: Arc<Shared>,
    link: Arc<Link>,
    malformed: Malformed,
    process_id: Option<u32>,
) {
    let Malformed { reason, id } = malformed;
    if let Some(id) = id {
        let error = format!("the message is not an envelope: {reason}");
        answer(&endpoint, &link, "", id, Err(error)).await;
    }
    let error = EndpointError::BadEnvelope { process_id, reason };
    endpoint.tell(EndpointEvent::Error(error)).await;
}

/// Tells of a message that was left out, and its sender too.
async fn reject(
    endpoint: Arc<Shared>,
    link: Arc<Link>,
    size: usize,
    max: usize,
    process_id: Option<u32>,
) {
    let text = Error::MessageTooLarge { size, max }.to_string();
    let rejection = envelope::rejection(&endpoint.name, size, &text);
    if let Err(error) = link.write(rejection).await {
        tracing::debug!(endpoint = %endpoint.name, %error, "cannot say that a message was left out");
    }
    let error = EndpointError::TooLarge {
        process_id,
        size,
        max,
    };
    endpoint.tell(EndpointEvent::Error(error)).await;
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("with no text"))
}
