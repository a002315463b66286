//! The work whose instructions `scripts/count-instructions` counts: all in one thread, and in an
//! order that does not depend on time.
//!
//! Where one side alone is to be counted, the other is a bare socket that takes or gives many
//! messages in one call. That is possible since both contenders have the same bytes on the wire.

use anyhow::Result;
use clap::{Args, ValueEnum};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::harness::{self, Asyncipc, Contender, Job, Link, Path, Plain, SharedSender, Work};

const SIZE: usize = 64;
/// Before each flush: more than fits into one write, and less than a socket holds.
const BATCH: usize = 1024;
/// How many a socket holds in any case that were written one by one.
const SINGLE: usize = 128;

#[derive(Args)]
pub(crate) struct Run {
    contender: Who,
    part: Part,
    messages: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Who {
    Asyncipc,
    Shared,
    Framed,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Send,
    SendEach,
    Receive,
    PingPong,
}

impl Run {
    pub(crate) fn run(self) -> Result<()> {
        harness::one_thread().block_on(async {
            match self.contender {
                Who::Asyncipc => self.run_as::<Asyncipc>().await,
                Who::Shared => self.run_as::<SharedSender>().await,
                Who::Framed => self.run_as::<Plain>().await,
            }
        })
    }

    async fn run_as<C: Contender>(self) -> Result<()> {
        match self.part {
            Part::Send => send::<C>(self.messages, 1, BATCH).await,
            Part::SendEach => send::<C>(self.messages, SINGLE, 1).await,
            Part::Receive => receive::<C>(self.messages).await,
            Part::PingPong => ping_pong::<C>(self.messages).await,
        }
    }
}

/// So many flushes before the other end takes all of it, and so many messages before each flush.
async fn send<C: Contender>(messages: usize, flushes: usize, batch: usize) -> Result<()> {
    let path = Path::unique();
    let listener = UnixListener::bind(&path.path)?;
    let (mut link, accepted) = tokio::join!(C::connect(path.path.clone()), listener.accept());
    let (mut bare, _) = accepted?;
    let message = harness::message(harness::TAKE, SIZE);
    let mut taken = vec![0; frames(flushes * batch).len()];
    for _ in 0..messages / (flushes * batch) {
        for _ in 0..flushes {
            for _ in 0..batch {
                link.feed(message.clone()).await;
            }
            link.flush().await;
        }
        bare.read_exact(&mut taken).await?;
    }
    Ok(())
}

async fn receive<C: Contender>(messages: usize) -> Result<()> {
    let path = Path::unique();
    tokio::spawn(C::serve(C::listen(&path.path)));
    let mut bare = UnixStream::connect(&path.path).await?;
    let batch = frames(BATCH);
    let (mut taken, batches) = ([0; 20], messages / BATCH);
    for _ in 0..batches {
        bare.write_all(&batch).await?;
        // The server is at work until it has nothing more to read.
        tokio::task::yield_now().await;
    }
    bare.write_all(&[0, 0, 0, 1, harness::COUNT]).await?;
    bare.read_exact(&mut taken).await?;
    let all = (batches * BATCH) as u64;
    assert_eq!(taken[4..], harness::receipt(all, all * SIZE as u64));
    Ok(())
}

async fn ping_pong<C: Contender>(messages: usize) -> Result<()> {
    let path = Path::unique();
    tokio::spawn(C::serve(C::listen(&path.path)));
    let mut link = C::connect(path.path.clone()).await;
    let job = Job {
        work: Work::PingPong,
        size: SIZE,
        messages: messages as u64,
    };
    harness::ping_pong(&mut link, job).await;
    Ok(())
}

/// So many messages as they are on the wire.
fn frames(messages: usize) -> Vec<u8> {
    let mut frame = (SIZE as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&[harness::TAKE; SIZE]);
    frame.repeat(messages)
}
