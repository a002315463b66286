//! Sends messages to the echo server, and checks that each comes back as it was.
//!
//! ```text
//! cargo run --example echo_client -- hello world              # two messages
//! ls | cargo run --example echo_client                        # each line of stdin
//! cargo run --release --example echo_client -- --count 100000 --size 1024
//! cargo run --example echo_client -- --wait-for-server hello  # before the server is up
//! ```
//!
//! The server, in another terminal: `cargo run --example echo_server`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use asyncipc::{BoxError, MessageCodec, PipeClient, PipeConnection};
use bytes::Bytes;
use clap::Parser;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, BufReader};

/// Sends messages to an echo server, and checks that each comes back as it was.
#[derive(Parser)]
struct Args {
    /// Where the server listens: a logical name, or a full path.
    #[arg(long, default_value = "echo")]
    name: String,

    /// How long to wait for a server that is busy.
    #[arg(long, value_name = "SECS", default_value = "5", value_parser = seconds)]
    timeout: Duration,

    /// Wait also for a server that is not there yet.
    #[arg(long)]
    wait_for_server: bool,

    /// Send this many generated messages, and tell how fast it went.
    #[arg(long, value_name = "N", conflicts_with = "messages")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// How long each generated message is.
    #[arg(long, value_name = "BYTES", requires = "count", default_value = "64")]
    size: usize,

    /// Talk to a server that speaks raw message pipes.
    #[cfg(windows)]
    #[arg(long)]
    message_mode: bool,

    /// What to send; without any, the lines of stdin.
    #[arg(value_name = "MESSAGE")]
    messages: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), BoxError> {
    let client = PipeClient::builder(args.name)
        .timeout(args.timeout)
        .wait_for_server(args.wait_for_server);
    #[cfg(windows)]
    let client = match args.message_mode {
        true => asyncipc::windows::ClientBuilderExt::message_mode(client),
        false => client,
    };
    let mut conn = client.connect().await?;

    if let Some(count) = args.count {
        measure(&mut conn, count, args.size).await?;
    } else if args.messages.is_empty() {
        if io::stdin().is_terminal() {
            eprintln!("connected to {}: each line is a message", conn.name());
        }
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            show(&echo(&mut conn, line.into()).await?)?;
        }
    } else {
        for message in args.messages {
            show(&echo(&mut conn, message.into()).await?)?;
        }
    }

    conn.close().await?;
    Ok(())
}

/// Sends a message, and returns what came back: the same, or else it is an error.
async fn echo(conn: &mut PipeConnection, message: Bytes) -> Result<Bytes, BoxError> {
    conn.send(message.clone()).await?;
    let echo = conn
        .next()
        .await
        .ok_or("the server left without answering")??;
    if echo != message {
        let (sent, came) = (message.len(), echo.len());
        return Err(format!("sent {sent} bytes, and other {came} bytes came back").into());
    }
    Ok(echo.freeze())
}

fn show(echo: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(echo)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// One message after the other, each a little different from the last.
async fn measure(conn: &mut PipeConnection, count: u64, size: usize) -> Result<(), BoxError> {
    let most = MessageCodec::DEFAULT_MAX_MESSAGE_SIZE;
    if size > most {
        let error = format!("a message of {size} bytes is above the limit of {most} bytes");
        return Err(error.into());
    }
    let pattern: Vec<u8> = (0..=250).collect();
    let pattern = Bytes::from(pattern.repeat(size / pattern.len() + 2));

    let mut round_trips = Vec::new();
    let started = Instant::now();
    for i in 0..count {
        let offset = (i % 251) as usize;
        let sent = Instant::now();
        echo(conn, pattern.slice(offset..offset + size)).await?;
        round_trips.push(sent.elapsed());
    }
    let total = started.elapsed().as_secs_f64();

    round_trips.sort_unstable();
    let percentile = |p: usize| round_trips[(round_trips.len() * p).div_ceil(100) - 1];
    let (p50, p99) = (percentile(50), percentile(99));
    let per_second = count as f64 / total;
    let mib = per_second * size as f64 / f64::from(1 << 20);
    writeln!(
        io::stdout(),
        "{count} x {size} bytes in {total:.2} s: {per_second:.0} messages/s, {mib:.1} MiB/s each \
         way, round trip p50 {p50:.1?}, p99 {p99:.1?}"
    )?;
    Ok(())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}
