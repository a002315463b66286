use std::future::poll_fn;
use std::sync::{Arc, Mutex};

use crate::sync::lock;
use crate::{Error, PipeConnection, PipeServer};

/// A server from which one task accepts and which another task can stop. Stopping frees the name at once,
/// and not only when the accepting task runs next.
#[derive(Clone, Debug)]
pub(crate) struct SharedServer(Arc<Mutex<PipeServer>>);

impl SharedServer {
    pub(crate) fn new(server: PipeServer) -> Self {
        SharedServer(Arc::new(Mutex::new(server)))
    }

    /// As [`PipeServer::accept`]. After an error, the caller begins the shutdown.
    pub(crate) async fn accept(&self) -> Result<PipeConnection, Error> {
        poll_fn(|cx| lock(&self.0).poll_client(cx)).await
    }

    /// Stops listening: from now on nobody can connect.
    pub(crate) fn stop_listening(&self) {
        lock(&self.0).stop_listening();
    }

    /// As [`stop_listening`](Self::stop_listening), and returns the clients that have connected and
    /// were not accepted yet.
    #[cfg(feature = "endpoint")]
    pub(crate) fn close(&self) -> Vec<PipeConnection> {
        lock(&self.0).close()
    }
}
