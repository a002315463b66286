use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::brief::brief;
use super::envelope::Envelope;
use super::error::EndpointError;
use crate::error::chain;

/// How many events wait for the application. Each connection holds one more.
const CAPACITY: usize = 64;

/// How long an event waits for room before a warning is logged.
const SLOW_READER: Duration = Duration::from_secs(1);

/// What happens at an [`Endpoint`](super::Endpoint).
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The endpoint listens on its name. Comes first.
    Ready,
    /// A message that has no handler.
    Message(Envelope),
    /// A message that [`send`](super::EndpointHandle::send) accepted, and that was then given up.
    ///
    /// The system has not taken all of it, or has not said so in time. In the second case, which is
    /// rare, the other program may have received it all the same.
    #[non_exhaustive]
    Undelivered {
        /// The program that it was for.
        to: String,
        /// The message.
        envelope: Envelope,
        /// Why: [`EndpointError::Undelivered`].
        error: EndpointError,
    },
    /// Something went wrong, and the endpoint goes on.
    Error(EndpointError),
    /// The endpoint was shut down, and everything has ended. Comes last.
    Closed,
}

impl Event {
    /// What the log says of the event: its kind, and which program it is about.
    fn summary(&self) -> String {
        let message = |envelope: &Envelope| {
            let bytes = envelope.encode().len();
            format!("{:?} of {bytes} bytes", brief(&envelope.action))
        };
        match self {
            Event::Ready => "ready".into(),
            Event::Message(envelope) => {
                let from = brief(&envelope.from);
                format!("message {} from {from:?}", message(envelope))
            }
            Event::Undelivered { to, envelope, .. } => {
                let to = brief(to);
                format!("undelivered message {} to {to:?}", message(envelope))
            }
            Event::Error(error) => brief(&format!("error: {}", chain(error))).into(),
            Event::Closed => "closed".into(),
        }
    }
}

/// Gives events to the application.
#[derive(Debug)]
pub(super) struct EventSender {
    /// Whose events these are, for the log.
    endpoint: String,
    events: mpsc::Sender<Event>,
    /// Whether the warning that nobody reads them was logged.
    is_logged: AtomicBool,
}

impl EventSender {
    pub(super) fn new(endpoint: String) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(CAPACITY);
        let sender = EventSender {
            endpoint,
            events,
            is_logged: AtomicBool::new(false),
        };
        (sender, receiver)
    }

    /// Waits until there is room for the event.
    pub(super) async fn send(&self, event: Event) {
        let mut unsent = Unsent(self, Some(event));
        let mut reserving = pin!(self.events.reserve());
        let room = match timeout(SLOW_READER, &mut reserving).await {
            Ok(room) => room,
            Err(_) => {
                if !self.is_logged.swap(true, Relaxed) {
                    tracing::warn!(endpoint = %self.endpoint, "nobody reads the events: what comes waits, requests too");
                }
                reserving.await
            }
        };
        if let (Ok(room), Some(event)) = (room, unsent.1.take()) {
            room.send(event);
        }
    }

    /// The application has read all of them. If it stops reading again, that is logged again.
    pub(super) fn all_read(&self) {
        self.is_logged.store(false, Relaxed);
    }
}

/// An event on its way to the application. It is logged if it does not get there.
struct Unsent<'a>(&'a EventSender, Option<Event>);

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(event) = &self.1 {
            let event = event.summary();
            tracing::warn!(endpoint = %self.0.endpoint, %event, "dropped before it was read");
        }
    }
}
