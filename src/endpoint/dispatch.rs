//! Handles one message: calls its handlers, answers it if it is a request, and reports what is wrong with it.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::Value;

use super::brief::brief;
use super::envelope::{self, Envelope, Malformed};
use super::error::EndpointError;
use super::event::Event;
use super::link::Link;
use super::load::{Permit, run_handler};
use super::shared::Shared;
use crate::Error;
use crate::error::chain;

/// Calls the handlers of the message. The first one answers, if it is a request.
pub(super) async fn handle(
    endpoint: Arc<Shared>,
    link: Arc<Link>,
    envelope: Envelope,
    permit: Permit,
) {
    let handlers = endpoint.handlers().find(&envelope);
    let mut unanswered = envelope.id;
    let is_message = unanswered.is_none();
    if handlers.is_empty() {
        if endpoint.life.is_dropped() {
            // The handlers were dropped with it.
            return;
        }
        match unanswered {
            None => endpoint.emit(Event::Message(envelope)).await,
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
        // The last handler gets the original, the others get copies.
        let given = match n == last {
            true => envelope.take(),
            false => envelope.clone(),
        };
        let Some(given) = given else { return };
        // The handler is called inside of the guarded future, because it may panic before its first await.
        // Its error is turned into text in here too, because that may panic as well.
        let handling = run_handler(&permit, is_message, async {
            let outcome = handler(given).await;
            let text = outcome.as_ref().err().map(|it| chain(&**it).to_string());
            (outcome, text)
        });
        let (outcome, text) = AssertUnwindSafe(handling)
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| {
                let text = panic_text(&*panic);
                (Err(text.clone().into()), Some(text))
            });
        match (unanswered.take(), outcome) {
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
                endpoint.emit(Event::Error(error)).await;
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
        // The refusal is too long as well, because of the action. The requester gets this one.
        sent = reply("", Err("the reply is above the limit")).await;
    }
    if let Err(error) = sent {
        let action = brief(action);
        tracing::warn!(endpoint = %endpoint.name, %action, %error, "cannot reply");
    }
}

/// Tells the application of a message that is not an envelope. If it is a request, tells its sender too.
pub(super) async fn refuse(
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
    endpoint.emit(Event::Error(error)).await;
}

/// Tells the application and the sender of a message that was left out because of its size.
pub(super) async fn reject(
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
    endpoint.emit(Event::Error(error)).await;
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("with no text"))
}
