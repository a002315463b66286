//! The bytes that were read and not handed out yet.

use std::io;

use bytes::{Buf, BufMut, BytesMut};

use super::{HEADER, MessageCodec, Progress};
use crate::Error;
use crate::buffers::{BLOCK, Block};

/// Frames up to this length are read many at a time, and copied out of the block.
const COPY_OUT: usize = 16 << 10;

/// After a wait, when the next message probably comes alone, frames up to this length are copied out.
const ALONE: usize = 1 << 10;

/// The most room that is made in advance because the last frame was as long.
const EXPECTED: usize = HEADER + (1 << 20);

/// Bytes that were read, and which message they complete.
///
/// Small frames gather in a block, which belongs to the thread and is given back when it is empty.
/// A long frame gets a buffer of its own, and that buffer becomes the message: no copy is made, and
/// the message keeps no more memory than it needs. At most one of the two has bytes in it.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    codec: MessageCodec,
    block: Block,
    /// The beginning of one long frame.
    frame: BytesMut,
    /// How long the next frame will be, if it is as long as the one before it.
    expected: usize,
    /// Whether the next message is the first one after a wait: then it probably comes alone.
    waited: bool,
    too_large: TooLarge,
}

/// What is done with a frame above the limit.
#[derive(Debug)]
enum TooLarge {
    /// It stays at the front.
    Stays,
    /// It is skipped. This many bytes of it are still to come, and nothing is buffered until they have
    /// come.
    Skipped(usize),
}

impl ReadBuffer {
    /// `read_ahead`: the bytes that were read already.
    pub(crate) fn new(codec: MessageCodec, read_ahead: BytesMut) -> Self {
        ReadBuffer {
            codec,
            block: Block::default(),
            frame: read_ahead,
            expected: 0,
            waited: false,
            too_large: TooLarge::Stays,
        }
    }

    /// Takes everything, as it was read.
    pub(crate) fn take_all(&mut self) -> BytesMut {
        let mut bytes = std::mem::take(&mut self.frame);
        bytes.extend_from_slice(self.block.as_slice());
        self.block.release();
        bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        if self.frame.is_empty() {
            self.block.as_slice()
        } else {
            &self.frame
        }
    }

    pub(crate) fn max_message_size(&self) -> usize {
        self.codec.max_message_size()
    }

    /// From now on, a frame above the limit is reported and then skipped.
    #[cfg(any(feature = "endpoint", test, fuzzing))]
    pub(crate) fn skip_too_large(&mut self) {
        if let TooLarge::Stays = self.too_large {
            self.too_large = TooLarge::Skipped(0);
        }
    }

    /// Whether reading goes on behind a frame above the limit.
    pub(crate) fn skips_too_large(&self) -> bool {
        matches!(self.too_large, TooLarge::Skipped(_))
    }

    /// The length of the message at the front, if all of it is there. This is nearly free, and often enough:
    /// most small messages were read together with the one before them.
    #[inline]
    pub(crate) fn complete(&self) -> Option<usize> {
        match self.codec.progress(self.bytes()) {
            Progress::Complete(len) => Some(len),
            _ => None,
        }
    }

    /// The length of the message at the front if all of it is there. Otherwise, how many bytes its frame
    /// needs: the buffered ones, and those that [`fill`](Self::fill) has to add.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`]: once for a frame that is skipped, and every time for one that is not.
    pub(crate) fn next_frame(&mut self) -> Result<Frame, Error> {
        if let TooLarge::Skipped(left @ 1..) = self.too_large {
            self.skip(left);
        }
        match self.codec.progress(self.bytes()) {
            Progress::Complete(len) => Ok(Frame::Complete(len)),
            Progress::Needs(needs) => Ok(Frame::Needs(needs)),
            Progress::TooLarge(len) => {
                if self.skips_too_large() {
                    self.advance(HEADER);
                    self.skip(len);
                }
                Err(self.codec.too_large(len))
            }
        }
    }

    /// Takes the message at the front, of which `len` bytes of payload are there.
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> BytesMut {
        self.expected = HEADER + len;
        if !self.frame.is_empty() {
            return self.take_frame(len);
        }
        let message = BytesMut::from(&self.block.as_slice()[HEADER..HEADER + len]);
        self.block.advance(HEADER + len);
        message
    }

    fn take_frame(&mut self, len: usize) -> BytesMut {
        let whole = HEADER + len;
        if self.frame.len() == whole && self.frame.capacity() <= 2 * whole + ALONE {
            self.frame.advance(HEADER);
            return std::mem::take(&mut self.frame);
        }
        // The buffer has more than this frame in it, or is far larger than the frame.
        let message = BytesMut::from(&self.frame[HEADER..whole]);
        self.advance(whole);
        message
    }

    /// As [`take`](Self::take), into a buffer of the caller's.
    pub(crate) fn copy_to(&mut self, len: usize, buf: &mut BytesMut) {
        buf.extend_from_slice(&self.bytes()[HEADER..HEADER + len]);
        self.advance(HEADER + len);
        // Messages that are copied need no buffers of their own.
        self.expected = 0;
    }

    /// Drops `n` bytes from the front.
    fn advance(&mut self, n: usize) {
        if self.frame.is_empty() {
            self.block.advance(n);
            return;
        }
        self.frame.advance(n);
        if self.frame.len() <= BLOCK {
            self.block.push(&std::mem::take(&mut self.frame));
        }
    }

    /// Drops those of the next `left` bytes that are there, and remembers how many are still to come.
    fn skip(&mut self, left: usize) {
        let there = left.min(self.len());
        self.advance(there);
        self.too_large = TooLarge::Skipped(left - there);
        self.expected = 0;
    }

    /// Calls `read` once to append bytes to those that are there, towards the `needs` bytes of the frame at
    /// the front. Returns what `read` returns.
    ///
    /// Memory is allocated for what a peer has sent, not for what it announces.
    pub(crate) fn fill(
        &mut self,
        needs: usize,
        read: impl FnOnce(&mut dyn BufMut) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.frame.is_empty() {
            let expected = self.expected.min(EXPECTED);
            let large = expected > COPY_OUT;
            if self.block.is_empty() {
                if std::mem::take(&mut self.waited) && expected > ALONE {
                    // What comes is probably one frame, as long as the last one.
                    self.frame.reserve(expected);
                    return read(&mut (&mut self.frame).limit(expected));
                }
                if large {
                    return read(&mut self.block.room(HEADER).limit(HEADER));
                }
            }
            if needs <= BLOCK && !(large && needs > COPY_OUT) {
                // A read is to get many frames, so it does not go into a small rest of the block.
                let least = (needs - self.block.len()).max(BLOCK / 4);
                return read(&mut self.block.room(least));
            }
            self.frame.reserve(needs.min(expected.max(2 * BLOCK)));
            self.frame.extend_from_slice(self.block.as_slice());
            self.block.release();
        }
        let (len, missing) = (self.frame.len(), needs - self.frame.len());
        if self.frame.capacity() == len {
            // As much room again as has come, and not past the end of the frame.
            let room = if missing <= len + BLOCK { missing } else { len };
            self.frame.reserve(room);
        }
        read(&mut (&mut self.frame).limit(missing))
    }

    /// To be called when there is nothing to read now: an idle connection keeps no memory.
    pub(crate) fn wait(&mut self) {
        if self.is_empty() {
            self.clear();
            self.waited = true;
        } else if self.frame.len() <= ALONE {
            // A frame that begins with so few bytes may well be shorter than expected.
            self.block.push(&std::mem::take(&mut self.frame));
        }
    }

    /// Drops everything, and gives the memory back.
    pub(crate) fn clear(&mut self) {
        self.block.release();
        self.frame = BytesMut::new();
    }
}

/// What is at the front of a [`ReadBuffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A whole frame, with a payload of this length.
    Complete(usize),
    /// Less than a frame. As far as is known, the frame needs this many bytes, header included.
    Needs(usize),
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

    use super::*;

    /// What a receiver may do, in any order.
    #[derive(Clone, Debug)]
    enum Step {
        /// Read, and get at most this many bytes.
        Read(usize),
        /// Find nothing to read.
        Wait,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1usize..100).prop_map(Step::Read),
            2 => (1usize..100_000).prop_map(Step::Read),
            1 => Just(Step::Wait),
        ]
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let len = prop_oneof![
            4 => 0usize..300,
            2 => 0usize..20_000,
            1 => 60_000usize..200_000,
        ];
        (len, any::<u8>()).prop_map(|(len, seed)| {
            let byte = |at: usize| (at as u8).wrapping_mul(31).wrapping_add(seed);
            (0..len).map(byte).collect()
        })
    }

    fn wire(payloads: &[Vec<u8>]) -> BytesMut {
        let mut wire = BytesMut::new();
        for payload in payloads {
            let payload = Bytes::copy_from_slice(payload);
            LengthDelimitedCodec::new()
                .encode(payload, &mut wire)
                .unwrap();
        }
        wire
    }

    /// Puts at most `n` bytes of `wire` where the buffer wants them, and says how many.
    fn read(buffer: &mut ReadBuffer, needs: usize, wire: &mut BytesMut, n: usize) -> usize {
        let filled = buffer.fill(needs, |room| {
            let n = n.min(room.remaining_mut()).min(wire.len());
            room.put_slice(&wire.split_to(n));
            Ok(n)
        });
        filled.unwrap()
    }

    proptest! {
        #[test]
        fn messages_are_those_of_length_delimited_codec_however_reads_are_cut(
            payloads in prop::collection::vec(payload(), 0..12),
            steps in prop::collection::vec(step(), 1..40),
            copied in prop::collection::vec(any::<bool>(), 1..12),
            ahead in 0usize..100_000,
        ) {
            let mut rest = wire(&payloads);
            let mut theirs = rest.clone();
            let read_ahead = rest.split_to(ahead.min(rest.len()));
            let mut buffer = ReadBuffer::new(MessageCodec::default(), read_ahead);
            let mut codec = LengthDelimitedCodec::new();
            let (mut steps, mut copied) = (steps.iter().cycle(), copied.iter().cycle());
            let mut copy = BytesMut::new();
            loop {
                let needs = match buffer.next_frame().unwrap() {
                    Frame::Complete(len) => {
                        prop_assert_eq!(buffer.complete(), Some(len));
                        let ours = if *copied.next().unwrap() {
                            copy.clear();
                            buffer.copy_to(len, &mut copy);
                            copy.clone()
                        } else {
                            buffer.take(len)
                        };
                        prop_assert_eq!(Some(ours), codec.decode(&mut theirs).unwrap());
                        continue;
                    }
                    Frame::Needs(needs) => needs,
                };
                prop_assert!(buffer.complete().is_none() && buffer.len() < needs);
                if rest.is_empty() {
                    break;
                }
                match steps.next().unwrap() {
                    Step::Read(n) => prop_assert!(read(&mut buffer, needs, &mut rest, *n) > 0),
                    Step::Wait => {
                        buffer.wait();
                        // In case there are only waits.
                        read(&mut buffer, needs, &mut rest, 1);
                    }
                }
            }
            prop_assert!(codec.decode(&mut theirs).unwrap().is_none());
            prop_assert!(buffer.take_all().is_empty());
        }

        #[test]
        fn frames_above_the_limit_are_reported_once_and_skipped(
            payloads in prop::collection::vec(payload(), 0..12),
            steps in prop::collection::vec(step(), 1..40),
            limit in 0usize..1000,
        ) {
            let mut rest = wire(&payloads);
            let mut buffer = ReadBuffer::new(MessageCodec::new(limit), BytesMut::new());
            buffer.skip_too_large();
            let (mut steps, mut outcomes) = (steps.iter().cycle(), Vec::new());
            loop {
                let needs = match buffer.next_frame() {
                    Ok(Frame::Complete(len)) => {
                        outcomes.push(Ok(buffer.take(len).to_vec()));
                        continue;
                    }
                    Ok(Frame::Needs(needs)) => needs,
                    Err(Error::MessageTooLarge { size, max }) => {
                        prop_assert_eq!(max, limit);
                        outcomes.push(Err(size));
                        continue;
                    }
                    Err(other) => panic!("{other}"),
                };
                if rest.is_empty() {
                    break;
                }
                // Never more than a block of what is thrown away.
                prop_assert!(buffer.len() <= BLOCK.max(limit + HEADER));
                match steps.next().unwrap() {
                    Step::Read(n) => {
                        read(&mut buffer, needs, &mut rest, *n);
                    }
                    Step::Wait => {
                        buffer.wait();
                        read(&mut buffer, needs, &mut rest, 1);
                    }
                }
            }
            let expected: Vec<_> = payloads
                .into_iter()
                .map(|it| if it.len() > limit { Err(it.len()) } else { Ok(it) })
                .collect();
            prop_assert_eq!(outcomes, expected);
        }

        #[test]
        fn what_was_read_behind_a_message_comes_back_as_bytes(
            payloads in prop::collection::vec(payload(), 1..6),
            n in 1usize..300_000,
            taken in 0usize..6,
        ) {
            let mut rest = wire(&payloads);
            let whole = rest.clone();
            let mut buffer = ReadBuffer::new(MessageCodec::default(), BytesMut::new());
            let (mut at, mut taken) = (0, taken);
            loop {
                match buffer.next_frame().unwrap() {
                    Frame::Complete(len) if taken > 0 => {
                        at += HEADER + buffer.take(len).len();
                        taken -= 1;
                    }
                    Frame::Needs(needs) if !rest.is_empty() => {
                        read(&mut buffer, needs, &mut rest, n);
                    }
                    _ => break,
                }
            }
            let mut bytes = buffer.take_all();
            bytes.unsplit(rest);
            prop_assert_eq!(&bytes[..], &whole[at..]);
        }

        #[test]
        fn room_grows_with_what_has_come_and_not_with_what_is_announced(
            announced in 0u32..=u32::MAX,
            pieces in prop::collection::vec(1usize..50_000, 0..20),
        ) {
            let mut buffer = ReadBuffer::new(MessageCodec::new(usize::MAX), BytesMut::new());
            let mut rest = BytesMut::from(&announced.to_be_bytes()[..]);
            for piece in pieces {
                rest.resize(rest.len().max(1) + piece, 7);
                while let Ok(Frame::Needs(needs)) = buffer.next_frame() {
                    let got = read(&mut buffer, needs, &mut rest, usize::MAX);
                    let memory = buffer.frame.capacity();
                    prop_assert!(memory <= 2 * buffer.len() + 2 * BLOCK, "{memory} for {got}");
                    if got == 0 {
                        break;
                    }
                }
                if rest.len() > 4 << 20 || buffer.complete().is_some() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_frame_above_the_limit_stays_and_is_reported_again_unless_it_is_to_be_skipped() {
        let mut buffer = ReadBuffer::new(MessageCodec::new(5), wire(&[vec![0; 6]]));
        for _ in 0..2 {
            let error = buffer.next_frame().unwrap_err();
            assert!(matches!(error, Error::MessageTooLarge { size: 6, max: 5 }));
        }
    }

    #[test]
    fn a_long_message_is_handed_out_in_the_memory_into_which_it_was_read() {
        let mut rest = wire(&[vec![1; 100_000], vec![2; 100_000]]);
        let mut buffer = ReadBuffer::new(MessageCodec::default(), BytesMut::new());
        for expected in [1, 2] {
            let len = loop {
                match buffer.next_frame().unwrap() {
                    Frame::Complete(len) => break len,
                    Frame::Needs(needs) => read(&mut buffer, needs, &mut rest, usize::MAX),
                };
            };
            let memory = buffer.frame[HEADER..].as_ptr();
            let message = buffer.take(len);
            assert_eq!(message.as_ptr(), memory);
            assert_eq!(message, vec![expected; 100_000]);
        }
    }

    #[test]
    fn a_buffer_that_waits_with_nothing_in_it_keeps_no_memory() {
        let mut rest = wire(&[vec![1; 100], vec![2; 100_000]]);
        let mut buffer = ReadBuffer::new(MessageCodec::default(), BytesMut::new());
        for _ in 0..2 {
            while let Frame::Needs(needs) = buffer.next_frame().unwrap() {
                read(&mut buffer, needs, &mut rest, usize::MAX);
            }
            let len = buffer.complete().unwrap();
            drop(buffer.take(len));
        }
        buffer.wait();
        assert_eq!(buffer.frame.capacity(), 0);
        assert_eq!(format!("{:?}", buffer.block), "Block(0 bytes)");
    }
}
