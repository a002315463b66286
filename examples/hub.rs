//! Serves all clients from one loop of events: sends each message back, and on to the other clients.
//!
//! ```text
//! cargo run --example hub
//! cargo run --example chat -- --name hub join alice      # in a second terminal
//! cargo run --example chat -- --name hub join bob        # in a third
//! ```
//!
//! Ctrl-C ends it. The hub disconnects a client that does not read when its queue is full. So sending
//! never waits, and can be done in the loop.

use std::process::ExitCode;

use asyncipc::hub::{Event, HubHandle, Overflow};
use asyncipc::{ConnectionId, Error, PipeHub, PipeServer};
use clap::Parser;
use futures::StreamExt;

/// Prints what happens to its clients.
#[derive(Parser)]
struct Args {
    /// Where to listen: a logical name, or a full path.
    #[arg(long, default_value = "hub")]
    name: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> Result<(), Error> {
    let mut hub = PipeHub::builder()
        .overflow(Overflow::Disconnect)
        .serve(PipeServer::bind(args.name)?);
    let clients = hub.handle();
    let on_ctrl_c = clients.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_ctrl_c.shutdown();
        }
    });
    while let Some(event) = hub.next().await {
        match event {
            Event::Listening => println!("listening on {}", hub.name()),
            Event::Connected { id, peer, .. } => {
                println!("{id} connected: {peer:?}");
                others(&clients, id, format!("{id} came"));
            }
            Event::Received { id, message, .. } => {
                let text = String::from_utf8_lossy(&message).into_owned();
                println!("{id} says {text:?}");
                others(&clients, id, format!("{id}: {text}"));
                // A client that has left meanwhile needs no answer.
                let _ = clients.try_send(id, message);
            }
            Event::Sent { id, len, .. } => println!("{id} was sent {len} bytes"),
            Event::Disconnected { id, reason, .. } => {
                println!("{id} disconnected: {reason}");
                let _ = clients.broadcast(format!("{id} left").into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Sends to all clients but one. An event says so if one of them has left or is too slow.
fn others(clients: &HubHandle, but: ConnectionId, text: String) {
    for id in clients.clients().into_iter().filter(|id| *id != but) {
        let _ = clients.try_send(id, text.clone().into());
    }
}
