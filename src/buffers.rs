//! Buffers for small messages, shared by all connections that a thread serves. A waiting connection
//! keeps none, and the next one to read or write finds a warm one.

use std::cell::RefCell;
use std::fmt;

use bytes::{Buf, BufMut, Bytes};

/// The capacity of each block.
pub(crate) const BLOCK: usize = 72 << 10;

/// How many blocks a thread keeps. A task holds one while it reads and one while it writes; others may
/// hold theirs for a message that has arrived in part.
const KEPT: usize = 4;

thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "it is const: the lint does not see it on every target")]
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes on their way: added at the end, taken from the front. Holds memory only while in use.
#[derive(Default)]
pub(crate) struct Block {
    bytes: Vec<u8>,
    /// How many were taken already.
    taken: usize,
}

impl Block {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == self.taken
    }

    /// Takes `n` bytes from the front.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) {
        self.taken += n;
        debug_assert!(self.taken <= self.bytes.len());
        if self.is_empty() {
            self.bytes.clear();
            self.taken = 0;
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.get_memory();
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            self.compact();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// All free room: `least` bytes or more, if those and the present bytes fit in a block.
    pub(crate) fn room(&mut self, least: usize) -> impl BufMut {
        self.get_memory();
        if self.bytes.capacity() - self.bytes.len() < least {
            self.compact();
        }
        let room = self.bytes.capacity() - self.bytes.len();
        (&mut self.bytes).limit(room)
    }

    /// Takes everything, with its memory.
    #[allow(dead_code, reason = "only where a write owns its buffer")]
    pub(crate) fn take(&mut self) -> Bytes {
        let mut bytes = Bytes::from(std::mem::take(&mut self.bytes));
        bytes.advance(std::mem::take(&mut self.taken));
        bytes
    }

    /// Frees the room of the bytes that were taken.
    fn compact(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
    }

    #[inline]
    fn get_memory(&mut self) {
        if self.bytes.capacity() == 0 {
            self.bytes = spare();
        }
    }

    /// Empties it, and passes its memory on to the next user.
    pub(crate) fn release(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.taken = 0;
        // A block that has grown is not kept.
        if bytes.capacity() == BLOCK {
            bytes.clear();
            let _ = SPARE.try_with(|it| {
                let mut spare = it.borrow_mut();
                if spare.len() < KEPT {
                    spare.push(bytes);
                }
            });
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.release();
    }
}

fn spare() -> Vec<u8> {
    let spare = SPARE.try_with(|it| it.borrow_mut().pop());
    // An error: the thread is ending.
    let spare = spare.ok().flatten();
    spare.unwrap_or_else(|| Vec::with_capacity(BLOCK))
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_never_becomes_empty_does_not_grow() {
        let mut block = Block::default();
        let mut expected = std::collections::VecDeque::new();
        for round in 0..1000_usize {
            let piece = [round as u8; 700];
            block.push(&piece);
            expected.extend(piece);
            if block.len() > BLOCK / 2 {
                let n = 650 + round % 100;
                assert!(block.as_slice()[..n].iter().eq(expected.iter().take(n)));
                block.advance(n);
                expected.drain(..n);
            }
            assert_eq!(block.bytes.capacity(), BLOCK);
        }
    }

    #[test]
    fn the_room_is_what_was_asked_for_if_a_block_has_it() {
        let mut block = Block::default();
        block.push(&[1; BLOCK - 10]);
        block.advance(BLOCK - 30);
        assert!(block.room(1000).remaining_mut() >= 1000);
        assert_eq!(block.as_slice(), [1; 20]);
    }

    #[test]
    fn memory_goes_from_one_block_to_the_next() {
        let mut first = Block::default();
        first.push(b"warm");
        let memory = first.bytes.as_ptr();
        first.release();
        assert_eq!(first.bytes.capacity(), 0);
        let mut second = Block::default();
        second.push(b"again");
        assert_eq!(second.bytes.as_ptr(), memory);
        assert_eq!(second.as_slice(), b"again");
        drop(second);
        let mut third = Block::default();
        third.push(b"and again");
        assert_eq!(third.bytes.as_ptr(), memory);
        assert_eq!(third.as_slice(), b"and again");
    }
}
