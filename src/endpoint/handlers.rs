use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;

use super::envelope::Envelope;
use crate::BoxError;

pub(super) type Handler =
    Arc<dyn Fn(Envelope) -> BoxFuture<'static, Result<Value, BoxError>> + Send + Sync>;

/// The handlers of an endpoint.
#[derive(Clone, Default)]
pub(super) struct Handlers {
    by_action: HashMap<String, Handler>,
    by_sender: HashMap<String, Handler>,
}

impl Handlers {
    /// Returns the handler that it replaces. Drop that handler where no lock is held, because dropping it
    /// runs the application's code.
    pub(super) fn on(&mut self, action: String, handler: Handler) -> Option<Handler> {
        self.by_action.insert(action, handler)
    }

    /// As [`on`](Self::on).
    pub(super) fn on_from(&mut self, name: String, handler: Handler) -> Option<Handler> {
        self.by_sender.insert(name, handler)
    }

    /// The handlers for this message, the one for its action first.
    pub(super) fn find(&self, envelope: &Envelope) -> Vec<Handler> {
        let by_action = self.by_action.get(&envelope.action);
        let by_sender = self.by_sender.get(&envelope.from);
        by_action.into_iter().chain(by_sender).cloned().collect()
    }
}

/// Turns a handler of any type into a [`Handler`].
pub(super) fn boxed_handler<H, F, R>(handler: H) -> Handler
where
    H: Fn(Envelope) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R, BoxError>> + Send + 'static,
    R: Serialize,
{
    Arc::new(move |envelope| {
        let handling = handler(envelope);
        async move { Ok(serde_json::to_value(handling.await?)?) }.boxed()
    })
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers")
            .field("actions", &self.by_action.keys())
            .field("senders", &self.by_sender.keys())
            .finish()
    }
}
