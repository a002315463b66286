//! What the fuzzer needs of the read buffer, and is not public. Only in builds for fuzzing.

use bytes::{BufMut, BytesMut};

use super::{Frame, MessageCodec, ReadBuffer};
use crate::Error;

/// A receiver's buffer without its socket.
#[derive(Debug)]
pub struct Reading(ReadBuffer);

impl Reading {
    /// `skip`: a frame above the limit is reported and then skipped.
    pub fn new(max_message_size: usize, skip: bool, read_ahead: &[u8]) -> Self {
        let codec = MessageCodec::new(max_message_size);
        let mut buffer = ReadBuffer::new(codec, read_ahead.into());
        if skip {
            buffer.skip_too_large();
        }
        Reading(buffer)
    }

    /// Appends the next message to `buf`, or returns how many bytes its frame needs.
    ///
    /// # Errors
    ///
    /// The message is above the limit.
    pub fn next(&mut self, buf: &mut BytesMut, copy: bool) -> Result<Option<usize>, Error> {
        Ok(match self.0.next_frame()? {
            Frame::Complete(len) if copy => {
                self.0.copy_to(len, buf);
                None
            }
            Frame::Complete(len) => {
                buf.unsplit(self.0.take(len));
                None
            }
            Frame::Needs(needs) => {
                assert!(self.0.complete().is_none() && self.0.len() < needs);
                Some(needs)
            }
        })
    }

    /// Puts at most `most` bytes from the front of `bytes` into the buffer, and returns how many.
    pub fn fill(&mut self, needs: usize, bytes: &[u8], most: usize) -> usize {
        let filled = self.0.fill(needs, |room| {
            assert!(room.has_remaining_mut());
            let n = most.min(bytes.len()).min(room.remaining_mut());
            room.put_slice(&bytes[..n]);
            Ok(n)
        });
        filled.expect("nothing fails here")
    }

    /// There is nothing to read now.
    pub fn wait(&mut self) {
        self.0.wait();
    }

    /// What is left.
    pub fn take_all(&mut self) -> BytesMut {
        self.0.take_all()
    }
}
