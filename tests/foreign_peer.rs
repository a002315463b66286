//! A peer written in another language, with nothing but the system's sockets or pipes.

mod common;

use std::path::Path;
use std::process::{Output, Stdio};

use asyncipc::{PipeConnection, PipeServer};
use common::{sample, skipped, unique_name, within};
use futures::{SinkExt, StreamExt};
use tokio::process::{Child, Command};

/// Starts the Python peer, where there is Python.
async fn peer(mode: &str, path: &Path) -> Option<Child> {
    let python = if cfg!(windows) { "python" } else { "python3" };
    // On Windows a `python` that only opens the store is common: ask it for its version first.
    match Command::new(python).arg("--version").output().await {
        Ok(Output { status, .. }) if status.success() => {}
        other => {
            skipped(format!("no {python} here: {other:?}"));
            return None;
        }
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/echo.py");
    let child = Command::new(python)
        .arg(program)
        .arg(mode)
        .arg(path)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    Some(child.unwrap())
}

/// Sends 1,000 messages of many sizes, checks that each comes back, and ends the connection.
async fn exchange(conn: PipeConnection, peer: Child) {
    const COUNT: usize = 1000;
    let sizes = [0, 1, 13, 4095, 4096, 4097, 300, 65_535, 65_536, 100_000];
    let message = |n: usize| sample(sizes[n % sizes.len()], n);
    let (mut sender, mut receiver) = conn.split();
    let sending = async {
        for n in 0..COUNT {
            sender.send(message(n)).await.unwrap();
        }
    };
    let receiving = async {
        for n in 0..COUNT {
            let received = receiver.next().await.unwrap().unwrap();
            assert!(received == message(n), "message {n} came back otherwise");
        }
    };
    within(async { tokio::join!(sending, receiving) }).await;
    let conn = receiver.reunite(sender).unwrap();
    within(conn.close()).await.unwrap();
    let output = within(peer.wait_with_output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1000");
}

#[tokio::test]
async fn a_foreign_client_echoes_a_thousand_messages() {
    let mut server = PipeServer::bind(unique_name("foreign-client")).unwrap();
    let path = server.name().as_path().to_owned();
    let Some(peer) = peer("connect", &path).await else {
        return;
    };
    let conn = within(server.accept()).await.unwrap();
    exchange(conn, peer).await;
}

#[cfg(unix)] // Python's standard library cannot make a named pipe.
#[tokio::test]
async fn a_foreign_server_echoes_a_thousand_messages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    let Some(peer) = peer("listen", &path).await else {
        return;
    };
    let client = asyncipc::PipeClient::builder(&path).wait_for_server(true);
    let conn = within(client.connect()).await.unwrap();
    exchange(conn, peer).await;
}
