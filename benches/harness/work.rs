//! What is measured: the same for every contender.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Contender, Link};

/// What the server does with a message is said by its first byte.
const TAKE: u8 = b'-';
const ECHO: u8 = b'=';
/// Answers with how many messages and bytes were taken since the last time.
const COUNT: u8 = b'?';

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A stream of messages, `feed` for each and one `flush` at the end, until the server has
    /// confirmed all of them.
    OneWay,
    /// The same with a `send` for each.
    Send,
    /// A message there and back, one at a time.
    PingPong,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) work: Work,
    /// Of a message, in bytes.
    pub(crate) size: usize,
    pub(crate) messages: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) elapsed: Duration,
    /// Of each message that was answered, in nanoseconds.
    pub(crate) round_trips: Vec<u64>,
}

/// The server's side of all work.
pub(crate) async fn answer(mut link: impl Link) {
    let (mut messages, mut bytes) = (0_u64, 0_u64);
    while let Some(message) = link.next().await {
        match message.as_ref()[0] {
            ECHO => link.send(message.into()).await,
            COUNT => {
                let receipt = receipt(messages, bytes);
                (messages, bytes) = (0, 0);
                link.send(receipt).await;
            }
            _ => {
                messages += 1;
                bytes += message.as_ref().len() as u64;
            }
        }
    }
}

fn receipt(messages: u64, bytes: u64) -> Bytes {
    [messages.to_le_bytes(), bytes.to_le_bytes()]
        .concat()
        .into()
}

fn message(kind: u8, size: usize) -> Bytes {
    vec![kind; size].into()
}

/// The client's side: a tenth of the messages to warm up, then all of them with a stopwatch.
pub(crate) async fn drive<C: Contender>(path: String, job: Job) -> Sample {
    let mut link = C::connect(&path).await;
    let warm_up = job.messages / 10 + 1;
    run(&mut link, job.work, job.size, warm_up).await;
    let sample = run(&mut link, job.work, job.size, job.messages).await;
    link.close().await;
    sample
}

async fn run(link: &mut impl Link, work: Work, size: usize, messages: u64) -> Sample {
    match work {
        Work::OneWay | Work::Send => one_way(link, work, size, messages).await,
        Work::PingPong => ping_pong(link, size, messages).await,
    }
}

async fn one_way(link: &mut impl Link, work: Work, size: usize, messages: u64) -> Sample {
    let (message, count) = (message(TAKE, size), message(COUNT, 1));
    let started = Instant::now();
    for _ in 0..messages {
        match work {
            Work::Send => link.send(message.clone()).await,
            _ => link.feed(message.clone()).await,
        }
    }
    link.send(count).await;
    let counted = link.next().await.expect("the server left");
    let elapsed = started.elapsed();
    assert_eq!(counted.as_ref(), receipt(messages, messages * size as u64));
    Sample {
        elapsed,
        round_trips: Vec::new(),
    }
}

async fn ping_pong(link: &mut impl Link, size: usize, messages: u64) -> Sample {
    let message = message(ECHO, size);
    let mut round_trips = Vec::with_capacity(messages as usize);
    let started = Instant::now();
    let mut sent = started;
    for _ in 0..messages {
        link.send(message.clone()).await;
        let echo = link.next().await.expect("the server left");
        assert_eq!(echo.as_ref().len(), size);
        let received = Instant::now();
        round_trips.push((received - sent).as_nanos() as u64);
        sent = received;
    }
    Sample {
        elapsed: started.elapsed(),
        round_trips,
    }
}
