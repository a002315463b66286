//! What is measured: the same for every contender.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Contender, Link, Producer, Receiver, Sharing};

/// What the server does with a message is said by its first byte.
pub(crate) const TAKE: u8 = b'-';
pub(crate) const ECHO: u8 = b'=';
/// Answers with how many messages and bytes were taken since the last time.
pub(crate) const COUNT: u8 = b'?';

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A stream of messages, `feed` for each and one `flush` at the end, until the server has
    /// confirmed all of them.
    OneWay,
    /// The same with a `send` for each.
    Send,
    /// The same from so many tasks, through clones of one sender.
    Producers(usize),
    /// A message there and back, one at a time.
    PingPong,
    /// The same from so many clients at once: all their messages are counted.
    Clients(usize),
    /// The same from one client beside so many that do it without a pause: its messages alone are
    /// counted.
    Beside(usize),
    /// Connecting, a message there and back, and closing: from so many tasks.
    Connect(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) work: Work,
    /// Of a message, in bytes.
    pub(crate) size: usize,
    /// As many, or a few less where they do not divide evenly. [`Work::Connect`] has one in each
    /// connection.
    pub(crate) messages: u64,
}

#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) messages: u64,
    pub(crate) elapsed: Duration,
    /// Of each message that was answered, in nanoseconds.
    pub(crate) round_trips: Vec<u64>,
}

impl Sample {
    pub(crate) fn per_second(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }
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

pub(crate) fn receipt(messages: u64, bytes: u64) -> Bytes {
    [messages.to_le_bytes(), bytes.to_le_bytes()]
        .concat()
        .into()
}

pub(crate) fn message(kind: u8, size: usize) -> Bytes {
    vec![kind; size].into()
}

/// The client's side: some of the work to warm up, then all of it with a stopwatch.
pub(crate) async fn drive<C: Contender>(path: String, job: Job) -> Sample {
    match job.work {
        Work::Clients(clients) => {
            let links = connect::<C>(&path, clients).await;
            all_ping_pong(links, job).await
        }
        Work::Beside(busy) => beside_busy_ones::<C>(path, busy, job).await,
        Work::Connect(at_once) => {
            connect_and_close::<C>(&path, at_once, warming_up(job)).await;
            connect_and_close::<C>(&path, at_once, job).await
        }
        _ => {
            let mut link = C::connect(path).await;
            run(&mut link, warming_up(job)).await;
            let sample = run(&mut link, job).await;
            link.close().await;
            sample
        }
    }
}

fn warming_up(job: Job) -> Job {
    Job {
        messages: job.messages / 10 + 1,
        ..job
    }
}

async fn run(link: &mut impl Link, job: Job) -> Sample {
    match job.work {
        Work::OneWay | Work::Send => one_way(link, job).await,
        Work::PingPong => ping_pong(link, job).await,
        other => panic!("{other:?} is not for one client"),
    }
}

async fn one_way(link: &mut impl Link, job: Job) -> Sample {
    let (message, count) = (message(TAKE, job.size), message(COUNT, 1));
    let started = Instant::now();
    for _ in 0..job.messages {
        match job.work {
            Work::Send => link.send(message.clone()).await,
            _ => link.feed(message.clone()).await,
        }
    }
    link.send(count).await;
    confirmed(link, job.messages, job.size, started).await
}

/// Ends with the receipt for as many messages.
async fn confirmed(
    receiver: &mut impl Receiver,
    messages: u64,
    size: usize,
    started: Instant,
) -> Sample {
    let counted = receiver.next().await.expect("the server left");
    let elapsed = started.elapsed();
    assert_eq!(counted.as_ref(), receipt(messages, messages * size as u64));
    Sample {
        messages,
        elapsed,
        round_trips: Vec::new(),
    }
}

pub(crate) async fn ping_pong(link: &mut impl Link, job: Job) -> Sample {
    let message = message(ECHO, job.size);
    let mut round_trips = Vec::with_capacity(job.messages as usize);
    let started = Instant::now();
    let mut sent = started;
    for _ in 0..job.messages {
        link.send(message.clone()).await;
        let echo = link.next().await.expect("the server left");
        assert_eq!(echo.as_ref().len(), job.size);
        let received = Instant::now();
        round_trips.push((received - sent).as_nanos() as u64);
        sent = received;
    }
    Sample {
        messages: job.messages,
        elapsed: started.elapsed(),
        round_trips,
    }
}

/// [`Work::Producers`].
pub(crate) async fn produce<C: Sharing>(path: String, job: Job) -> Sample {
    let Work::Producers(tasks) = job.work else {
        panic!("{:?} is not for several producers", job.work)
    };
    let (sender, mut receiver) = C::share(path).await;
    produce_once(&sender, &mut receiver, tasks, warming_up(job)).await;
    produce_once(&sender, &mut receiver, tasks, job).await
}

async fn produce_once(
    sender: &impl Producer,
    receiver: &mut impl Receiver,
    tasks: usize,
    job: Job,
) -> Sample {
    let message = message(TAKE, job.size);
    let each = job.messages.div_ceil(tasks as u64);
    let started = Instant::now();
    let producers = (0..tasks).map(|_| {
        let (sender, message) = (sender.clone(), message.clone());
        async move {
            for _ in 0..each {
                sender.send(message.clone()).await;
            }
        }
    });
    let mut producers: JoinSet<()> = producers.collect();
    while let Some(produced) = producers.join_next().await {
        produced.unwrap();
    }
    sender.send(self::message(COUNT, 1)).await;
    confirmed(receiver, each * tasks as u64, job.size, started).await
}

/// Each has been accepted when this returns.
async fn connect<C: Contender>(path: &str, clients: usize) -> Vec<impl Link + use<C>> {
    let mut links = Vec::with_capacity(clients);
    for _ in 0..clients {
        let mut link = C::connect(path.to_owned()).await;
        ping_pong(&mut link, one(8)).await;
        links.push(link);
    }
    links
}

fn one(size: usize) -> Job {
    Job {
        work: Work::PingPong,
        size,
        messages: 1,
    }
}

async fn all_ping_pong(links: Vec<impl Link>, job: Job) -> Sample {
    let each = job.messages.div_ceil(links.len() as u64);
    let messages = each * links.len() as u64;
    let job = Job {
        messages: each,
        ..job
    };
    let started = Instant::now();
    let clients = links.into_iter().map(|mut link| async move {
        ping_pong(&mut link, job).await;
        link
    });
    let mut clients: JoinSet<_> = clients.collect();
    let mut links = Vec::new();
    while let Some(link) = clients.join_next().await {
        links.push(link.unwrap());
    }
    let elapsed = started.elapsed();
    for link in links {
        link.close().await;
    }
    Sample {
        messages,
        elapsed,
        round_trips: Vec::new(),
    }
}

async fn beside_busy_ones<C: Contender>(path: String, busy: usize, job: Job) -> Sample {
    let links = connect::<C>(&path, busy).await;
    let all_are_busy = Arc::new(Barrier::new(busy + 1));
    // They finish the message that they are at, so that nothing ends in the middle of one.
    let over = Arc::new(AtomicBool::new(false));
    let clients = links.into_iter().map(|mut link| {
        let (all_are_busy, over) = (all_are_busy.clone(), over.clone());
        async move {
            ping_pong(&mut link, one(job.size)).await;
            all_are_busy.wait().await;
            while !over.load(Relaxed) {
                ping_pong(&mut link, one(job.size)).await;
            }
            link.close().await;
        }
    });
    let clients: JoinSet<()> = clients.collect();
    all_are_busy.wait().await;
    let mut link = C::connect(path).await;
    ping_pong(&mut link, warming_up(job)).await;
    let sample = ping_pong(&mut link, job).await;
    link.close().await;
    over.store(true, Relaxed);
    clients.join_all().await;
    sample
}

async fn connect_and_close<C: Contender>(path: &str, at_once: usize, job: Job) -> Sample {
    let each = job.messages.div_ceil(at_once as u64);
    let started = Instant::now();
    let clients = (0..at_once).map(|_| {
        let path = path.to_owned();
        async move {
            for _ in 0..each {
                let mut link = C::connect(path.clone()).await;
                ping_pong(&mut link, one(job.size)).await;
                link.close().await;
            }
        }
    });
    let clients: JoinSet<()> = clients.collect();
    clients.join_all().await;
    Sample {
        messages: each * at_once as u64,
        elapsed: started.elapsed(),
        round_trips: Vec::new(),
    }
}

/// What a server keeps for clients that do nothing.
pub(crate) struct Idle {
    pub(crate) clients: usize,
    /// Of the message that each has echoed at last.
    pub(crate) size: usize,
    /// The memory of the server's process, now.
    pub(crate) memory: Box<dyn Fn() -> u64 + Send>,
}

/// The memory without clients, with those that have had nothing worth mentioning, and after each
/// has had its message, which goes through the server's buffers in both directions.
pub(crate) async fn hold_idle_clients<C: Contender>(path: String, idle: Idle) -> Vec<u64> {
    // Whatever a first client makes a server set up is not counted.
    for link in connect::<C>(&path, 1).await {
        link.close().await;
    }
    let mut memory = vec![(idle.memory)()];
    let mut links = connect::<C>(&path, idle.clients).await;
    memory.push((idle.memory)());
    for link in &mut links {
        ping_pong(link, one(idle.size)).await;
    }
    memory.push((idle.memory)());
    memory
}
