//! Gives jobs to a worker process. When it crashes, another one does the job whose answer is missing.
//!
//! ```text
//! cargo run --features worker --example worker                  # every worker crashes at its fourth job
//! cargo run --features worker --example worker -- --poison 5    # a job that no worker survives
//! ```
//!
//! The worker is this same program, which tells by a hidden flag that it is one.

use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use asyncipc::{BoxError, Error, PipeClient, PipeConnection, PipeServer};
use bytes::BytesMut;
use clap::Parser;
use futures::{SinkExt, StreamExt};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// How many workers may crash at one job.
const ATTEMPTS: u32 = 4;

/// The pause before the second of them is started: doubled for each that follows.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a job may take. A worker that is not done by then is killed.
const JOB_TIME: Duration = Duration::from_secs(60);

/// How long a worker whose connection has ended may live on.
const GRACE: Duration = Duration::from_secs(1);

/// Counts primes in a worker process, and starts another when it crashes.
#[derive(Parser)]
struct Args {
    /// How many jobs there are.
    #[arg(long, default_value = "10")]
    jobs: u64,

    /// How many jobs a worker does before it crashes.
    #[arg(long, value_name = "JOBS", default_value = "3")]
    crash_after: u64,

    /// At which job every worker crashes.
    #[arg(long, value_name = "JOB")]
    poison: Option<u64>,

    /// Be the worker.
    #[arg(long, hide = true)]
    worker: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.worker {
        true => work(args).await,
        false => delegate(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The parent: gives out one job after the other.
async fn delegate(args: Args) -> Result<(), BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--worker").kill_on_drop(true);
    command.args(["--crash-after", &args.crash_after.to_string()]);
    if let Some(poison) = args.poison {
        command.args(["--poison", &poison.to_string()]);
    }
    let mut worker = Worker {
        command,
        running: None,
    };
    for job in 1..=args.jobs {
        let answer = worker.answer(job).await?;
        println!("job {job}: {}", String::from_utf8_lossy(&answer));
    }
    worker.dismiss().await
}

/// Whoever is the worker at the moment.
struct Worker {
    command: Command,
    running: Option<(Child, PipeConnection)>,
}

impl Worker {
    /// Has a job done, by as many workers as it takes, up to a bound.
    async fn answer(&mut self, job: u64) -> Result<BytesMut, BoxError> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.attempt(job).await? {
                Ok(answer) => return Ok(answer),
                Err(status) => println!("worker ended at job {job}: {status}; next in {pause:?}"),
            }
            sleep(pause).await;
            pause *= 2;
        }
        let last = self.attempt(job).await?;
        last.map_err(|status| format!("{ATTEMPTS} workers ended at job {job}: {status}").into())
    }

    /// The answer of one worker, or how it ended instead.
    async fn attempt(&mut self, job: u64) -> Result<Result<BytesMut, ExitStatus>, BoxError> {
        let (mut child, mut conn) = match self.running.take() {
            Some(running) => running,
            None => match PipeServer::worker().spawn(&mut self.command).await {
                Err(Error::WorkerEnded { status, .. }) => return Ok(Err(status)),
                started => started?,
            },
        };
        match timeout(JOB_TIME, ask(&mut conn, job)).await {
            Ok(Some(answer)) => {
                self.running = Some((child, conn));
                Ok(Ok(answer))
            }
            Ok(None) => Ok(Err(end(&mut child, GRACE).await?)),
            Err(_) => Ok(Err(end(&mut child, Duration::ZERO).await?)),
        }
    }

    /// Lets the worker end.
    async fn dismiss(self) -> Result<(), BoxError> {
        if let Some((mut child, conn)) = self.running {
            conn.close().await?;
            let status = end(&mut child, GRACE).await?;
            println!("worker dismissed: {status}");
        }
        Ok(())
    }
}

/// Asks, and waits for the answer; `None` when the connection ends, however it does.
async fn ask(conn: &mut PipeConnection, job: u64) -> Option<BytesMut> {
    conn.send(job.to_string().into()).await.ok()?;
    conn.next().await?.ok()
}

/// Waits until a worker has ended, and kills it if that takes too long.
async fn end(child: &mut Child, grace: Duration) -> std::io::Result<ExitStatus> {
    if timeout(grace, child.wait()).await.is_err() {
        child.start_kill()?;
    }
    child.wait().await
}

/// The worker: counts the primes below a thousand times the job's number.
async fn work(args: Args) -> Result<(), BoxError> {
    let mut conn = PipeClient::from_parent().connect().await?;
    let mut done = 0;
    while let Some(job) = conn.next().await {
        let job: u64 = std::str::from_utf8(&job?)?.parse()?;
        if done == args.crash_after || args.poison == Some(job) {
            // Standing for a bug.
            std::process::exit(101);
        }
        let end = 1000 * job;
        let is_prime = |n: &u64| {
            (2..)
                .take_while(|d| d * d <= *n)
                .all(|d| !n.is_multiple_of(d))
        };
        let primes = (2..end).filter(is_prime).count();
        let answer = format!("{primes} primes below {end}");
        conn.send(answer.into()).await?;
        done += 1;
    }
    conn.close().await?;
    Ok(())
}
