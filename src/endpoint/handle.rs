use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::envelope::Envelope;
use super::error::EndpointError;
use super::handlers::boxed_handler;
use super::link::{ENDPOINT_ENDED, Requester};
use super::load::Waiting;
use super::queue::{Item, Obstacle};
use super::shared::Shared;
use crate::sync::until;
use crate::{BoxError, PipeName, ShutdownHandle};

/// Sends to other programs by name, and sets the handlers of what comes from them. Needs the feature
/// `endpoint`. Any number of tasks can have one, handlers too.
///
/// It does not keep the [`Endpoint`](crate::Endpoint) alive.
#[derive(Clone, Debug)]
pub struct EndpointHandle(Arc<Shared>);

impl EndpointHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        EndpointHandle(shared)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// The endpoint's own name, as it was given: what the others find in
    /// [`from`](Envelope::from).
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The pipe on which the endpoint listens.
    pub fn pipe(&self) -> &PipeName {
        &self.0.pipe
    }

    /// Accepts a message for the program of this name, from where it goes out by itself: at once,
    /// or when the other side is there. What could not be delivered within `give_up_after` comes
    /// back as [`Event::Undelivered`](crate::endpoint::Event::Undelivered).
    ///
    /// Waits for room in the queue of this destination, for up to `give_up_after`. Those who wait get
    /// room in turn. A task that waits here does not read events meanwhile: if it has to, use
    /// [`try_send`](Self::try_send).
    ///
    /// A handler's own future has more room, up to
    /// [`handler_queue`](crate::endpoint::EndpointBuilder::handler_queue). If twice the `queue` waits
    /// already, it waits 5 ms at most for the queue to get shorter. If there is no room then, it gets an
    /// error. A task that a handler spawns waits like any other.
    ///
    /// `Ok` means that the endpoint has the message: what is still in its queue when the process ends is
    /// lost. [`flush`](Self::flush) waits until the system has it.
    ///
    /// The messages of one task to one name are delivered in the order of its calls. NaN and the
    /// infinities arrive as null.
    ///
    /// # Errors
    ///
    /// - [`EndpointError::QueueFull`]: there was no room in all that time; in a handler, there is none
    /// - [`EndpointError::Data`]: JSON has no place for the data
    /// - [`EndpointError::Pipe`]: the name breaks a rule, the message is above the limit, or the
    ///   endpoint is shut down
    ///
    /// After an error nothing was sent, and nothing will be.
    ///
    /// # Cancel safety
    ///
    /// If it is cancelled, the message was not accepted.
    pub async fn send(
        &self,
        to: &str,
        action: &str,
        data: impl Serialize,
    ) -> Result<(), EndpointError> {
        let item = self.item(action, data, None)?;
        self.0.enqueue(to, item).await.map(drop)
    }

    /// As [`send`](Self::send), and never waits. While others wait for room, there is none here.
    /// A handler has the same room for both.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn try_send(
        &self,
        to: &str,
        action: &str,
        data: impl Serialize,
    ) -> Result<(), EndpointError> {
        let item = self.item(action, data, None)?;
        self.0.try_enqueue(to, item)
    }

    /// Waits until each message that was accepted for this program before this call was taken by the
    /// system or given up. That takes `give_up_after` at most, as long as somebody reads the events.
    /// The other program need not have read them.
    ///
    /// After that, the process can end without losing those that the system has taken. Not so on
    /// Windows: the last write goes on in the background, and ends with the process. There, call
    /// [`shutdown`](Self::shutdown) and wait for
    /// [`Event::Closed`](crate::endpoint::Event::Closed): then they were read.
    ///
    /// A handler can wait here as it can for a reply.
    ///
    /// # Errors
    ///
    /// - [`EndpointError::NotSent`]: some were given up, or the endpoint has ended
    /// - [`EndpointError::Pipe`]: the name breaks a rule
    /// - [`EndpointError::TooManyWait`]: at once, in a handler
    ///
    /// # Cancel safety
    ///
    /// Cancelling changes nothing.
    pub async fn flush(&self, to: &str) -> Result<(), EndpointError> {
        let pipe = PipeName::new(to)?;
        let _waiting = Waiting::begin(to)?;
        self.0.flush(Some(&pipe)).await
    }

    /// As [`flush`](Self::flush), for all programs: the error is that of one of them, and comes when
    /// there is nothing left to wait for.
    ///
    /// # Errors
    ///
    /// The same.
    ///
    /// # Cancel safety
    ///
    /// The same.
    pub async fn flush_all(&self) -> Result<(), EndpointError> {
        let _waiting = Waiting::begin("anybody")?;
        self.0.flush(None).await
    }

    /// Sends a message and waits for what its handler there returns, for up to the endpoint's
    /// `request_timeout`. The reply is a [`Value`] of the crate `serde_json`; its `from_value` turns it
    /// into a type of the application's.
    ///
    /// It has its place in the queue among the messages to the same program. Once sent, it is not
    /// sent again: when the connection ends before the reply, that is an error.
    ///
    /// A handler may ask, too: see [`Endpoint`](crate::Endpoint#handlers-that-send-and-ask).
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), and
    ///
    /// - [`EndpointError::TooManyWait`]: at once, in a handler
    /// - [`EndpointError::Refused`]: the other side's handler failed, it has none for this, or the
    ///   message is above the limit there
    /// - [`EndpointError::NoReply`]: not within the time
    /// - [`EndpointError::Undelivered`]: `give_up_after` was over first, or the endpoint has ended
    /// - [`EndpointError::Unanswered`]: the other side left, this one ended, or the reply may have
    ///   been above the limit here; the request may have been handled
    ///
    /// # Cancel safety
    ///
    /// If it is cancelled, the request may have been sent or not. Its reply is thrown away.
    pub async fn request(
        &self,
        to: &str,
        action: &str,
        data: impl Serialize,
    ) -> Result<Value, EndpointError> {
        let timeout = self.0.options.request_timeout;
        self.request_within(timeout, to, action, data).await
    }

    /// As [`request`](Self::request), with a time of its own. [`Duration::MAX`] waits forever.
    ///
    /// # Errors
    ///
    /// The same.
    ///
    /// # Cancel safety
    ///
    /// The same.
    pub async fn request_within(
        &self,
        timeout: Duration,
        to: &str,
        action: &str,
        data: impl Serialize,
    ) -> Result<Value, EndpointError> {
        let started = Instant::now();
        let deadline = started.checked_add(timeout);
        let (reply, replied) = oneshot::channel();
        let requester = Requester {
            to: to.into(),
            action: action.into(),
            reply,
            deadline,
        };
        let item = self.item(action, data, Some(requester))?;
        let _waiting = Waiting::begin(to)?;
        let mut obstacle = None;
        let outcome = async {
            obstacle = Some(self.0.enqueue(to, item).await?);
            replied.await.unwrap_or_else(|_| {
                Err(EndpointError::Unanswered {
                    to: to.into(),
                    action: action.into(),
                    reason: ENDPOINT_ENDED.into(),
                })
            })
        };
        if let Some(outcome) = until(deadline, outcome).await {
            return outcome;
        }
        let reason = match &obstacle {
            None => Some("as many messages wait for it as may".into()),
            Some(obstacle) => Obstacle::get(obstacle),
        };
        Err(EndpointError::NoReply {
            to: to.into(),
            action: action.into(),
            waited: started.elapsed(),
            reason: reason.unwrap_or_else(|| "it has not answered".into()),
        })
    }

    /// Calls `handler` for every message with this action, in place of the one that was there for
    /// it before. As [`EndpointBuilder::on`](crate::endpoint::EndpointBuilder::on).
    ///
    /// Messages that come between `bind` and this call miss it: they are in the stream, and requests
    /// are refused. [`bind_with`](crate::endpoint::EndpointBuilder::bind_with) misses nothing.
    pub fn on<H, F, R>(&self, action: impl Into<String>, handler: H)
    where
        H: Fn(Envelope) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, BoxError>> + Send + 'static,
        R: Serialize,
    {
        let (action, handler) = (action.into(), boxed_handler(handler));
        // In two statements: in one, the lock would be held while the old handler is dropped.
        let replaced = self.0.handlers().on(action, handler);
        drop(replaced);
    }

    /// Calls `handler` for every message from the program of this name, in place of the one that
    /// was there for it before. As [`EndpointBuilder::on_from`](crate::endpoint::EndpointBuilder::on_from): it
    /// answers the requests that there is no handler of the action for.
    ///
    /// Messages that come between `bind` and this call miss it, as with [`on`](Self::on).
    pub fn on_from<H, F, R>(&self, name: impl Into<String>, handler: H)
    where
        H: Fn(Envelope) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, BoxError>> + Send + 'static,
        R: Serialize,
    {
        let (name, handler) = (name.into(), boxed_handler(handler));
        let replaced = self.0.handlers().on_from(name, handler);
        drop(replaced);
    }

    /// Shuts the endpoint down. Does not wait:
    /// [`Event::Closed`](crate::endpoint::Event::Closed) says when it is done.
    ///
    /// Nobody can connect any more, and nothing new can be sent. The connected programs are asked to send
    /// no more. What they have sent is handled, and what was accepted for sending goes out, for
    /// up to `drain_timeout`. Events tell what is left then. A program of another kind may not end its
    /// connection when it is asked to: the endpoint waits for it until then.
    pub fn shutdown(&self) {
        self.0.shutdown.shutdown();
    }

    /// Shuts the endpoint down, as [`shutdown`](Self::shutdown), tells whether it has been shut down, and
    /// waits for that. For code that should do no more with the endpoint, and for handlers that should end
    /// soon.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.0.shutdown.clone()
    }

    fn item(
        &self,
        action: &str,
        data: impl Serialize,
        requester: Option<Requester>,
    ) -> Result<Item, EndpointError> {
        let id = requester.is_some().then(|| self.0.next_id());
        let envelope = Envelope::new(&self.0.name, action, data, id)?;
        let frame = envelope.encode();
        self.0.options.codec.header(frame.len())?;
        Ok(Item {
            envelope,
            frame,
            requester,
        })
    }
}
