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

/// Sends to other programs by name, and sets the handlers for what they send. Any number of tasks can have
/// one, and so can handlers.
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

    /// The endpoint's own name, as it was given. Other programs see it in [`from`](Envelope::from).
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The pipe on which the endpoint listens.
    pub fn pipe(&self) -> &PipeName {
        &self.0.pipe
    }

    /// Puts a message into the queue for the program of this name. From there it goes out by itself: at
    /// once, or when the other program is there. A message that could not be delivered within
    /// `give_up_after` comes back as [`Event::Undelivered`](crate::endpoint::Event::Undelivered).
    ///
    /// Waits for room in that queue, for up to `give_up_after`. Those who wait get room in turn. While a task
    /// waits here, it reads no events: if it must read them, use [`try_send`](Self::try_send).
    ///
    /// A handler's own future has more room, up to
    /// [`handler_queue`](crate::endpoint::EndpointBuilder::handler_queue). If twice as many messages as the
    /// `queue` holds wait already, it waits 5 ms at most for the queue to get shorter. If there is no room
    /// then, it gets an error. A task that a handler spawns waits like any other.
    ///
    /// `Ok` means that the endpoint has the message: what is still in the queue when the process ends is
    /// lost. [`flush`](Self::flush) waits until the system has it.
    ///
    /// The messages of one task to one name are delivered in the order of its calls. NaN and the
    /// infinities arrive as null.
    ///
    /// # Errors
    ///
    /// - [`EndpointError::QueueFull`]: there was no room in all that time; in a handler, there is none
    /// - [`EndpointError::Data`]: JSON cannot represent the data
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

    /// As [`send`](Self::send), but never waits. While others wait for room, this finds none.
    /// A handler has as much room here as in `send`.
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
    /// system or given up. That takes `give_up_after` at most, as long as the application reads the events.
    /// The other program need not have read the messages.
    ///
    /// After that, the process can end without losing those that the system has taken. On Windows it
    /// cannot: the last write goes on in the background, and ends with the process. There, call
    /// [`shutdown`](Self::shutdown) and wait for
    /// [`Event::Closed`](crate::endpoint::Event::Closed): then the messages were read.
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

    /// As [`flush`](Self::flush), for all programs. Waits for all of them, and then returns the error of
    /// one of them, if there is one.
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

    /// Sends a message and waits for what the other program's handler returns, for up to the endpoint's
    /// `request_timeout`. The reply is a [`Value`] of the crate `serde_json`; its `from_value` turns it
    /// into a type of the application's.
    ///
    /// The request waits in the same queue as messages to the same program. Once sent, it is not
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
    /// - [`EndpointError::NoReply`]: there was no reply in time
    /// - [`EndpointError::Undelivered`]: `give_up_after` was over first, or the endpoint has ended
    /// - [`EndpointError::Unanswered`]: the other side left, this one ended, or the reply may have
    ///   been above the limit here; the request may have been handled
    ///
    /// # Cancel safety
    ///
    /// If it is cancelled, the request may or may not have been sent. Its reply is thrown away.
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

    /// Calls `handler` for every message with this action, as
    /// [`EndpointBuilder::on`](crate::endpoint::EndpointBuilder::on). It replaces the handler that was set
    /// for this action before.
    ///
    /// Messages that arrive between `bind` and this call miss the handler: they are events, and requests
    /// are refused. With [`bind_with`](crate::endpoint::EndpointBuilder::bind_with), none is missed.
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

    /// Calls `handler` for every message from the program of this name, as
    /// [`EndpointBuilder::on_from`](crate::endpoint::EndpointBuilder::on_from). It replaces the handler that
    /// was set for this name before. It answers those requests whose action has no handler.
    ///
    /// Messages that arrive between `bind` and this call miss the handler, as with [`on`](Self::on).
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
    /// up to `drain_timeout`. Events say what is left after that. A program that is not an endpoint of this
    /// crate may not end its connection when it is asked to: the endpoint waits for it until the timeout.
    pub fn shutdown(&self) {
        self.0.shutdown.shutdown();
    }

    /// A handle that shuts the endpoint down, as [`shutdown`](Self::shutdown), says whether it has been shut
    /// down, and waits for that. It is for code that needs nothing else of the endpoint, and for handlers
    /// that should end soon after a shutdown.
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
