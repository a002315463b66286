//! Connections that are used elsewhere than in the runtime in which they were made.
//!
//! What tokio's own sockets pass, connections have to pass: where it exists, the same test is done
//! with one of them.

#[path = "../common/mod.rs"]
mod common;

mod elsewhere;
mod ended;
mod executors;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use asyncipc::PipeConnection;
use common::{PATIENCE, pair};
use tokio::runtime::{Builder, Runtime};

/// More than a pipe holds and less than would be written at once.
const LARGE: usize = 4 << 20;

fn with_threads() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Goes on only while somebody blocks on it.
fn of_one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// An executor that is not tokio's, and has no timers.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

/// Fails when the thread hangs.
#[track_caller]
fn finishes<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || done.send(what()));
    match result.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("hung for {PATIENCE:?}"),
        Err(_) => panic!("panicked: {:?}", thread.join().map(drop)),
    }
}

/// So many connections that further ones are not watched for writing from the beginning.
async fn many() -> Vec<(PipeConnection, PipeConnection)> {
    let processors = thread::available_parallelism()
        .map_or(4, usize::from)
        .max(4);
    let mut held = vec![];
    for _ in 0..=processors {
        held.push(pair().await);
    }
    held
}

/// Polls once, in `runtime`.
fn poll_once_in<F: Future + Unpin>(runtime: &Runtime, future: &mut F) -> Option<F::Output> {
    runtime.block_on(async {
        futures::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    })
}
