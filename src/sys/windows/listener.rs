//! The instances of one server: some wait for a client, the others have one.

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::os::windows::io::OwnedHandle;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::coop::poll_proceed;
use tokio_util::task::AbortOnDropHandle;
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_PIPE_BUSY};

use super::connecting::Connecting;
use super::instance::{Factory, ListenOptions};
use super::lock;
use super::name;
use super::stream::Stream;
use super::wait;
use crate::sys::{Limits, Lingering};
use crate::{Error, InvalidName, PipeName};

/// How many instances wait for clients unless told otherwise.
const BACKLOG: u32 = 8;

pub(crate) struct Listener {
    pool: Arc<Pool>,
    connecting: FuturesUnordered<Connecting>,
    /// Ends with the runtime in which it was bound.
    alive: AbortOnDropHandle<()>,
    lingering: Lingering,
}

/// What the listener shares with the streams that it has handed out.
struct Pool {
    factory: Factory,
    backlog: usize,
    max_connections: usize,
    state: Mutex<State>,
}

struct State {
    /// No instance is made any more once the listener is gone.
    open: bool,
    /// Instances that have been handed out and not dropped yet.
    connected: usize,
    /// Instances that a client can connect to, or has connected to without being handed out.
    waiting: usize,
    /// Those of `waiting` that the listener has not taken over yet.
    fresh: Vec<OwnedHandle>,
    /// The task that waits in `poll_accept`.
    waker: Option<Waker>,
}

impl Listener {
    pub(crate) fn bind(
        name: &PipeName,
        limits: &Limits,
        options: &ListenOptions,
        lingering: Lingering,
    ) -> Result<Self, Error> {
        if !name::is_local(name.as_path()) {
            let rule = r"a server listens on its own machine: \\.\pipe\NAME";
            return Err(InvalidName::new(name.as_path().as_os_str(), rule).into());
        }
        let failed = |e: io::Error| Error::from_io("cannot listen on", name, e);
        let factory = Factory::new(name.as_path(), limits.access, options)?;
        let in_use = || Error::AddressInUse {
            pipe: name.clone(),
            reason: "another server listens there",
        };
        let first =
            factory
                .create(true)
                .map_err(|e| match e.raw_os_error().map(|it| it as u32) {
                    // The pipe has all the instances that it may have: the system checks this first.
                    Some(ERROR_PIPE_BUSY) => in_use(),
                    // Clients that still hold their ends of a server that has gone cannot be the reason
                    // (Wine's dlls/ntdll/tests/pipe.c, `test_pipe_local_info`). But the system says the
                    // same of names that this user may not use.
                    Some(ERROR_ACCESS_DENIED) if wait::exists(name.as_path()) => in_use(),
                    _ => failed(e),
                })?;
        let pool = Pool {
            factory,
            backlog: limits.backlog.unwrap_or(BACKLOG) as usize,
            max_connections: limits.max_connections,
            state: Mutex::new(State {
                open: true,
                connected: 0,
                waiting: 1,
                fresh: vec![first],
                waker: None,
            }),
        };
        let mut listener = Listener {
            pool: Arc::new(pool),
            connecting: FuturesUnordered::new(),
            alive: AbortOnDropHandle::new(tokio::spawn(pending())),
            lingering,
        };
        // All of them: a server that may make only one instance could not replace it later.
        listener.top_up(None).map_err(failed)?;
        Ok(listener)
    }

    /// Waits for a client. Another instance waits for the next one before this one is handed out,
    /// up to the limit.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        // However fast clients come, other tasks of the runtime run now and then.
        let unit = ready!(poll_proceed(cx));
        // Its reactor is that of the pipes which are handed out. Once ended, this is not called again.
        if Pin::new(&mut self.alive).poll(cx).is_ready() {
            let error = io::Error::other("the runtime in which it was bound has ended");
            return Poll::Ready(Err(error));
        }
        if let Err(error) = self.top_up(Some(cx.waker()))
            && self.connecting.is_empty()
        {
            return Poll::Ready(Err(error));
        }
        let Poll::Ready(Some((instance, result))) = self.connecting.poll_next_unpin(cx) else {
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
        // Before this instance is handed out, or dropped: the name never goes away.
        if let Err(error) = self.top_up(None) {
            tracing::warn!(%error, "cannot make the next pipe instance yet");
        }
        result?;
        let end = self.pool.factory.adopt(instance)?;
        Poll::Ready(Ok(Stream::server(end, slot, self.lingering.clone())))
    }

    /// Lets nobody connect any more, and gives those who have and were not accepted yet.
    #[cfg(feature = "endpoint")]
    pub(crate) fn close(mut self) -> Vec<Stream> {
        self.pool.close();
        let mut last = Vec::new();
        for connecting in std::mem::take(&mut self.connecting) {
            let (instance, result) = connecting.stop();
            if let Ok(end) = result.and_then(|()| self.pool.factory.adopt(instance)) {
                self.pool.lock().connected += 1;
                let slot = Slot(self.pool.clone());
                last.push(Stream::server(end, Some(slot), self.lingering.clone()));
            }
        }
        last
    }

    /// Sees to it that enough instances wait for clients. With a waker, that is the task which is
    /// called when there is room for more.
    ///
    /// # Errors
    ///
    /// When one that should wait cannot; those that wait will do for now.
    fn top_up(&mut self, waker: Option<&Waker>) -> io::Result<()> {
        // Cloned before the lock and dropped after it: both run code of whoever made the executor.
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
            // Without any instance, the name may have become somebody else's.
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
            match Connecting::new(instance) {
                Ok(connecting) => self.connecting.push(connecting),
                Err(e) => {
                    self.pool.lock().waiting -= 1;
                    result = Err(e);
                }
            }
        }
        result
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.fresh.clear();
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

/// The place of a connected instance among those of its server.
pub(super) struct Slot(Arc<Pool>);

impl Drop for Slot {
    /// When nobody waits for clients because the limit is reached, the successor is made here,
    /// while the old instance still exists: without any instance, the pipe's name would be gone
    /// for a moment, and clients would get "not found" instead of "busy".
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.connected -= 1;
        if !state.open || state.waiting > 0 {
            return;
        }
        let created = self.0.factory.create(false).map(|instance| {
            state.fresh.push(instance);
            state.waiting += 1;
        });
        let waker = state.waker.take();
        drop(state);
        if let Err(error) = created {
            // `poll_accept` will try again, and report it.
            tracing::warn!(%error, "cannot make the next pipe instance yet");
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
