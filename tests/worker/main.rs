//! Worker processes with a private channel. Each is this test program, in a part of its own.

#[path = "../common/mod.rs"]
mod common;

mod channel;
mod commands;
mod ending;
mod inheriting;
mod parts;

use std::process::Stdio;

use asyncipc::{PipeClient, PipeConnection, PipeServer};
use common::{PATIENCE, ROLE, itself, sample, unique_name, within};
use futures::{SinkExt, StreamExt};
use tokio::process::{Child, Command};

/// Tells a worker where its channel is.
const CHANNEL: &str = "ASYNCIPC_CHANNEL";

/// Where a process reports to its test, past the channel.
const REPORT: &str = "ASYNCIPC_TEST_REPORT";

/// This program, to play a part of [`plays_its_part`].
fn program(part: &str) -> Command {
    let mut command = Command::from(itself("parts::plays_its_part"));
    command
        .env(ROLE, part)
        .env_remove(CHANNEL)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn start(command: &mut Command) -> (Child, PipeConnection) {
    let worker = PipeServer::worker().linger(PATIENCE);
    within(worker.spawn(command)).await.unwrap()
}

/// Where the processes of one test report.
struct Reports {
    server: PipeServer,
    name: String,
}

impl Reports {
    fn listen() -> Self {
        let name = unique_name("report");
        let server = PipeServer::bind(&name).unwrap();
        Reports { server, name }
    }

    async fn next(&mut self) -> PipeConnection {
        within(self.server.accept()).await.unwrap()
    }
}

/// The way to the test, from a process that plays a part.
async fn report() -> PipeConnection {
    let name = std::env::var(REPORT).unwrap();
    PipeClient::connect(name).await.unwrap()
}

async fn said(conn: &mut PipeConnection) -> String {
    let message = within(conn.next()).await.expect("it has ended").unwrap();
    String::from_utf8(message.to_vec()).unwrap()
}

async fn ended(conn: &mut PipeConnection) {
    let end = within(conn.next()).await;
    assert!(end.is_none(), "{end:?}");
}

/// Sends messages of many sizes, and checks that each comes back.
async fn exchange(conn: PipeConnection) -> PipeConnection {
    let sizes = [5, 0, 1, 4096, 65_536, 1 << 20, 1 << 20, 100];
    let (mut sender, mut receiver) = conn.split();
    let sending = async {
        for (n, size) in sizes.into_iter().enumerate() {
            sender.send(sample(size, n)).await.unwrap();
        }
    };
    let receiving = async {
        for (n, size) in sizes.into_iter().enumerate() {
            let received = receiver.next().await.unwrap().unwrap();
            assert!(
                received == sample(size, n),
                "message {n} came back otherwise"
            );
        }
    };
    within(async { tokio::join!(sending, receiving) }).await;
    receiver.reunite(sender).unwrap()
}
