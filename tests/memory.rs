//! What a connection costs in memory, whatever its peer does.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use asyncipc::{Error, MessageCodec, PipeConnection};
use bytes::Bytes;
use common::{byte_pair, pair, sample, within};
use futures::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;

/// Counts what each thread asks for, so that no test sees another one: each has its own thread, with
/// a runtime that has no other.
struct Counting;

/// What a thread has done. It may have freed what others have asked for.
#[derive(Clone, Copy)]
struct Count {
    live: isize,
    peak: isize,
    asked: usize,
}

thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "which it is")]
    static COUNT: Cell<Count> = const {
        Cell::new(Count { live: 0, peak: 0, asked: 0 })
    };
}

fn grown(bytes: usize) {
    let mut count = COUNT.get();
    count.asked += 1;
    count.live += bytes as isize;
    count.peak = count.peak.max(count.live);
    COUNT.set(count);
}

fn shrunk(bytes: usize) {
    let mut count = COUNT.get();
    count.live -= bytes as isize;
    COUNT.set(count);
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        shrunk(layout.size());
        grown(size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Measured {
    start: isize,
}

impl Measured {
    fn start() -> Self {
        let mut count = COUNT.get();
        count.peak = count.live;
        COUNT.set(count);
        Measured { start: count.live }
    }

    /// The most that was held at a time since the start.
    fn peak(&self) -> usize {
        (COUNT.get().peak - self.start).max(0) as usize
    }

    /// What is held beyond what was held at the start.
    fn kept(&self) -> usize {
        (COUNT.get().live - self.start).max(0) as usize
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[tokio::test]
async fn an_announced_length_alone_takes_no_memory() {
    for (announced, max) in [(16 * MIB, 16 * MIB), (u32::MAX as usize, usize::MAX)] {
        let (mut raw, stream) = byte_pair().await;
        let mut conn = PipeConnection::new(stream, MessageCodec::new(max));
        let measured = Measured::start();
        raw.write_all(&(announced as u32).to_be_bytes())
            .await
            .unwrap();
        drop(raw);
        let error = within(conn.next()).await.unwrap().unwrap_err();
        assert!(
            matches!(error, Error::Truncated { received: 4, .. }),
            "{error}"
        );
        let peak = measured.peak();
        assert!(peak < 256 * KIB, "{peak} bytes for {announced} announced");
    }
}

#[tokio::test]
async fn a_length_above_the_limit_takes_no_memory() {
    let (mut raw, stream) = byte_pair().await;
    let mut conn = PipeConnection::new(stream, MessageCodec::default());
    let measured = Measured::start();
    raw.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let error = within(conn.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::MessageTooLarge { .. }), "{error}");
    let peak = measured.peak();
    assert!(peak < 256 * KIB, "{peak} bytes");
}

#[tokio::test]
async fn memory_grows_with_what_has_arrived() {
    let (mut raw, stream) = byte_pair().await;
    let mut conn = PipeConnection::new(stream, MessageCodec::default());
    let piece = sample(10 * KIB, 0);
    // The buffer doubles, and may do so when it is half full already.
    let allowed = |arrived| 2 * arrived + 256 * KIB;
    let measured = Measured::start();
    raw.write_all(&(16 * MIB as u32).to_be_bytes())
        .await
        .unwrap();
    let mut arrived = 0;
    while arrived < MIB {
        tokio::select! {
            biased;
            message = conn.next() => panic!("{message:?}"),
            written = raw.write_all(&piece) => written.unwrap(),
        }
        arrived += piece.len();
        let (peak, allowed) = (measured.peak(), allowed(arrived));
        assert!(peak < allowed, "{peak} bytes for {arrived} that arrived");
    }
    drop(raw);
    let error = within(conn.next()).await.unwrap().unwrap_err();
    let Error::Truncated { received, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(received, 4 + arrived);
    let peak = measured.peak();
    assert!(
        peak < allowed(arrived),
        "{peak} bytes for {arrived} that arrived"
    );
    // Nothing of it is kept once the stream has ended.
    let kept = measured.kept();
    assert!(kept < 128 * KIB, "{kept} bytes kept");
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_the_sender_back() {
    let (mut client, mut server) = pair().await;
    let (mut other_client, mut other_server) = pair().await;
    let measured = Measured::start();
    let mut sent = 0;
    let endless = async {
        loop {
            // Memory of its own for each message: what is queued is seen.
            client.feed(Bytes::from(vec![7; 16 * KIB])).await.unwrap();
            sent += 1;
        }
    };
    // Turns enough for thousands of messages, if they were let through.
    let meanwhile = async {
        for _ in 0..500 {
            other_client.send("ping".into()).await.unwrap();
            other_server.next().await.unwrap().unwrap();
        }
    };
    within(async {
        tokio::select! {
            biased;
            () = endless => {}
            () = meanwhile => {}
        }
    })
    .await;
    let peak = measured.peak();
    assert!(sent * 16 * KIB < MIB, "{sent} messages were taken");
    assert!(peak < 512 * KIB, "{peak} bytes held");

    // What was taken is not lost.
    let (closed, ()) = within(async {
        tokio::join!(client.close(), async {
            for _ in 0..sent {
                let message = server.next().await.unwrap().unwrap();
                assert!(message.len() == 16 * KIB && message.iter().all(|it| *it == 7));
            }
        })
    })
    .await;
    closed.unwrap();
}

#[tokio::test]
async fn connections_that_wait_after_large_messages_keep_little() {
    // So many that what the thread keeps for all of them hardly counts.
    const COUNT: usize = 128;
    let mut pairs = vec![];
    for _ in 0..COUNT {
        pairs.push(pair().await);
    }
    let message = sample(256 * KIB, 0);
    let measured = Measured::start();
    for (client, server) in &mut pairs {
        for _ in 0..2 {
            for small in 0..100 {
                client.feed(message.slice(..small)).await.unwrap();
            }
            let (sent, ()) = within(async {
                tokio::join!(client.send(message.clone()), async {
                    while server.next().await.unwrap().unwrap().len() < 256 * KIB {}
                })
            })
            .await;
            sent.unwrap();
            std::mem::swap(client, server);
        }
    }
    for (client, server) in &mut pairs {
        // Only who waits for the next message has nothing at hand.
        assert!(common::stays_pending(&mut client.next()).await);
        assert!(common::stays_pending(&mut server.next()).await);
    }
    let kept = measured.kept() / COUNT;
    // On Windows the layer below keeps its own copies of what was read and written last.
    let allowed = if cfg!(windows) { 272 * KIB } else { 4 * KIB };
    assert!(kept < allowed, "{kept} bytes kept by each connection");
}

#[tokio::test]
async fn a_short_message_after_a_large_one_keeps_little_more_than_its_bytes() {
    let (mut client, mut server) = pair().await;
    let large = sample(MIB, 0);
    let mut kept = vec![];
    let measured = Measured::start();
    for _ in 0..20 {
        for message in [large.clone(), large.slice(..1)] {
            // Both come alone, after a wait.
            assert!(common::stays_pending(&mut server.next()).await);
            let sending = client.send(message.clone());
            let (sent, received) = within(async { tokio::join!(sending, server.next()) }).await;
            sent.unwrap();
            let received = received.unwrap().unwrap();
            assert_eq!(received.len(), message.len());
            if received.len() == 1 {
                kept.push(received);
            }
        }
    }
    let (held, allowed) = (measured.kept(), 2 * MIB);
    assert!(held < allowed, "{held} bytes for 20 messages of 1 byte");
}

#[tokio::test]
async fn keeping_short_messages_keeps_little_more_than_their_bytes() {
    for size in [100, KIB + 1, 4 * KIB, 16 * KIB] {
        let (mut client, mut server) = pair().await;
        let message = Bytes::from(vec![7; size]);
        let measured = Measured::start();
        let mut kept = Vec::new();
        for _ in 0..200 {
            client.send(message.clone()).await.unwrap();
            kept.push(within(server.next()).await.unwrap().unwrap());
        }
        let (held, allowed) = (measured.kept(), 2 * 200 * size + 256 * KIB);
        assert!(held < allowed, "{held} bytes for 200 messages of {size}");
    }
}

/// On Windows, the layer below allocates for each operation.
#[cfg(unix)]
#[tokio::test]
async fn a_small_message_into_a_reused_buffer_allocates_nothing_and_a_large_one_once() {
    let (mut client, mut server) = pair().await;
    let mut buf = bytes::BytesMut::new();
    let large = sample(MIB, 0);
    for size in [64, MIB] {
        let message = large.slice(..size);
        let mut asked = 0;
        // The first rounds warm up.
        for _ in 0..3 {
            let before = COUNT.get().asked;
            for _ in 0..100 {
                let received = async {
                    if size == 64 {
                        buf.clear();
                        server.recv_into(&mut buf).await.unwrap().unwrap()
                    } else {
                        server.next().await.unwrap().unwrap().len()
                    }
                };
                let (sent, received) = tokio::join!(client.send(message.clone()), received);
                sent.unwrap();
                assert_eq!(received, size);
            }
            asked = COUNT.get().asked - before;
        }
        assert_eq!(asked, if size == 64 { 0 } else { 100 }, "{size}");
    }
}
