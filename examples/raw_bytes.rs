//! The layer of bytes alone: sends a file through a pipe, without any framing.
//!
//! ```text
//! cargo run --example raw_bytes -- receive > copy
//! cargo run --example raw_bytes -- send < Cargo.toml      # in a second terminal
//! ```

use std::io;
use std::process::ExitCode;

use asyncipc::{BoxError, PipeClient, PipeListener};
use clap::{Parser, Subcommand};
use tokio::io::{AsyncWriteExt, copy, stdin, stdout};

/// Sends bytes from stdin to stdout, through a pipe.
#[derive(Parser)]
struct Args {
    /// The pipe: a logical name, or a full path.
    #[arg(long, global = true, default_value = "raw-bytes")]
    name: String,

    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Waits for one sender, and writes what it sends to stdout.
    Receive,
    /// Sends stdin.
    Send,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.role {
        Role::Receive => receive(args.name).await,
        Role::Send => send(args.name).await,
    };
    match result {
        Ok(n) => {
            eprintln!("{n} bytes");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn receive(name: String) -> Result<u64, BoxError> {
    let mut listener = PipeListener::bind(name)?;
    // Stdout is for the bytes.
    eprintln!("listening on {}", listener.name());
    let mut stream = listener.accept().await?;
    let mut stdout = stdout();
    let n = copy(&mut stream, &mut stdout).await?;
    stdout.flush().await?;
    Ok(n)
}

async fn send(name: String) -> Result<u64, BoxError> {
    let mut stream = PipeClient::builder(name).connect_bytes().await?;
    let n = copy(&mut stdin(), &mut stream)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("not everything was sent: {e}")))?;
    // Returns when the receiver has everything.
    stream.close().await?;
    Ok(n)
}
