//! Overlapped I/O hands memory to the system: whatever is dropped at whatever moment, none of it
//! may be freed before the system is done with it, and all of it must be freed then.
//!
//! The allocator of this test keeps freed memory back for a while, filled with a pattern, and
//! finds out when somebody writes there.
#![cfg(windows)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};
use std::task::{Context, Waker};

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{PipeClient, PipeServer};
use bytes::Bytes;
use common::unique_name;
use futures::{SinkExt, StreamExt};

const PATTERN: u8 = 0xDD;
const KEPT_BACK: usize = 4096;

struct KeepBack {
    /// A ring, in place: a queue that grows would come back here.
    freed: Mutex<Ring>,
    overwritten: AtomicBool,
    live: AtomicIsize,
}

struct Ring {
    slots: [Option<(usize, Layout)>; KEPT_BACK],
    next: usize,
}

// SAFETY: memory is the system allocator's; what is kept back is given to it later, once.
unsafe impl GlobalAlloc for KeepBack {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.live.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: the caller gives this memory up; nobody else has it until it is given back.
        unsafe { memory.write_bytes(PATTERN, layout.size()) };
        let oldest = {
            let mut freed = self.freed.lock().unwrap();
            let next = freed.next;
            freed.next = (next + 1) % KEPT_BACK;
            freed.slots[next].replace((memory as usize, layout))
        };
        if let Some(oldest) = oldest {
            self.give_back(oldest);
        }
    }
}

impl KeepBack {
    fn give_back(&self, (memory, layout): (usize, Layout)) {
        let memory = memory as *mut u8;
        // SAFETY: kept back since it was freed, with this layout.
        unsafe {
            if std::slice::from_raw_parts(memory, layout.size())
                .iter()
                .any(|it| *it != PATTERN)
            {
                self.overwritten.store(true, Relaxed);
            }
            System.dealloc(memory, layout);
        }
    }
}

#[global_allocator]
static ALLOCATOR: KeepBack = KeepBack {
    freed: Mutex::new(Ring {
        slots: [None; KEPT_BACK],
        next: 0,
    }),
    overwritten: AtomicBool::new(false),
    live: AtomicIsize::new(0),
};

/// A small generator, so that a failing run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Polls a future a few times, whatever comes of it.
fn nudge<F: Future>(future: std::pin::Pin<&mut F>, times: u64) {
    let mut future = future;
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..times {
        if future.as_mut().poll(&mut cx).is_ready() {
            return;
        }
        std::thread::yield_now();
    }
}

/// 10,000 connections, each dropped with reads and writes in flight, in random states and order.
async fn drop_at_random_points(rounds: u64, random: &mut Random) {
    let name = unique_name("soundness");
    for messages in [true, false] {
        let (server, client) = (PipeServer::builder(&name), PipeClient::builder(&name));
        let (server, client) = match messages {
            true => (server.message_mode(), client.message_mode()),
            false => (server.overlapped_io(), client.overlapped_io()),
        };
        let mut server = server.bind().unwrap();
        for _ in 0..rounds / 2 {
            if random.below(8) == 0 {
                // An accept that is given up.
                let accepting = server.accept();
                tokio::pin!(accepting);
                nudge(accepting, random.below(3));
            }
            let (client, accepted) = tokio::join!(client.connect(), server.accept());
            let (mut client, mut accepted) = (client.unwrap(), accepted.unwrap());
            let size = [0, 1, 100, 5_000, 70_000, 300_000][random.below(6) as usize];
            let message = Bytes::from(vec![7; size]);
            {
                let received = accepted.next();
                tokio::pin!(received);
                nudge(received, random.below(2));
                let sent = client.send(message.clone());
                tokio::pin!(sent);
                nudge(sent, random.below(3));
            }
            if random.below(2) == 0 {
                let received = accepted.next();
                tokio::pin!(received);
                nudge(received, random.below(4));
            }
            if random.below(2) == 0 {
                let sent = accepted.send(message);
                tokio::pin!(sent);
                nudge(sent, random.below(3));
            }
            if random.below(2) == 0 {
                drop(client);
                nudge(std::pin::pin!(accepted.next()), random.below(3));
            } else {
                drop(accepted);
                nudge(std::pin::pin!(client.next()), random.below(3));
            }
        }
    }
}

#[test]
fn connections_dropped_at_random_points_free_everything_and_nothing_too_early() {
    let mut random = Random(20_26);
    let run = |rounds, random: &mut Random| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(drop_at_random_points(rounds, random));
    };
    // Whatever is made once for all is made now.
    run(200, &mut random);
    let before = ALLOCATOR.live.load(Relaxed);
    run(10_000, &mut random);

    // Completions may still be under way on the system's threads.
    let leaked = || ALLOCATOR.live.load(Relaxed) - before;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while leaked() > 64 << 10 && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(leaked() < 64 << 10, "{} bytes were never freed", leaked());

    let kept = ALLOCATOR.freed.lock().unwrap().slots;
    for (memory, layout) in kept.into_iter().flatten() {
        // SAFETY: kept back, and still in the queue.
        let bytes = unsafe { std::slice::from_raw_parts(memory as *const u8, layout.size()) };
        assert!(
            bytes.iter().all(|it| *it == PATTERN),
            "freed memory was written to"
        );
    }
    assert!(
        !ALLOCATOR.overwritten.load(Relaxed),
        "freed memory was written to"
    );
}
