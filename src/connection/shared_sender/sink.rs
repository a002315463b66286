//! A shared sender as a sink.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_sink::Sink;
use tokio_util::sync::ReusableBoxFuture;

use super::{SharedSender, Wait};
use crate::Error;
use crate::turn::poll_spend;

impl SharedSender {
    fn poll_waiting(&mut self, what: Wait, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.sink.waiting.as_ref().is_none_or(|(it, _)| *it != what) {
            let queue = self.queue().clone();
            let waiting = async move {
                match what {
                    Wait::Room => queue.room().await,
                    Wait::Flush => queue.flushed().await,
                    Wait::Close => queue.close().await,
                }
            };
            self.sink.waiting = Some((what, ReusableBoxFuture::new(waiting)));
        }
        let Some((_, waiting)) = &mut self.sink.waiting else {
            return Poll::Pending;
        };
        let result = ready!(waiting.poll(cx));
        self.sink.waiting = None;
        Poll::Ready(result)
    }
}

impl Sink<Bytes> for SharedSender {
    type Error = Error;

    /// Waits for room, and reserves a place for this clone's next message.
    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        if !this.sink.has_place {
            // However many senders there are, other tasks of the runtime get to run.
            ready!(poll_spend(cx));
            if !this.queue().has_room()? {
                ready!(this.poll_waiting(Wait::Room, cx))?;
            }
            this.sink.has_place = true;
        }
        Poll::Ready(Ok(()))
    }

    /// As [`send`](SharedSender::send), in the place that `poll_ready` reserved. Without one, as
    /// [`try_send`](SharedSender::try_send).
    fn start_send(self: Pin<&mut Self>, mut message: Bytes) -> Result<(), Error> {
        let this = self.get_mut();
        // A flush that began earlier does not wait for this message.
        this.sink.waiting = None;
        let has_place = std::mem::take(&mut this.sink.has_place);
        match this.queue().try_push(&mut message, has_place)? {
            true => Ok(()),
            false => Err(this.queue().full()),
        }
    }

    /// As [`flush`](SharedSender::flush).
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_waiting(Wait::Flush, cx)
    }

    /// As [`close`](SharedSender::close).
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_waiting(Wait::Close, cx)
    }
}
