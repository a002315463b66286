use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// Shuts a server, a hub or an endpoint down from anywhere, and says whether that has happened. Cheap to
/// clone.
///
/// `shutdown_handle()` of a server, a hub or an endpoint returns one, and their `shutdown()` does the same as
/// [`shutdown`](Self::shutdown) of the handle. A handle keeps nothing alive.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), asyncipc::Error> {
/// use asyncipc::{PipeConnection, PipeServer};
///
/// let server = PipeServer::bind(format!("doc-shutdown-{}", std::process::id()))?;
/// let shutdown = server.shutdown_handle();
/// let serving = tokio::spawn(server.serve(async |_: PipeConnection| Ok(())));
/// shutdown.shutdown();
/// assert!(shutdown.is_shut_down());
/// assert_eq!(serving.await.unwrap()?.clients, 0);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ShutdownHandle(CancellationToken);

impl ShutdownHandle {
    pub(crate) fn new() -> Self {
        ShutdownHandle(CancellationToken::new())
    }

    /// Begins the shutdown, and does not wait for its end. A second call changes nothing.
    ///
    /// What happens then is described at [`PipeServer::shutdown`](crate::PipeServer::shutdown),
    /// [`HubHandle::shutdown`](crate::hub::HubHandle::shutdown), and `shutdown` of an endpoint's
    /// handle.
    pub fn shutdown(&self) {
        self.0.cancel();
    }

    /// Whether the shutdown has begun: by this handle, by another one, by the signal that
    /// [`Serve`](crate::Serve) was given, or because the server or hub has ended by itself.
    pub fn is_shut_down(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the shutdown begins; forever if it never does. It is for handlers that would otherwise
    /// wait for their clients until the drain deadline.
    ///
    /// # Cancel safety
    ///
    /// Can be cancelled and called again.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// As [`requested`](Self::requested), without borrowing.
    pub(crate) fn requested_owned(&self) -> WaitForCancellationFutureOwned {
        self.0.clone().cancelled_owned()
    }

    /// A guard that begins the shutdown when it is dropped.
    pub(crate) fn on_drop(&self) -> DropGuard {
        self.0.clone().drop_guard()
    }
}
