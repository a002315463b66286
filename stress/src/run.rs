//! What all campaigns share: choices that a seed repeats, waiting that cannot hang, and children
//! that end with their parent.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::io::{BufRead, stdin};
use std::pin::pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use asyncipc::{BoxError, PipeClient, PipeConnection};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::process::{Child, ChildStdin, Command};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

/// What a campaign ends with, or a part of one: the error says what was expected and what was found.
pub(crate) type Result<T> = std::result::Result<T, BoxError>;

/// Ends with an error, which is formatted.
macro_rules! fail {
    ($($message:tt)*) => { return Err(format!($($message)*).into()) };
}

/// Fails unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => { if !$condition { $crate::run::fail!($($message)*) } };
}

pub(crate) use {ensure, fail};

/// Longer than any step takes, however busy the machine is.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// For what happens at once when all is well.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// How a campaign runs.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    ends: Instant,
    length: Duration,
}

impl Run {
    pub(crate) fn new(seconds: u64, seed: u64) -> Self {
        let length = Duration::from_secs(seconds);
        Run {
            seed,
            ends: Instant::now() + length,
            length,
        }
    }

    /// Whether there is time for another round.
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.ends
    }

    /// The part of the time that has passed, from 0 to 1.
    pub(crate) fn passed(&self) -> f64 {
        let left = self.ends.saturating_duration_since(Instant::now());
        1.0 - left.as_secs_f64() / self.length.as_secs_f64()
    }

    /// Choices for one task: the same seed and the same number give the same ones.
    pub(crate) fn choices(&self, number: u64) -> SmallRng {
        SmallRng::seed_from_u64(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// What was found in the parts of a campaign. A part that has failed is not run again, and the others
/// go on.
#[derive(Debug, Default)]
pub(crate) struct Findings(BTreeMap<&'static str, String>);

impl Findings {
    /// Runs one part, unless it has failed before. Gives what it has counted.
    pub(crate) async fn of(
        &mut self,
        part: &'static str,
        running: impl Future<Output = Result<u64>>,
    ) -> u64 {
        if self.0.contains_key(part) {
            return 0;
        }
        match within(part, running).await.flatten() {
            Ok(counted) => counted,
            Err(error) => {
                eprintln!("{part}: {error}");
                self.0.insert(part, error.to_string());
                0
            }
        }
    }

    /// Fails if anything has.
    pub(crate) fn end(self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let lines = self
            .0
            .iter()
            .map(|(part, error)| format!("\n  {part}: {error}"));
        fail!(
            "{} parts failed:{}",
            self.0.len(),
            lines.collect::<String>()
        )
    }
}

/// A handler that sends back what its client sends.
pub(crate) async fn echo(mut conn: PipeConnection) -> Result<()> {
    while let Some(message) = conn.next().await {
        conn.send(message?.freeze()).await?;
    }
    Ok(())
}

/// A name that this process, and no other campaign, uses.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Relaxed);
    format!("stress-{what}-{}-{n}", std::process::id())
}

/// A runtime as most programs have it.
pub(crate) fn multi_thread() -> Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

/// A runtime that lives in the thread that waits.
pub(crate) fn current_thread() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Where things are being waited for, and since when: what the watchdog tells.
static PLACES: Mutex<BTreeMap<u64, (String, Instant)>> = Mutex::new(BTreeMap::new());

struct Place(u64);

impl Place {
    fn enter(what: String) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let place = NEXT.fetch_add(1, Relaxed);
        lock(&PLACES).insert(place, (what, Instant::now()));
        Place(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&PLACES).remove(&self.0);
    }
}

/// The oldest places first, as text.
pub(crate) fn places() -> String {
    let places = lock(&PLACES);
    let lines = places.values().take(20).map(|(what, since)| {
        let waited = since.elapsed().as_secs_f64();
        format!("  {what}, for {waited:.1} s\n")
    });
    lines.collect()
}

/// Waits for `future`, and fails when it hangs.
pub(crate) async fn within<F: Future>(what: impl Display, future: F) -> Result<F::Output> {
    within_time(HANG, what, future).await
}

/// As [`within`], with a limit of its own.
pub(crate) async fn within_time<F: Future>(
    limit: Duration,
    what: impl Display,
    future: F,
) -> Result<F::Output> {
    let what = what.to_string();
    let place = Place::enter(what.clone());
    let output = tokio::time::timeout(limit, future).await;
    drop(place);
    output.map_err(|_| format!("hung for {limit:?}: {what}").into())
}

/// Connects to a server that may have no room for long.
pub(crate) async fn connect(who: impl Display, name: &str) -> Result<PipeConnection> {
    let builder = PipeClient::builder(name).timeout(HANG);
    Ok(within(format!("{who} connects"), builder.connect()).await??)
}

/// Polls `future` until it has been pending `polls` times, and drops it then.
pub(crate) async fn cancelled<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    if polls == 0 {
        return None;
    }
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            left -= 1;
            match left {
                0 => Poll::Ready(None),
                _ => Poll::Pending,
            }
        }
    })
    .await
}

/// A message that begins with a number, and then has bytes that follow from it.
pub(crate) fn numbered(number: u64, len: usize) -> Bytes {
    let mut message = BytesMut::with_capacity(8 + len);
    message.put_u64(number);
    message.put_bytes(number as u8, len);
    message.freeze()
}

/// The number of a message from [`numbered`], whose bytes must be as they were sent.
pub(crate) fn number(message: &[u8]) -> Result<u64> {
    let Some((number, rest)) = message.split_first_chunk::<8>() else {
        fail!(
            "a message of {} bytes came, and none is that short",
            message.len()
        );
    };
    let number = u64::from_be_bytes(*number);
    let wrong = rest.iter().position(|it| *it != number as u8);
    ensure!(
        wrong.is_none(),
        "message {number} of {} bytes is damaged at byte {}",
        message.len(),
        8 + wrong.unwrap_or_default()
    );
    Ok(number)
}

/// Mostly short, at times long, up to `most`.
pub(crate) fn length(rng: &mut SmallRng, most: usize) -> usize {
    match rng.random_range(0..20) {
        0 => rng.random_range(0..=most),
        1..4 => rng.random_range(0..=most.min(9000)),
        _ => rng.random_range(0..=most.min(200)),
    }
}

/// This program, in another role.
pub(crate) fn itself(role: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("child").arg(role).args(arguments);
    command.stdin(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// A child that ends when its parent does.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) process: Child,
    /// The child ends when this is closed.
    orders: Option<ChildStdin>,
}

impl Started {
    pub(crate) fn new(mut process: Child) -> Self {
        let orders = process.stdin.take();
        Started { process, orders }
    }

    /// Tells it to end orderly.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(orders) = &mut self.orders {
            use tokio::io::AsyncWriteExt;
            orders.write_all(b"stop\n").await?;
            orders.flush().await?;
        }
        Ok(())
    }

    /// As `kill -9`.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.start_kill()?;
        within("a killed child ends", self.process.wait()).await??;
        Ok(())
    }
}

/// In a child: what its parent orders. The process ends when the parent does.
pub(crate) fn orders() -> Arc<Notify> {
    let stop = Arc::new(Notify::new());
    let stopping = stop.clone();
    std::thread::spawn(move || {
        for line in stdin().lock().lines() {
            match line {
                Ok(line) if line == "stop" => stopping.notify_one(),
                _ => break,
            }
        }
        std::process::exit(4);
    });
    stop
}

/// With its thousands apart, as people read it.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
