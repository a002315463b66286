//! Buffers for small messages, shared by all connections that a thread works for: one that waits
//! keeps none, and the next to read or write finds one that is warm.

use std::cell::RefCell;

use bytes::BytesMut;

/// The capacity of each.
pub(crate) const BLOCK: usize = 72 << 10;

/// How many a thread keeps. A task holds one while it reads and one while it writes; others may
/// hold theirs for a message that has come in part.
const KEPT: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of at least [`BLOCK`] bytes.
pub(crate) fn take() -> BytesMut {
    let spare = SPARE.try_with(|it| it.borrow_mut().pop());
    spare
        .ok()
        .flatten()
        .unwrap_or_else(|| BytesMut::with_capacity(BLOCK))
}

/// Takes back a buffer that is not needed any more, whatever it was.
pub(crate) fn give(mut buf: BytesMut) {
    buf.clear();
    // Not when messages still share its memory, nor one that has grown.
    if buf.try_reclaim(BLOCK) && buf.capacity() < 2 * BLOCK {
        // An error: the thread is ending.
        let _ = SPARE.try_with(|it| {
            let mut spare = it.borrow_mut();
            if spare.len() < KEPT {
                spare.push(buf);
            }
        });
    }
}
