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

    fn connect(path: &str) -> impl Future<Output = impl Link> + Send;
}

/// One end of a connection. Whatever goes wrong panics: there is no figure then.
pub(crate) trait Link: Send + 'static {
    type Message: AsRef<[u8]> + Into<Bytes> + Send;

    /// Takes a message, which need not go out yet.
    fn feed(&mut self, message: Bytes) -> impl Future<Output = ()> + Send;

    fn flush(&mut self) -> impl Future<Output = ()> + Send;

    fn send(&mut self, message: Bytes) -> impl Future<Output = ()> + Send {
        async {
            self.feed(message).await;
            self.flush().await;
        }
    }

    /// The next message, or `None` when the other end has left.
    fn next(&mut self) -> impl Future<Output = Option<Self::Message>> + Send;

    fn close(self) -> impl Future<Output = ()> + Send;
}

/// A contender without its types, to have them all in one list.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// Listens at once; the future answers clients for ever.
    pub(crate) serve: fn(&str) -> BoxFuture<'static, ()>,
    /// Connects, and does the job once to warm up and once with a stopwatch.
    pub(crate) drive: fn(String, Job) -> BoxFuture<'static, Sample>,
}

impl Entry {
    pub(crate) fn of<C: Contender>() -> Self {
        Entry {
            name: C::NAME,
            serve: |path| Box::pin(C::serve(C::listen(path))),
            drive: |path, job| Box::pin(drive::<C>(path, job)),
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
