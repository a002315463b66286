//! Closing, the same for a stream of bytes and for a connection of messages: the peer may be unable to
//! read before it has sent, so what it still sends is thrown away once nobody reads it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;

use crate::buffers::{BLOCK, Block};
use crate::{Error, PipeName, sys};

/// How often a closing end reads at a time. Some systems give 4 KiB to each.
const DISCARDS: usize = 16;

/// What the task that closes has to know of the one that reads.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Whether nobody will read what still comes.
    unread: AtomicBool,
    /// The task that closes, which is woken when nobody will.
    closer: AtomicWaker,
}

impl Closing {
    /// From now on, whoever closes throws away what comes.
    pub(crate) fn nobody_reads(&self) {
        self.unread.store(true, Release);
        self.closer.wake();
    }

    /// While closing: throws away what is there if nobody reads it, and wakes the task for what comes,
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
        // What was refused is not taken after all: the peer's close is to fail.
        if self.unread.load(Acquire) && !io.has_refused() {
            io.take_rest().await;
        }
        Ok(())
    }
}

/// Reads and throws away what is there, and has the task woken for what comes.
fn discard(io: &sys::Stream, cx: &mut Context<'_>) {
    let mut scratch = Block::default();
    for _ in 0..DISCARDS {
        let is_ready = matches!(io.poll_read_ready(cx), Poll::Ready(Ok(())));
        let mut room = scratch.room(BLOCK);
        let read = match is_ready {
            true => io.try_read(&mut room),
            // Also when nobody drives the runtime that would say so.
            false => io.read_now(&mut room),
        };
        drop(room);
        match read {
            Ok(1..) => scratch.rest(),
            Err(e) if is_ready && e.kind() == io::ErrorKind::WouldBlock => {}
            // Nothing, the end, or none that can be waited for.
            Ok(0) | Err(_) => return,
        }
    }
    // However much comes, whoever closes has its turn.
    cx.waker().wake_by_ref();
}

/// What closing says at its deadline.
pub(crate) fn timed_out(
    io: &sys::Stream,
    name: &PipeName,
    waited: Duration,
    rest_is_lost: bool,
) -> Error {
    Error::TimedOut {
        pipe: name.clone(),
        action: "closing",
        waited,
        reason: match (rest_is_lost, io.was_asked()) {
            (false, true) => "the peer has not read everything",
            (false, false) => {
                "the system could not be asked in time whether the peer has read everything"
            }
            (true, _) => "the system could not take everything, and the rest is lost",
        },
    }
}
