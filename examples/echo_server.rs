//! An echo server: every message goes back to the client that it came from.
//!
//! ```text
//! cargo run --example echo_server
//! cargo run --example echo_server -- --name demo --max-connections 4
//! ```
//!
//! and in another terminal `cargo run --example echo_client -- hello`. Ctrl-C, on Unix also SIGTERM,
//! ends it once its clients have finished. On Windows, `--message-mode` serves raw message pipes.
//! `RUST_LOG=debug` shows more, `RUST_LOG=warn` less.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use asyncipc::{BoxError, PipeConnection, PipeServer};
use clap::Parser;
use futures::{SinkExt, StreamExt};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How long clients may go on once the server is asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Sends every message back to the client that it came from.
#[derive(Parser)]
struct Args {
    /// Where to listen: a logical name, or a full path.
    #[arg(long, default_value = "echo")]
    name: String,

    /// How many clients may be connected at a time; further ones wait. Default: no limit.
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,

    /// Let the system keep messages apart, for clients that speak raw message pipes.
    #[cfg(windows)]
    #[arg(long)]
    message_mode: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    log_to_stderr();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), BoxError> {
    let asked = stop_signal()?;
    let stop = async {
        asked.await;
        tracing::info!("stopping once the clients have finished, in {DRAIN:?} at the latest");
    };

    let mut server = PipeServer::builder(args.name).drain_timeout(DRAIN);
    if let Some(clients) = args.max_connections {
        server = server.max_connections(clients);
    }
    #[cfg(windows)]
    if args.message_mode {
        server = asyncipc::windows::ServerBuilderExt::message_mode(server);
    }
    let server = server.bind()?;

    // Whoever started this may be waiting for the line.
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {}", server.name())?;
    stdout.flush()?;

    let stats = server.serve(echo).with_graceful_shutdown(stop).await?;

    let clients = counted(stats.clients, "client");
    let messages = counted(stats.traffic.messages_sent, "message");
    writeln!(stdout, "served {clients}, {messages}")?;
    Ok(())
}

/// Serves one client, until it leaves.
async fn echo(mut conn: PipeConnection) -> Result<(), BoxError> {
    tracing::info!("a client came");
    while let Some(message) = conn.next().await {
        conn.send(message?.freeze()).await?;
    }
    tracing::info!(messages = conn.stats().messages_sent, "the client left");
    Ok(())
}

/// Completes when the process is asked to stop. From the call on, not only from the first poll,
/// the request no longer kills it.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(windows)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::windows::{ctrl_break, ctrl_c};
    let (mut ctrl_c, mut ctrl_break) = (ctrl_c()?, ctrl_break()?);
    Ok(async move {
        tokio::select! {
            _ = ctrl_c.recv() => {}
            _ = ctrl_break.recv() => {}
        }
    })
}

fn log_to_stderr() {
    let info = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    tracing_subscriber::fmt()
        .with_env_filter(info.from_env_lossy())
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
