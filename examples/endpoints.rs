//! Programs that talk to each other by name: each line that is typed goes to another one.
//!
//! ```text
//! cargo run --features endpoint --example endpoints -- app.gui --to app.worker
//! cargo run --features endpoint --example endpoints -- app.worker --to app.gui   # in a second terminal
//! ```
//!
//! Neither has to be there first, and each can be stopped with Ctrl-C and started again: what is
//! typed meanwhile arrives when it is back. A line that begins with `?` is a request: the other
//! side replies with its upper case. The end of stdin ends the program.

use std::process::ExitCode;
use std::time::Duration;

use asyncipc::endpoint::{EndpointHandle, Event};
use asyncipc::{BoxError, Endpoint, PipeName};
use clap::Parser;
use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Sends lines to another program, and prints what comes.
#[derive(Parser)]
struct Args {
    /// The name of this program, by which the others find it.
    name: String,
    /// The program that gets the lines.
    #[arg(long)]
    to: String,
    /// After how many seconds a line that cannot be delivered comes back.
    #[arg(long, value_name = "SECS", default_value_t = 30.0)]
    give_up_after: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match talk(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn talk(args: Args) -> Result<(), BoxError> {
    // A bad one is known before anything is typed.
    PipeName::new(&args.to)?;
    let mut endpoint = Endpoint::builder(args.name)
        .give_up_after(Duration::try_from_secs_f64(args.give_up_after)?)
        .on("say", async |message| {
            println!("{}: {}", message.from, message.parse::<&str>()?);
            Ok(())
        })
        .on("upper", async |message| {
            Ok(message.parse::<&str>()?.to_uppercase())
        })
        .bind()?;
    tokio::spawn(end_on_ctrl_c(endpoint.handle()));
    tokio::spawn(send_lines(endpoint.handle(), args.to));
    while let Some(event) = endpoint.next().await {
        match event {
            Event::Ready => println!("ready on {}", endpoint.pipe()),
            Event::Message(message) => println!("nobody handles {message:?}"),
            Event::Undelivered {
                envelope, error, ..
            } => println!("{} was not delivered: {error}", envelope.data),
            Event::Error(error) => println!("{error}"),
            Event::Closed => println!("closed"),
            _ => {}
        }
    }
    Ok(())
}

async fn send_lines(endpoint: EndpointHandle, to: String) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let sent = match line.strip_prefix('?') {
            None => endpoint.send(&to, "say", line).await,
            Some(text) => match endpoint.request(&to, "upper", text.trim_start()).await {
                Ok(reply) => {
                    println!("{to} replies {reply}");
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = sent {
            println!("{error}");
        }
    }
    endpoint.shutdown();
}

async fn end_on_ctrl_c(endpoint: EndpointHandle) {
    if tokio::signal::ctrl_c().await.is_ok() {
        endpoint.shutdown();
    }
}
