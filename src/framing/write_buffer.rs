//! The messages that were accepted for sending and that the system has not taken yet.

use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::HEADER;
use crate::buffers::{BLOCK, Block};

/// Messages up to this size are copied into the block that goes out in one write. Longer messages are
/// written from their own memory, without waiting for others.
const COPY_IN: usize = 4 << 10;

/// Where a write takes only one buffer, this much of a long message is copied behind the small ones before
/// it, so that they go out in one write.
const COALESCE: usize = 128 << 10;

/// Messages up to this size are copied at once. Messages up to [`COPY_IN`] are copied only when another
/// message comes behind them: a message that goes out alone is not copied.
const COPY_NOW: usize = 1 << 10;

/// The most of a message that is given to one write: some systems refuse more than 2 GiB.
const MOST_AT_ONCE: usize = 1 << 30;

/// When this much waits to go out, it is written before more is accepted.
const HIGH_WATER: usize = BLOCK - 2 * (COPY_IN + HEADER);

/// Frames on their way out: many small ones in one block, and behind them at most one payload in its own
/// memory. Where the system takes several buffers in one write, that payload is not copied.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    head: Block,
    payload: Bytes,
    spent: Spent,
    keeps_spent: bool,
}

/// Payloads that are done with, kept until the caller drops them.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    /// Nearly always the only one, so usually nothing is allocated.
    first: Option<Bytes>,
    more: Vec<Bytes>,
}

impl WriteBuffer {
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it must be written before it takes more.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.payload.len() > COPY_IN || self.head.len() >= HIGH_WATER
    }

    /// Appends a frame. Do not call it when the buffer is full. If the message was copied, it stays in
    /// `message`; otherwise `message` is empty afterwards.
    #[inline]
    pub(crate) fn push(&mut self, header: [u8; HEADER], message: &mut Bytes) {
        if !self.payload.is_empty() {
            self.head.push(&self.payload);
            self.retire_payload();
        }
        self.head.push(&header);
        if message.len() > COPY_NOW {
            self.payload = std::mem::take(message);
        } else {
            self.head.push(message);
        }
    }

    /// Retires the payload, and so releases the memory that it is a part of.
    fn retire_payload(&mut self) {
        let payload = std::mem::take(&mut self.payload);
        self.retire(payload);
    }

    /// Drops a payload that is done with, or keeps it if such payloads are kept.
    pub(crate) fn retire(&mut self, payload: Bytes) {
        if !self.keeps_spent {
            return;
        }
        match self.spent.first {
            None => self.spent.first = Some(payload),
            Some(_) => self.spent.more.push(payload),
        }
    }

    /// From now on, payloads that were written are kept for [`take_spent`](Self::take_spent).
    pub(crate) fn keep_spent(&mut self) {
        self.keeps_spent = true;
    }

    /// Takes the payloads that are done with. Drop them where no lock is held: dropping them may run the
    /// application's code.
    pub(crate) fn take_spent(&mut self) -> Spent {
        std::mem::take(&mut self.spent)
    }

    /// The next bytes to write, for a write that takes several buffers. The second one may be empty.
    pub(crate) fn slices(&self) -> [IoSlice<'_>; 2] {
        [
            IoSlice::new(self.head.as_slice()),
            IoSlice::new(&self.payload[..self.payload.len().min(MOST_AT_ONCE)]),
        ]
    }

    /// The system has taken `n` bytes.
    pub(crate) fn advance(&mut self, n: usize) {
        let head = n.min(self.head.len());
        self.head.advance(head);
        self.payload.advance(n - head);
        if head < n && self.payload.is_empty() {
            self.retire_payload();
        }
    }

    /// Copies the beginning of the payload behind the small frames, so that one write takes both: for a
    /// system that takes one buffer at a time.
    pub(crate) fn coalesce(&mut self) {
        let head = self.head.len();
        if head > 0 && head < COALESCE {
            let n = self.payload.len().min(COALESCE - head);
            self.head.push(&self.payload[..n]);
            self.payload.advance(n);
            if n > 0 && self.payload.is_empty() {
                self.retire_payload();
            }
        }
    }

    /// Takes the next bytes to write as one buffer, for a system that keeps the buffer until it is written.
    pub(crate) fn take(&mut self) -> Bytes {
        // A copy costs less here than a second write.
        if self.len() <= COALESCE {
            self.coalesce();
        }
        match self.head.len() {
            0 => std::mem::take(&mut self.payload),
            1..=COPY_IN => {
                let bytes = Bytes::copy_from_slice(self.head.as_slice());
                self.head.advance(bytes.len());
                bytes
            }
            _ => self.head.take(),
        }
    }

    /// Gives the block's memory back if the buffer is empty.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            self.head.release();
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.head.release();
        if !self.payload.is_empty() {
            self.retire_payload();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use tokio_util::codec::{Encoder, LengthDelimitedCodec};

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize, u8),
        /// A vectored write that takes at most this much.
        Write(usize),
        /// A write of one buffer that takes at most this much.
        WriteFirst(usize),
        /// A write that owns its buffer.
        Take,
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        let len = prop_oneof![0usize..200, 900usize..6000, 60_000usize..200_000];
        prop_oneof![
            6 => (len, any::<u8>()).prop_map(|(len, byte)| Step::Push(len, byte)),
            2 => (1usize..300_000).prop_map(Step::Write),
            2 => (1usize..300_000).prop_map(Step::WriteFirst),
            1 => Just(Step::Take),
            1 => Just(Step::Release),
        ]
    }

    /// Writes at most `most` bytes of these slices.
    fn write(buffer: &mut WriteBuffer, slices: usize, most: usize, wire: &mut BytesMut) {
        let before = wire.len();
        for slice in &buffer.slices()[..slices] {
            let n = slice.len().min(most - (wire.len() - before));
            wire.extend_from_slice(&slice[..n]);
        }
        buffer.advance(wire.len() - before);
    }

    proptest! {
        #[test]
        fn what_goes_out_is_what_length_delimited_codec_encodes_however_writes_are_cut(
            steps in prop::collection::vec(step(), 0..60)
        ) {
            let (mut buffer, mut ours) = (WriteBuffer::default(), BytesMut::new());
            let (mut codec, mut theirs) = (LengthDelimitedCodec::new(), BytesMut::new());
            for step in steps {
                match step {
                    Step::Push(len, byte) => {
                        while buffer.is_full() {
                            write(&mut buffer, 2, 50_000, &mut ours);
                        }
                        let message = Bytes::from(vec![byte; len]);
                        buffer.push((len as u32).to_be_bytes(), &mut message.clone());
                        codec.encode(message, &mut theirs).unwrap();
                    }
                    Step::Write(most) => write(&mut buffer, 2, most, &mut ours),
                    Step::WriteFirst(most) => {
                        buffer.coalesce();
                        write(&mut buffer, 1, most, &mut ours);
                    }
                    Step::Take => ours.extend_from_slice(&buffer.take()),
                    Step::Release => buffer.release(),
                }
                prop_assert_eq!(ours.len() + buffer.len(), theirs.len());
            }
            while !buffer.is_empty() {
                ours.extend_from_slice(&buffer.take());
            }
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn a_long_message_goes_out_from_where_it_is() {
        let (mut buffer, message) = (WriteBuffer::default(), Bytes::from(vec![1; 5000]));
        buffer.push(5000_u32.to_be_bytes(), &mut message.clone());
        assert_eq!(buffer.slices()[1].as_ptr(), message.as_ptr());
        assert!(buffer.is_full());
    }

    #[test]
    fn a_buffer_that_has_sent_everything_keeps_no_message_and_no_memory() {
        let (mut buffer, message) = (WriteBuffer::default(), Bytes::from(vec![1; 5000]));
        buffer.push(5000_u32.to_be_bytes(), &mut message.clone());
        buffer.advance(HEADER + 5000);
        buffer.release();
        assert!(message.is_unique());
        assert!(buffer.is_empty());
    }
}
