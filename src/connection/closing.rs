//! Closing, for byte streams and message connections alike.
//!
//! The peer may not be able to read before it has sent. So a closing end discards what the peer still
//! sends, once nobody reads it here, until the linger deadline at most.

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

/// How many reads a closing end makes per poll. Some systems give at most 4 KiB per read.
const DISCARDS: usize = 16;

/// What the closing task must know about the reading task.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Whether nobody will read what still arrives.
    unread: AtomicBool,
    /// Wakes the closing task when nobody will.
    closer: AtomicWaker,
}

impl Closing {
    /// From now on, a closing end discards what arrives.
    pub(crate) fn nobody_reads(&self) {
        self.unread.store(true, Release);
        self.closer.wake();
    }

    /// While closing: discards what is there if nobody reads it. The task is woken when more arrives,
    /// and when the reader goes away.
    pub(crate) fn poll_discard(&self, io: &sys::Stream, cx: &mut Context<'_>) {
        self.closer.register(cx.waker());
        if self.unread.load(Acquire) {
            discard(io, cx);
        }
    }

    /// Waits for `future`, which is a part of closing. Discards meanwhile.
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
        // An end that refused a message takes nothing more, so that the peer's close fails.
        if self.unread.load(Acquire) && !io.has_refused() {
            io.take_rest().await;
        }
        Ok(())
    }
}

/// The deadline for closing: the linger time, counted from the first wait.
#[derive(Debug, Default)]
pub(crate) struct Linger(Option<Deadline>);

impl Linger {
    /// Ready once `end` has waited for its linger time.
    pub(crate) fn poll(&mut self, end: &PipeEnd, cx: &mut Context<'_>) -> Poll<()> {
        let begin = || Deadline::after(end.linger, end.io.runtime());
        self.0.get_or_insert_with(begin).poll(cx)
    }

    /// Waits for `future`; `None` after the linger time of `end`.
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

/// Reads and discards what is there. The task is woken when more arrives.
fn discard(io: &sys::Stream, cx: &mut Context<'_>) {
    let mut scratch = Block::default();
    for _ in 0..DISCARDS {
        let is_ready = matches!(io.poll_read_ready(cx), Poll::Ready(Ok(())));
        let mut room = scratch.room(BLOCK);
        let read = match is_ready {
            true => io.try_read(&mut room),
            // Perhaps no thread drives the runtime that reports readiness.
            false => io.read_now(&mut room),
        };
        drop(room);
        match read {
            Ok(1..) => scratch.release(),
            Err(e) if is_ready && e.kind() == io::ErrorKind::WouldBlock => {}
            // Nothing is there, the stream has ended, or an error leaves nothing to wait for.
            Ok(0) | Err(_) => return,
        }
    }
    // However much arrives, the closing task gets its turn.
    cx.waker().wake_by_ref();
}
