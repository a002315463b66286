//! Ways to exchange messages between two ends, to be measured side by side, by the same work.
//!
//! - `contenders`: how each of them listens, connects and sends
//! - `work`: what is measured
//! - `server`: the other end, in a process of its own

mod contenders;
mod server;
mod work;

use std::future::Future;

use bytes::Bytes;
use futures::future::BoxFuture;

pub(crate) use contenders::*;
pub(crate) use server::*;
pub(crate) use work::*;

/// 16 MiB messages must fit; `Framed` takes up to 8 MiB unless it is told.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// A way to exchange messages.
pub(crate) trait Contender: 'static {
    const NAME: &'static str;
    type Listener: Send + 'static;

    /// Clients can connect when this returns. Called within a runtime.
    fn listen(path: &str) -> Self::Listener;

    /// Runs [`answer`] for every client, each in a task of its own.
    fn serve(listener: Self::Listener) -> impl Future<Output = ()> + Send;

    fn connect(path: String) -> impl Future<Output = impl Link> + Send;
}

/// One end of a connection. Whatever goes wrong panics: there is no figure then.
pub(crate) trait Link: Receiver {
    /// Takes a message, which need not go out yet.
    fn feed(&mut self, message: Bytes) -> impl Future<Output = ()> + Send;

    fn flush(&mut self) -> impl Future<Output = ()> + Send;

    fn send(&mut self, message: Bytes) -> impl Future<Output = ()> + Send {
        async {
            self.feed(message).await;
            self.flush().await;
        }
    }

    fn close(self) -> impl Future<Output = ()> + Send;
}

pub(crate) trait Receiver: Send + 'static {
    type Message: AsRef<[u8]> + Into<Bytes> + Send;

    /// The next message, or `None` when the other end has left.
    fn next(&mut self) -> impl Future<Output = Option<Self::Message>> + Send;
}

/// A contender whose messages can be sent by several tasks.
pub(crate) trait Sharing: Contender {
    /// Connects, and splits the connection.
    fn share(path: String) -> impl Future<Output = (impl Producer, impl Receiver)> + Send;
}

/// A sender that each task has a clone of.
pub(crate) trait Producer: Clone + Send + Sync + 'static {
    fn send(&self, message: Bytes) -> impl Future<Output = ()> + Send;
}

/// A contender without its types, to have them all in one list.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// Listens at once; the future answers clients for ever.
    pub(crate) serve: fn(&str) -> BoxFuture<'static, ()>,
    /// The client's side of a job.
    pub(crate) drive: fn(String, Job) -> BoxFuture<'static, Sample>,
    /// The same for [`Work::Producers`], where the contender can.
    pub(crate) produce: Option<fn(String, Job) -> BoxFuture<'static, Sample>>,
    /// The same for idle clients.
    pub(crate) idle: fn(String, Idle) -> BoxFuture<'static, Vec<u64>>,
}

impl Entry {
    pub(crate) fn of<C: Contender>() -> Self {
        Entry {
            name: C::NAME,
            serve: |path| Box::pin(C::serve(C::listen(path))),
            drive: |path, job| Box::pin(drive::<C>(path, job)),
            produce: None,
            idle: |path, idle| Box::pin(hold_idle_clients::<C>(path, idle)),
        }
    }

    pub(crate) fn sharing<C: Sharing>() -> Self {
        Entry {
            produce: Some(|path, job| Box::pin(produce::<C>(path, job))),
            ..Entry::of::<C>()
        }
    }

    pub(crate) fn run(&self, path: String, job: Job) -> BoxFuture<'static, Sample> {
        match (job.work, self.produce) {
            (Work::Producers(_), Some(produce)) => produce(path, job),
            _ => (self.drive)(path, job),
        }
    }
}

pub(crate) fn label(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..1_048_576 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}
