//! Overlapped I/O hands memory to the system: whatever is dropped at whatever moment, none of it
//! may be freed before the system is done with it, and all of it must be freed then.
//!
//! The allocator of this test keeps freed memory back for a while, filled with a pattern, and
//! finds out when somebody writes there.
#![cfg(windows)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Duration;

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{PipeClient, PipeServer};
use bytes::Bytes;
use common::unique_name;
use futures::{SinkExt, StreamExt};

const PATTERN: u8 = 0xDD;
const KEPT_BACK: usize = 4096;

/// How many connections are made and dropped at a time.
const TASKS: u64 = 4;

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

/// Connections, each dropped with reads and writes in flight, in random states and order; and on
/// the way servers that nobody has connected to, and clients that wait for a busy one.
async fn drop_at_random_points(rounds: u64, mut random: Random) {
    let mut ends = None;
    for _ in 0..rounds {
        if random.below(50) == 0 {
            // With an instance that waits for its client.
            ends = None;
        }
        let (client, server) = ends.get_or_insert_with(|| {
            let name = unique_name("soundness");
            let server = PipeServer::builder(&name).max_connections(1);
            let client = PipeClient::builder(&name).timeout(Duration::MAX);
            let (server, client) = match random.below(2) {
                0 => (server.message_mode(), client.message_mode()),
                _ => (server.overlapped_io(), client.overlapped_io()),
            };
            (client, server.bind().unwrap())
        });
        if random.below(8) == 0 {
            // An accept that is given up.
            nudge(pin!(server.accept()), random.below(3));
        }
        let (ours, accepted) = tokio::join!(client.connect(), server.accept());
        let (mut ours, mut accepted) = (ours.unwrap(), accepted.unwrap());
        if random.below(2) == 0 {
            // There is no place for another: a wait that is given up.
            nudge(pin!(client.connect()), random.below(3));
        }
        let size = [0, 1, 100, 5_000, 70_000, 300_000][random.below(6) as usize];
        let message = Bytes::from(vec![7; size]);
        nudge(pin!(accepted.next()), random.below(2));
        nudge(pin!(ours.send(message.clone())), random.below(3));
        if random.below(2) == 0 {
            nudge(pin!(accepted.next()), random.below(4));
        }
        if random.below(2) == 0 {
            nudge(pin!(accepted.send(message)), random.below(3));
        }
        // For a read that was dropped: nothing of this may be found in its buffer.
        let last_words = Bytes::from_static(&[9; 5_000]);
        if random.below(2) == 0 {
            drop(ours);
            nudge(pin!(accepted.next()), random.below(3));
            nudge(pin!(accepted.send(last_words)), random.below(3));
        } else {
            drop(accepted);
            nudge(pin!(ours.next()), random.below(3));
            nudge(pin!(ours.send(last_words)), random.below(3));
        }
    }
}

#[test]
fn connections_dropped_at_random_points_free_everything_and_nothing_too_early() {
    let run = |rounds| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        // Several at a time, and whatever is still in flight goes down with the runtime.
        let tasks = (0..TASKS).map(|n| {
            let random = Random(20_26 + n);
            runtime.spawn(drop_at_random_points(rounds / TASKS, random))
        });
        for task in tasks.collect::<Vec<_>>() {
            runtime.block_on(task).unwrap();
        }
    };
    // Whatever is made once for all is made now.
    run(400);
    let before = ALLOCATOR.live.load(Relaxed);
    run(10_000);

    // Completions may still be under way on the system's threads.
    let leaked = || ALLOCATOR.live.load(Relaxed) - before;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while leaked() > 64 << 10 && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(leaked() < 64 << 10, "{} bytes were never freed", leaked());

    let intact = {
        // Meanwhile nothing that is kept back is given back, whatever the system's threads still free.
        let freed = ALLOCATOR.freed.lock().unwrap();
        freed.slots.iter().flatten().all(|&(memory, layout)| {
            // SAFETY: kept back for as long as the ring is locked.
            let bytes = unsafe { std::slice::from_raw_parts(memory as *const u8, layout.size()) };
            bytes.iter().all(|it| *it == PATTERN)
        })
    };
    assert!(intact, "freed memory was written to");
    assert!(
        !ALLOCATOR.overwritten.load(Relaxed),
        "freed memory was written to"
    );
}
