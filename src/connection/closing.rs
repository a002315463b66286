//! Closing, the same for a stream of bytes and for a connection of messages.
//!
//! The peer may be unable to read before it has sent. So a closing end throws away what the peer still
//! sends, once nobody reads it here. It does so until the linger deadline at most.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::pipe_end::PipeEnd;
use crate::buffers::{BLOCK, Block};
use crate::sync::Deadline;
use crate::sys;

/// How often a closing end reads at a time. Some systems give 4 KiB to each read.
const DISCARDS: usize = 16;

/// What the task that closes has to know of the one that reads.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Whether nobody will read what still comes.
    unread: AtomicBool,
    /// Wakes the task that closes when nobody will.
    closer: AtomicWaker,
}

impl Closing {
    /// From now on, a closing end throws away what comes.
    pub(crate) fn nobody_reads(&self) {
        self.unread.store(true, Release);
        self.closer.wake();
    }

    /// While closing: throws away what is there if nobody reads it. The task is woken when more comes,
    /// and when the reader goes.
    pub(crate) fn poll_discard(&self, io: &sys::Stream, cx: &mut Context<'_>) {
        self.closer.register(cx.waker());
        if self.unread.load(Acquire) {
            discard(io, cx);
        }
    }

    /// Waits for `future`, which is a part of closing.
    pub(crate) async fn discarding<F: Future>(&self, io: &sys::Stream, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let output = future.as_mut().poll(cx);
            if output.is_pending() {
                self.poll_discard(io, cx);
            }
            output
        })
        .await
    }

    /// Waits until the peer has taken everything.
    pub(crate) async fn drained(&self, io: &sys::Stream) -> io::Result<()> {
        io.drained().await?;
        // An end that has refused a message takes nothing more: the peer's close is to fail.
        if self.unread.load(Acquire) && !io.has_refused() {
            io.take_rest().await;
        }
        Ok(())
    }
}

/// The deadline of closing: the linger time, from the first wait on.
#[derive(Debug, Default)]
pub(crate) struct Linger(Option<Deadline>);

impl Linger {
    /// Ready once `end` has waited for its linger time.
    pub(crate) fn poll(&mut self, end: &PipeEnd, cx: &mut Context<'_>) -> Poll<()> {
        let begin = || Deadline::after(end.linger, end.io.runtime());
        self.0.get_or_insert_with(begin).poll(cx)
    }

    /// Waits for `future`, for the linger time of `end` at most: then `None`.
    pub(crate) async fn limit<F: Future>(end: &PipeEnd, future: F) -> Option<F::Output> {
        let mut linger = Linger::default();
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => linger.poll(end, cx).map(|()| None),
        })
        .await
    }
}

/// Reads and throws away what is there. The task is woken when more comes.
fn discard(io: &sys::Stream, cx: &mut Context<'_>) {
    let mut scratch = Block::default();
    for _ in 0..DISCARDS {
        let is_ready = matches!(io.poll_read_ready(cx), Poll::Ready(Ok(())));
        let mut room = scratch.room(BLOCK);
        let read = match is_ready {
            true => io.try_read(&mut room),
            // The runtime that reports readiness may have nobody to drive it.
            false => io.read_now(&mut room),
        };
        drop(room);
        match read {
            Ok(1..) => scratch.release(),
            Err(e) if is_ready && e.kind() == io::ErrorKind::WouldBlock => {}
            // Nothing is there, or it is the end, or an error for which there is nothing to wait.
            Ok(0) | Err(_) => return,
        }
    }
    // However much comes, the task that closes has its turn.
    cx.waker().wake_by_ref();
}
