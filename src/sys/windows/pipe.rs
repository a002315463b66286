//! One end of a pipe over this crate's own overlapped I/O: as messages that the system keeps apart,
//! or as bytes.

use std::fmt;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use windows_sys::Win32::Foundation::{
    ERROR_BROKEN_PIPE, ERROR_INVALID_PARAMETER, ERROR_MORE_DATA, ERROR_PIPE_NOT_CONNECTED,
    ERROR_SUCCESS,
};
use windows_sys::Win32::System::Pipes::{PIPE_READMODE_MESSAGE, SetNamedPipeHandleState};

use super::overlapped::{Buffer, Cancelling, File, Op};
use super::peek;
use crate::sync::lock;
use crate::sys::{Flushed, Received};

/// The least and the most room for the first read of a message. Between these, the read has as much room
/// as the last message needed. A second read takes the rest, into a buffer of exactly the right size.
const FIRST_READ: (usize, usize) = (4 << 10, 64 << 10);

/// As bytes: the largest read, and the largest write.
const LARGEST_READ: usize = 1 << 20;
const LARGEST_WRITE: usize = 256 << 10;

/// Messages up to this size are handed out in a buffer of their own, so that keeping one does not
/// keep the buffer that it was read into.
const COPY_OUT: usize = 1 << 10;

/// One end of a pipe. One operation reads ahead.
pub(super) struct Pipe {
    file: Arc<File>,
    reading: Mutex<Reading>,
    /// Whether the peer ends its direction with an empty message.
    empty_is_end: bool,
    /// Whether anything was written that the peer may not have read yet.
    unconfirmed: AtomicBool,
    /// The write in flight: never cancelled, and kept going when this end is dropped.
    writing: Mutex<Option<Arc<Op>>>,
}

struct Reading {
    op: Option<Cancelling>,
    /// As messages: the beginning of a message that has more to come, or an empty buffer to read into.
    /// As bytes: what has been read and not taken yet.
    buffer: BytesMut,
    /// As bytes: whether what was read last is the end of a message.
    whole: bool,
    /// The room for the next first read.
    expected: usize,
    /// As bytes: whether nothing more comes.
    ended: bool,
    /// Whether the peer has left. One that has ended its direction with an empty message still reads.
    left: bool,
}

impl Pipe {
    pub(super) fn new(handle: OwnedHandle, empty_is_end: bool) -> io::Result<Self> {
        let reading = Reading {
            op: None,
            buffer: BytesMut::new(),
            whole: false,
            expected: FIRST_READ.0,
            ended: false,
            left: false,
        };
        Ok(Pipe {
            file: File::new(handle)?,
            reading: Mutex::new(reading),
            empty_is_end,
            unconfirmed: AtomicBool::new(false),
            writing: Mutex::default(),
        })
    }

    /// Makes a client's end, which begins in byte mode, read messages.
    ///
    /// # Errors
    ///
    /// `Unsupported`, for ERROR_INVALID_PARAMETER, when the pipe is one of bytes.
    pub(super) fn set_message_mode(&self) -> io::Result<()> {
        let mode = PIPE_READMODE_MESSAGE;
        // SAFETY: the handle is open for as long as `self` is borrowed.
        let done = unsafe {
            SetNamedPipeHandleState(self.file.as_raw_handle(), &mode, null_mut(), null_mut())
        };
        match io::Error::last_os_error() {
            _ if done != 0 => Ok(()),
            e if e.raw_os_error() == Some(ERROR_INVALID_PARAMETER as i32) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, e))
            }
            e => Err(e),
        }
    }

    /// Waits for a message of at most `max` bytes. Nothing is lost when the caller stops waiting.
    pub(super) fn poll_recv(&self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Received>> {
        let mut reading = lock(&self.reading);
        if std::mem::take(&mut reading.whole) && !reading.buffer.is_empty() {
            // The rest of a message whose beginning was taken as bytes.
            let rest = std::mem::take(&mut reading.buffer);
            return Poll::Ready(Ok(Received::Message(rest)));
        }
        loop {
            let reading = &mut *reading;
            let op = reading.op.get_or_insert_with(|| {
                let mut buffer = std::mem::take(&mut reading.buffer);
                if buffer.spare_capacity_mut().is_empty() {
                    buffer.reserve(reading.expected);
                }
                Cancelling(Op::read(&self.file, buffer))
            });
            let (outcome, buffer) = ready!(op.0.poll(cx));
            reading.op = None;
            let Buffer::Read(mut message) = buffer else {
                unreachable!("a read has this buffer")
            };
            match outcome.error {
                ERROR_SUCCESS if message.is_empty() && self.empty_is_end => {
                    return Poll::Ready(Ok(Received::End));
                }
                ERROR_SUCCESS if message.len() > max => {
                    return Poll::Ready(Ok(Received::TooLarge(message.len())));
                }
                ERROR_SUCCESS => {
                    reading.expected = message
                        .len()
                        .next_power_of_two()
                        .clamp(FIRST_READ.0, FIRST_READ.1);
                    if message.len() <= COPY_OUT {
                        let copy = BytesMut::from(&message[..]);
                        message.clear();
                        if message.capacity() <= reading.expected {
                            reading.buffer = message;
                        }
                        message = copy;
                    }
                    return Poll::Ready(Ok(Received::Message(message)));
                }
                ERROR_MORE_DATA => {
                    // The system has the whole message already: its size is known, not just announced.
                    let Ok(rest) = self.rest_of_message() else {
                        reading.leave();
                        return Poll::Ready(Ok(Received::Truncated(message.len())));
                    };
                    let size = message.len() + rest;
                    if size > max {
                        return Poll::Ready(Ok(Received::TooLarge(size)));
                    }
                    // At least one byte, for the system to tell how the message ends.
                    message.reserve(rest.max(1));
                    reading.buffer = message;
                }
                // The peer has closed its end, or the server has disconnected this client.
                ERROR_BROKEN_PIPE | ERROR_PIPE_NOT_CONNECTED => {
                    reading.leave();
                    return Poll::Ready(Ok(match message.len() {
                        0 => Received::End,
                        received => Received::Truncated(received),
                    }));
                }
                error => return Poll::Ready(Err(io::Error::from_raw_os_error(error as i32))),
            }
        }
    }

    /// How much of the message that is being read has not been read yet.
    fn rest_of_message(&self) -> io::Result<usize> {
        Ok(peek::unread(self.file.as_handle())?.message as usize)
    }

    /// Begins to write `message` without copying it. Only after `poll_flush` was ready.
    pub(super) fn start_send(&self, message: Bytes) {
        self.unconfirmed.store(true, Relaxed);
        *lock(&self.writing) = Some(Op::write(&self.file, message));
    }

    /// Whether no write is in flight.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.writing).as_ref().is_none_or(|op| op.is_over())
    }

    /// Waits until the system has taken the whole message before, and gives that message back.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Flushed> {
        let mut writing = lock(&self.writing);
        let Some(op) = &*writing else {
            return Poll::Ready((Ok(()), None));
        };
        let (outcome, buffer) = ready!(op.poll(cx));
        *writing = None;
        let Buffer::Write(message) = buffer else {
            unreachable!("a write has this buffer")
        };
        let result = outcome.result().map(drop).map_err(closed);
        Poll::Ready((result, Some(message)))
    }
}

impl Pipe {
    /// Waits until there are bytes, or the end.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut reading = lock(&self.reading);
        let reading = &mut *reading;
        if reading.ended || (reading.op.is_none() && !reading.buffer.is_empty()) {
            return Poll::Ready(Ok(()));
        }
        let op = reading.op.get_or_insert_with(|| {
            let buffer = BytesMut::with_capacity(reading.expected);
            Cancelling(Op::read(&self.file, buffer))
        });
        let (outcome, buffer) = ready!(op.0.poll(cx));
        reading.op = None;
        let Buffer::Read(bytes) = buffer else {
            unreachable!("a read has this buffer")
        };
        match outcome.error {
            ERROR_SUCCESS if bytes.is_empty() && self.empty_is_end => reading.ended = true,
            ERROR_SUCCESS | ERROR_MORE_DATA => {
                // More room after a full read, less after one that filled less than a quarter.
                reading.expected = match bytes.len() {
                    n if n == bytes.capacity() => (bytes.capacity() * 4).min(LARGEST_READ),
                    n if n < bytes.capacity() / 4 => n.next_power_of_two().max(FIRST_READ.0),
                    _ => bytes.capacity(),
                };
                reading.buffer = bytes;
                reading.whole = outcome.error == ERROR_SUCCESS;
            }
            ERROR_BROKEN_PIPE | ERROR_PIPE_NOT_CONNECTED => reading.leave(),
            error => {
                reading.leave();
                return Poll::Ready(Err(io::Error::from_raw_os_error(error as i32)));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes bytes that are there; `Ok(0)` is the end, or a `buf` without room.
    pub(super) fn try_read(&self, buf: &mut impl BufMut) -> io::Result<usize> {
        let mut reading = lock(&self.reading);
        if reading.op.is_some() || (reading.buffer.is_empty() && !reading.ended) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = reading.buffer.len().min(buf.remaining_mut());
        buf.put_slice(&reading.buffer[..n]);
        reading.buffer.advance(n);
        if reading.buffer.is_empty() {
            reading.buffer = BytesMut::new();
        }
        Ok(n)
    }

    /// Waits until the write before is done, and begins another one with as much of `buf` as is
    /// reasonable to copy.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let (flushed, _) = ready!(self.poll_flush(cx));
        flushed?;
        let n = buf.len().min(LARGEST_WRITE);
        if n > 0 {
            self.start_send(Bytes::copy_from_slice(&buf[..n]));
        }
        Poll::Ready(Ok(n))
    }

    /// Whether anything was written that the peer may not have read yet.
    pub(super) fn unconfirmed(&self) -> &AtomicBool {
        &self.unconfirmed
    }

    /// Whether the peer has left.
    pub(super) fn has_left(&self) -> bool {
        lock(&self.reading).left
    }
}

impl Reading {
    /// The peer has left, or nothing more can be known of it.
    fn leave(&mut self) {
        self.ended = true;
        self.left = true;
    }
}

impl Drop for Pipe {
    /// A write in flight goes on. Until it is done, what the peer sends is read and thrown away.
    /// Otherwise two ends, dropped while each waits for the other to read, would wait forever.
    fn drop(&mut self) {
        let Some(op) = lock(&self.writing).take() else {
            return;
        };
        if !op.is_over() {
            let mut reading = lock(&self.reading);
            let reading = Reading {
                op: reading.op.take(),
                buffer: BytesMut::new(),
                whole: false,
                expected: FIRST_READ.1,
                // Reads on even after the end of the peer's direction.
                ended: reading.left,
                left: reading.left,
            };
            let rest = Pipe {
                file: self.file.clone(),
                reading: Mutex::new(reading),
                empty_is_end: false,
                unconfirmed: AtomicBool::new(true),
                writing: Mutex::new(Some(op)),
            };
            Arc::new(Lingering(Mutex::new(Some(rest)))).advance();
        }
    }
}

/// Keeps a dropped pipe until its last write is done. Runs on the system's threads, each time an
/// operation has completed.
struct Lingering(Mutex<Option<Pipe>>);

impl Lingering {
    fn advance(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        let mut cx = Context::from_waker(&waker);
        let mut slot = lock(&self.0);
        while let Some(pipe) = &*slot {
            if pipe.poll_flush(&mut cx).is_ready() {
                *slot = None;
            } else if pipe.has_left() || pipe.poll_read_ready(&mut cx).is_pending() {
                return;
            } else {
                lock(&pipe.reading).buffer = BytesMut::new();
            }
        }
    }
}

impl Wake for Lingering {
    fn wake(self: Arc<Self>) {
        self.advance();
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl AsHandle for Pipe {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.file.as_handle()
    }
}

/// Gives an error after a disconnect the same kind as one after a close. std has no kind for it.
pub(super) fn closed(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(ERROR_PIPE_NOT_CONNECTED as i32) {
        return io::Error::new(io::ErrorKind::BrokenPipe, error);
    }
    error
}
