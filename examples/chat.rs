//! A chat room: every line that one client sends reaches all others.
//!
//! ```text
//! cargo run --example chat -- serve
//! cargo run --example chat -- join alice      # in a second terminal
//! cargo run --example chat -- join bob        # in a third
//! ```
//!
//! Each client has a queue with a limit. A client that does not read holds the others back until its
//! queue has been full for a second. Then the room closes its connection.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asyncipc::{BoxError, ConnectionId, PipeClient, PipeConnection, PipeServer};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many lines wait for a client at most.
const QUEUE: usize = 64;

/// How long the room waits for room in a full queue.
const PATIENCE: Duration = Duration::from_secs(1);

/// A chat room for this machine.
#[derive(Parser)]
struct Args {
    /// Where the room is: a logical name, or a full path.
    #[arg(long, global = true, default_value = "chat")]
    name: String,

    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Opens the room.
    Serve,
    /// Enters the room: the lines of stdin go to all others.
    Join {
        /// Who speaks.
        nick: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.role {
        Role::Serve => serve(args.name).await,
        Role::Join { nick } => join(args.name, nick).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(name: String) -> Result<(), BoxError> {
    let server = PipeServer::builder(name)
        .max_message_size(64 << 10)
        // Clients stay for as long as the room is open: there is nothing to wait for.
        .drain_timeout(Duration::ZERO)
        .bind()?;
    show(format!("listening on {}", server.name()))?;
    let room = Arc::new(Room::default());
    server
        .serve(move |conn| visit(conn, room.clone()))
        .with_graceful_shutdown(tokio::signal::ctrl_c())
        .await?;
    Ok(())
}

/// Serves one client, whose first message is its name.
async fn visit(mut conn: PipeConnection, room: Arc<Room>) -> Result<(), BoxError> {
    let id = conn.id();
    let Some(nick) = conn.next().await.transpose()? else {
        return Ok(());
    };
    let nick = String::from_utf8_lossy(&nick).into_owned();
    let (mut sender, mut receiver) = conn.split();
    let (mut queue, put_out) = room.enter(id);

    let speak = async {
        room.tell(None, format!("* {nick} came")).await;
        while let Some(line) = receiver.next().await {
            let line = format!("{nick}: {}", String::from_utf8_lossy(&line?));
            room.tell(Some(id), line).await;
        }
        Ok::<_, BoxError>("left")
    };
    let listen = async {
        while let Some(line) = queue.recv().await {
            sender.send(line).await?;
        }
        Ok("left")
    };
    let left = tokio::select! {
        left = speak => left,
        left = listen => left,
        _ = put_out.cancelled() => Ok("is too slow and was put out"),
    };

    room.leave(id);
    room.tell(
        None,
        format!("* {nick} {}", left.as_ref().unwrap_or(&"was cut off")),
    )
    .await;
    left.map(drop)
}

/// The clients that are connected.
#[derive(Default)]
struct Room(Mutex<HashMap<ConnectionId, Member>>);

#[derive(Clone)]
struct Member {
    queue: mpsc::Sender<Bytes>,
    put_out: CancellationToken,
}

impl Room {
    fn enter(&self, id: ConnectionId) -> (mpsc::Receiver<Bytes>, CancellationToken) {
        let (queue, lines) = mpsc::channel(QUEUE);
        let put_out = CancellationToken::new();
        let member = Member {
            queue,
            put_out: put_out.clone(),
        };
        self.0.lock().unwrap().insert(id, member);
        (lines, put_out)
    }

    fn leave(&self, id: ConnectionId) {
        self.0.lock().unwrap().remove(&id);
    }

    /// Sends a line to all clients but one. A client whose queue stays full is put out.
    async fn tell(&self, but: Option<ConnectionId>, line: String) {
        let line = Bytes::from(line);
        let members = self.0.lock().unwrap().clone();
        let others = members.into_iter().filter(|(id, _)| Some(*id) != but);
        join_all(others.map(|(_, member)| {
            let line = line.clone();
            async move {
                if member.queue.send_timeout(line, PATIENCE).await.is_err() {
                    member.put_out.cancel();
                }
            }
        }))
        .await;
    }
}

async fn join(name: String, nick: String) -> Result<(), BoxError> {
    let mut conn = PipeClient::connect(name).await?;
    conn.send(nick.into()).await?;
    let mut typed = stdin_lines();
    loop {
        tokio::select! {
            said = conn.next() => match said.transpose()? {
                Some(line) => show(String::from_utf8_lossy(&line))?,
                None => return Err("the room was closed".into()),
            },
            line = typed.recv() => match line {
                Some(line) => conn.send(line.into()).await?,
                None => break,
            },
        }
    }
    conn.close().await?;
    Ok(())
}

/// A thread of its own reads stdin: unlike tokio's, it does not keep the process from ending.
fn stdin_lines() -> mpsc::Receiver<String> {
    let (lines, typed) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    typed
}

fn show(line: impl std::fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
