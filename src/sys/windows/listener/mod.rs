//! The instances of one server: some wait for a client, the others have one.

mod instance;
mod options;
mod pending_instance;
mod pool;
mod security;
mod transient;

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::coop::poll_proceed;
use tokio_util::task::AbortOnDropHandle;
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_PIPE_BUSY};

use self::pool::Pool;
use super::stream::Stream;
use super::{connect, name};
use crate::sys::{Address, Limits, Lingering, PlatformError};

pub(super) use self::instance::Factory;
pub(crate) use self::options::{DEFAULT_WAIT, LONGEST_WAIT, ListenOptions};
pub(super) use self::pending_instance::{PendingInstance, new_event};
pub(super) use self::pool::Slot;
pub(super) use self::security::{CLIENT_RIGHTS, SecurityDescriptor};
pub(crate) use self::transient::is_transient;

pub(crate) struct Listener {
    pool: Arc<Pool>,
    pending: FuturesUnordered<PendingInstance>,
    /// Ends with the runtime in which the listener was bound.
    alive: AbortOnDropHandle<()>,
    lingering: Lingering,
}

impl Listener {
    pub(crate) fn bind(
        address: Address<'_>,
        limits: &Limits,
        options: &ListenOptions,
        lingering: Lingering,
    ) -> Result<Self, PlatformError> {
        let path = address.path;
        if !name::is_local(path) {
            let rule = r"a server listens on its own machine: \\.\pipe\NAME";
            return Err(PlatformError::InvalidName { rule });
        }
        options.transport.check()?;
        let failed = |e| PlatformError::io("cannot listen on", e);
        let security = match &options.security_descriptor {
            Some(sddl) => SecurityDescriptor::new(sddl)?,
            None => SecurityDescriptor::of(limits.access).map_err(failed)?,
        };
        let factory = Factory::new(path, options, security);
        let in_use = || PlatformError::AddressInUse {
            reason: "another server listens there",
        };
        let first =
            factory
                .create(true)
                .map_err(|e| match e.raw_os_error().map(|it| it as u32) {
                    // The pipe has all the instances that it may have: the system checks this first.
                    Some(ERROR_PIPE_BUSY) => in_use(),
                    // Clients that still hold their ends of a server that has gone cannot be the reason
                    // (Wine's dlls/ntdll/tests/pipe.c, `test_pipe_local_info`). But the system gives the
                    // same error for names that this user may not use.
                    Some(ERROR_ACCESS_DENIED) if connect::exists(path) => in_use(),
                    _ => failed(e),
                })?;
        let mut listener = Listener {
            pool: Arc::new(Pool::new(factory, limits, first)),
            pending: FuturesUnordered::new(),
            alive: AbortOnDropHandle::new(tokio::spawn(pending())),
            lingering,
        };
        // Makes all of them now: a server that may make only one instance could not replace it later.
        listener.top_up(None).map_err(failed)?;
        Ok(listener)
    }

    /// Waits for a client. Before the client's instance is handed out, another one waits for the next
    /// client, up to the limit.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        // Other tasks of the runtime get their turn, however fast clients come.
        let unit = ready!(poll_proceed(cx));
        // The pipes that are handed out use the reactor of that runtime. After this error, the layer
        // above does not call again.
        if Pin::new(&mut self.alive).poll(cx).is_ready() {
            let error = io::Error::other("the runtime in which it was bound has ended");
            return Poll::Ready(Err(error));
        }
        if let Err(error) = self.top_up(Some(cx.waker()))
            && self.pending.is_empty()
        {
            return Poll::Ready(Err(error));
        }
        let Poll::Ready(Some((instance, result))) = self.pending.poll_next_unpin(cx) else {
            return Poll::Pending;
        };
        unit.made_progress();
        let mut state = self.pool.lock();
        state.waiting -= 1;
        let slot = result.is_ok().then(|| {
            state.connected += 1;
            Slot(self.pool.clone())
        });
        drop(state);
        // Before this instance is handed out or dropped, so that the name never goes away.
        if let Err(error) = self.top_up(None) {
            tracing::warn!(%error, "cannot make the next pipe instance yet");
        }
        result?;
        let end = self.pool.factory.adopt(instance)?;
        Poll::Ready(Ok(Stream::server(end, slot, self.lingering.clone())))
    }

    /// Lets nobody connect any more. Returns the clients that have connected and were not accepted yet.
    #[cfg(feature = "endpoint")]
    pub(crate) fn close(mut self) -> Vec<Stream> {
        self.pool.close();
        let mut last = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            let (instance, result) = pending.stop();
            if let Ok(end) = result.and_then(|()| self.pool.factory.adopt(instance)) {
                self.pool.lock().connected += 1;
                let slot = Slot(self.pool.clone());
                last.push(Stream::server(end, Some(slot), self.lingering.clone()));
            }
        }
        last
    }

    /// Makes instances until enough of them wait for clients. With a `waker`, that task is woken when
    /// there is room for more.
    ///
    /// # Errors
    ///
    /// When an instance cannot be made or cannot wait. Those that wait already keep waiting.
    fn top_up(&mut self, waker: Option<&Waker>) -> io::Result<()> {
        // Cloned before the lock and dropped after it: both run the executor's code.
        let waiting = waker.cloned();
        let mut state = self.pool.lock();
        let mut before = None;
        if waiting.is_some() {
            before = std::mem::replace(&mut state.waker, waiting);
        }
        let mut result = Ok(());
        while state.waiting < self.pool.backlog
            && state.waiting + state.connected < self.pool.max_connections
        {
            // While there was no instance, somebody else may have taken the name.
            let first = waker.is_some() && state.waiting + state.connected == 0;
            match self.pool.factory.create(first) {
                Ok(instance) => state.fresh.push(instance),
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
            state.waiting += 1;
        }
        let fresh = std::mem::take(&mut state.fresh);
        drop(state);
        drop(before);
        for instance in fresh {
            match PendingInstance::new(instance) {
                Ok(pending) => self.pending.push(pending),
                Err(e) => {
                    self.pool.lock().waiting -= 1;
                    result = Err(e);
                }
            }
        }
        result
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.pool.lock();
        f.debug_struct("Listener")
            .field("waiting", &state.waiting)
            .field("connected", &state.connected)
            .finish_non_exhaustive()
    }
}
