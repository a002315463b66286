//! Programs in C, made of nothing but the calls of the Win32 documentation, as peers.
#![cfg(windows)]

mod common;

use std::path::PathBuf;
use std::process::{Output, Stdio};

use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
use asyncipc::{Error, PipeClient, PipeConnection, PipeServer, ServerBuilder};
use bytes::Bytes;
use common::{PATIENCE, sample, skipped, stays_pending, unique_name, within};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::{JoinHandle, JoinSet};

/// Around what the peers read at a time, and around the pipe's quota.
const SIZES: [usize; 10] = [0, 1, 4095, 4096, 4097, 0, 65_535, 65_536, 1 << 20, 3];

fn sizes() -> Vec<String> {
    SIZES.iter().map(usize::to_string).collect()
}

/// A program of `tests/peers`, where it was built: `scripts/test-windows` does that, and says
/// where.
fn peer(program: &str) -> Option<Command> {
    let Some(folder) = std::env::var_os("ASYNCIPC_C_PEERS") else {
        skipped("no C peers were built: ASYNCIPC_C_PEERS is not set");
        return None;
    };
    let mut command = Command::new(PathBuf::from(folder).join(format!("{program}.exe")));
    command.stdout(Stdio::piped()).kill_on_drop(true);
    Some(command)
}

/// How long the C clients wait for a busy pipe, in milliseconds: longer than any test takes.
const PATIENT: &str = "300000";

fn path(name: &str) -> String {
    format!(r"\\.\pipe\{name}")
}

fn client(name: &str, wait: &str, mode: &str, arguments: &[String]) -> Option<Running> {
    let mut command = peer("blocking_client")?;
    command.args([&path(name), wait, mode]).args(arguments);
    Some(Running::start(command))
}

/// A program, and what it says.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    /// Waits until the program has said exactly this next.
    #[track_caller]
    fn says(&mut self, line: &str) -> impl Future<Output = ()> {
        let said = within(self.lines.next_line());
        async move { assert_eq!(said.await.unwrap().as_deref(), Some(line)) }
    }

    /// Waits for its end: the code, and what else it has said.
    #[track_caller]
    fn ends(mut self) -> impl Future<Output = (Option<i32>, Vec<String>)> {
        within(async move {
            let mut rest = Vec::new();
            while let Some(line) = self.lines.next_line().await.unwrap() {
                rest.push(line);
            }
            let Output { status, .. } = self.child.wait_with_output().await.unwrap();
            (status.code(), rest)
        })
    }

    /// Waits for its success, without another word.
    #[track_caller]
    fn succeeds(self) -> impl Future<Output = ()> {
        let ends = self.ends();
        async move { assert_eq!(ends.await, (Some(0), vec![])) }
    }
}

/// Serves that many clients with an echo, and returns how many messages each of them sent.
fn echo(builder: &ServerBuilder, clients: usize) -> JoinHandle<Vec<usize>> {
    let mut server = builder.bind().unwrap();
    tokio::spawn(async move {
        let mut served = JoinSet::new();
        for _ in 0..clients {
            let conn = within(server.accept()).await.unwrap();
            served.spawn(echo_one(conn));
        }
        served.join_all().await
    })
}

async fn echo_one(mut conn: PipeConnection) -> usize {
    let mut messages = 0;
    while let Some(message) = within(conn.next()).await {
        conn.send(message.unwrap().freeze()).await.unwrap();
        messages += 1;
    }
    messages
}

/// Sends messages of all sizes, and checks that each comes back, while more are on their way.
async fn exchange(conn: PipeConnection) -> PipeConnection {
    let (mut sender, mut receiver) = conn.split();
    let sending = async {
        for (n, size) in SIZES.into_iter().enumerate() {
            sender.send(sample(size, n)).await.unwrap();
        }
    };
    let receiving = async {
        for (n, size) in SIZES.into_iter().enumerate() {
            let received = receiver.next().await.unwrap().unwrap();
            assert!(received == sample(size, n), "message {n} came otherwise");
        }
    };
    within(async { tokio::join!(sending, receiving) }).await;
    receiver.reunite(sender).unwrap()
}

fn message_server(name: &str) -> ServerBuilder {
    PipeServer::builder(name).message_mode().linger(PATIENCE)
}

#[tokio::test]
async fn a_blocking_client_gets_messages_of_every_size_back() {
    let name = unique_name("c-echo");
    let served = echo(&message_server(&name), 1);
    let Some(client) = client(&name, PATIENT, "echo", &sizes()) else {
        return;
    };
    client.succeeds().await;
    assert_eq!(within(served).await.unwrap(), [SIZES.len()]);
}

#[tokio::test]
async fn a_blocking_client_transacts() {
    let name = unique_name("c-transact");
    let served = echo(&message_server(&name), 1);
    let Some(client) = client(&name, PATIENT, "transact", &sizes()) else {
        return;
    };
    client.succeeds().await;
    assert_eq!(within(served).await.unwrap(), [SIZES.len()]);
}

#[tokio::test]
async fn a_blocking_client_calls_with_a_connection_for_each_message() {
    let name = unique_name("c-call");
    // One place for all of them: each call waits until the one before is gone.
    let server = message_server(&name).max_connections(1);
    let served = echo(&server, SIZES.len());
    let Some(client) = client(&name, PATIENT, "call", &sizes()) else {
        return;
    };
    client.succeeds().await;
    assert_eq!(within(served).await.unwrap(), [1; SIZES.len()]);
}

#[tokio::test]
async fn texts_in_ansi_and_in_utf_16_arrive_with_their_nul() {
    let wide = |text: &str| -> Bytes { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let ansi = b"Gr\xFC\xDFe f\xFCr 5 \x80\0";
    for (encoding, text, front) in [
        ("ansi", Bytes::from_static(ansi), Bytes::from("got: ")),
        ("utf16", wide("Grüße 世界 🚀\0"), wide("got: ")),
    ] {
        let name = unique_name("c-text");
        let mut server = message_server(&name).bind().unwrap();
        let Some(client) = client(&name, PATIENT, "text", &[encoding.into()]) else {
            return;
        };
        let mut conn = within(server.accept()).await.unwrap();
        let received = within(conn.next()).await.unwrap().unwrap();
        assert_eq!(received, text);
        let answer = [front, received.freeze()].concat();
        within(conn.send(answer.into())).await.unwrap();
        client.succeeds().await;
        assert!(within(conn.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_second_blocking_client_waits_for_its_place_and_is_served() {
    let name = unique_name("c-busy");
    let mut server = message_server(&name).max_connections(1).bind().unwrap();
    let Some(first) = client(&name, PATIENT, "echo", &["5".into()]) else {
        return;
    };
    let mut conn = within(server.accept()).await.unwrap();
    let message = within(conn.next()).await.unwrap().unwrap();

    let mut second = client(&name, PATIENT, "echo", &["7".into()]).unwrap();
    second.says("busy").await;
    conn.send(message.freeze()).await.unwrap();
    first.succeeds().await;
    assert!(within(conn.next()).await.is_none());
    drop(conn);

    let conn = within(server.accept()).await.unwrap();
    assert_eq!(echo_one(conn).await, 1);
    second.succeeds().await;
}

#[tokio::test]
async fn a_blocking_client_may_wait_as_long_as_the_server_has_set() {
    for (wait, served) in [(PATIENCE * 5, true), (std::time::Duration::ZERO, false)] {
        let name = unique_name("c-default-wait");
        let server = message_server(&name).default_timeout(wait);
        let mut server = server.max_connections(1).bind().unwrap();
        let holder = PipeClient::builder(&name).message_mode().connect();
        let holder = within(holder).await.unwrap();
        let held = within(server.accept()).await.unwrap();

        let Some(mut client) = client(&name, "0", "echo", &["5".into()]) else {
            return;
        };
        client.says("busy").await;
        if !served {
            // Nobody leaves: the wait ends by itself.
            assert_eq!(client.ends().await, (Some(2), vec!["timed out".into()]));
            continue;
        }
        drop((holder, held));
        let conn = within(server.accept()).await.unwrap();
        assert_eq!(echo_one(conn).await, 1);
        client.succeeds().await;
    }
}

#[tokio::test]
async fn a_client_in_c_frames_its_messages_for_a_server_of_bytes() {
    for overlapped in [false, true] {
        let name = unique_name("c-frames");
        let mut server = PipeServer::builder(&name).linger(PATIENCE);
        if overlapped {
            server = server.overlapped_io();
        }
        let served = echo(&server, 1);
        let Some(client) = client(&name, PATIENT, "frames", &sizes()) else {
            return;
        };
        client.succeeds().await;
        assert_eq!(within(served).await.unwrap(), [SIZES.len()]);
    }
}

#[tokio::test]
async fn a_blocking_client_and_our_server_half_close_by_an_empty_message() {
    let name = unique_name("c-half-close");
    let server = message_server(&name).end_on_empty_message();
    let mut server = server.bind().unwrap();
    // Here an empty message can only be the end.
    let sizes: Vec<_> = sizes().into_iter().filter(|it| it != "0").collect();
    let Some(client) = client(&name, PATIENT, "half-close", &sizes) else {
        return;
    };
    let mut conn = within(server.accept()).await.unwrap();
    let mut messages = Vec::new();
    while let Some(message) = within(conn.next()).await {
        messages.push(message.unwrap().freeze());
    }
    let received: Vec<_> = messages.iter().map(|it| it.len().to_string()).collect();
    assert_eq!(received, sizes);
    // Its direction has ended; ours has not.
    for message in messages {
        within(conn.send(message)).await.unwrap();
    }
    within(conn.close_write()).await.unwrap();
    client.succeeds().await;
}

async fn overlapped_server(
    name: &str,
    mode: &str,
    instances: u32,
    clients: u32,
) -> Option<Running> {
    let mut command = peer("overlapped_server")?;
    command.args([path(name), mode.into()]);
    command.args([instances.to_string(), clients.to_string()]);
    let mut server = Running::start(command);
    server.says("ready").await;
    Some(server)
}

#[tokio::test]
async fn many_clients_talk_at_once_to_an_overlapped_server() {
    let name = unique_name("c-overlapped");
    let Some(server) = overlapped_server(&name, "echo", 4, 12).await else {
        return;
    };
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        // Twelve for four places: most of them have to wait.
        let client = PipeClient::builder(&name).message_mode().timeout(PATIENCE);
        clients.spawn(async move { drop(exchange(client.connect().await.unwrap()).await) });
    }
    within(clients.join_all()).await;
    server.succeeds().await;
}

#[tokio::test]
async fn a_client_waits_for_the_only_instance_of_an_overlapped_server() {
    let name = unique_name("c-one-instance");
    let Some(server) = overlapped_server(&name, "echo", 1, 2).await else {
        return;
    };
    let client = PipeClient::builder(&name).message_mode();
    let first = within(client.connect()).await.unwrap();
    let busy = client.clone().no_wait().connect().await;
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");

    let second = client.timeout(PATIENCE).connect();
    tokio::pin!(second);
    assert!(stays_pending(&mut second).await);
    drop(exchange(first).await);
    let second = within(second).await.unwrap();
    drop(exchange(second).await);
    server.succeeds().await;
}

#[tokio::test]
async fn a_server_that_flushes_and_disconnects_has_ended_cleanly() {
    let name = unique_name("c-farewell");
    let Some(server) = overlapped_server(&name, "farewell", 1, 6).await else {
        return;
    };
    let client = PipeClient::builder(&name).message_mode().timeout(PATIENCE);
    for size in [1, 4096, 65_536, 1 << 20] {
        let mut conn = within(client.connect()).await.unwrap();
        within(conn.send(sample(size, 0))).await.unwrap();
        let received = within(conn.next()).await.unwrap().unwrap();
        assert!(received == sample(size, 0), "{size} bytes came otherwise");
        let end = within(conn.next()).await;
        assert!(end.is_none(), "{end:?}");
        let refused = within(conn.send(sample(1, 0))).await;
        assert!(matches!(refused, Err(Error::Closed { .. })), "{refused:?}");
    }
    // And so for bytes, whoever moves them.
    let client = PipeClient::builder(&name).timeout(PATIENCE);
    for client in [client.clone(), client.overlapped_io()] {
        let mut conn = within(client.connect_bytes()).await.unwrap();
        conn.write_all(b"good bye").await.unwrap();
        let mut received = Vec::new();
        within(conn.read_to_end(&mut received)).await.unwrap();
        assert_eq!(received, b"good bye");
    }
    server.succeeds().await;
}

#[tokio::test]
async fn our_client_and_an_overlapped_server_half_close_by_an_empty_message() {
    let name = unique_name("c-half-closed");
    let Some(server) = overlapped_server(&name, "half-close", 1, 1).await else {
        return;
    };
    let client = PipeClient::builder(&name).message_mode();
    let conn = within(client.end_on_empty_message().connect()).await;
    let (mut sender, mut receiver) = conn.unwrap().split();
    let sizes = || SIZES.into_iter().filter(|it| *it != 0).enumerate();
    let sending = async {
        for (n, size) in sizes() {
            sender.send(sample(size, n)).await.unwrap();
        }
        sender.close_write().await.unwrap();
    };
    let receiving = async {
        for (n, size) in sizes() {
            let received = receiver.next().await.unwrap().unwrap();
            assert!(received == sample(size, n), "message {n} came otherwise");
        }
        let end = receiver.next().await;
        assert!(end.is_none(), "{end:?}");
    };
    within(async { tokio::join!(sending, receiving) }).await;
    drop((sender, receiver));
    server.succeeds().await;
}

#[tokio::test]
async fn a_pipe_of_bytes_in_c_refuses_messages_and_serves_frames() {
    let name = unique_name("c-bytes");
    let Some(server) = overlapped_server(&name, "bytes", 1, 3).await else {
        return;
    };
    let client = PipeClient::builder(&name).timeout(PATIENCE);
    let refused = within(client.clone().message_mode().connect()).await;
    assert!(
        matches!(refused, Err(Error::ModeMismatch { .. })),
        "{refused:?}"
    );
    for client in [client.clone(), client.overlapped_io()] {
        let mut conn = exchange(within(client.connect()).await.unwrap()).await;
        let half = conn.close_write().await;
        assert!(matches!(half, Err(Error::ModeMismatch { .. })), "{half:?}");
    }
    server.succeeds().await;
}

#[tokio::test]
async fn a_client_of_bytes_on_a_pipe_of_messages_has_its_frames_but_no_boundaries() {
    let name = unique_name("c-no-boundaries");
    let Some(server) = overlapped_server(&name, "echo", 1, 4).await else {
        return;
    };
    let client = PipeClient::builder(&name).timeout(PATIENCE);
    for client in [client.clone(), client.overlapped_io()] {
        drop(exchange(within(client.connect()).await.unwrap()).await);

        let mut conn = within(client.connect_bytes()).await.unwrap();
        for message in [b"abc", b"def", b"ghi"] {
            conn.write_all(message).await.unwrap();
        }
        for part in ["ab", "cdefg", "hi"] {
            let mut received = vec![0; part.len()];
            within(conn.read_exact(&mut received)).await.unwrap();
            assert_eq!(received, part.as_bytes());
        }
    }
    server.succeeds().await;
}

#[tokio::test]
async fn a_completion_routine_server_answers_its_clients() {
    let Some(mut command) = peer("completion_server") else {
        return;
    };
    let name = unique_name("c-completion");
    const CLIENTS: usize = 5;
    command.args([path(&name), (CLIENTS + 2).to_string()]);
    let mut server = Running::start(command);
    server.says("ready").await;
    let wide = |text: &str| -> Bytes { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let client = PipeClient::builder(&name).message_mode();

    let mut conns = Vec::new();
    for _ in 0..CLIENTS {
        // It listens for the next client some time after it has taken one.
        let client = client.clone().wait_for_server(true).timeout(PATIENCE);
        conns.push(within(client.connect()).await.unwrap());
    }
    for round in 0..3 {
        for conn in &mut conns {
            let request = format!("request {round}\0");
            within(conn.send(wide(&request))).await.unwrap();
            server.says(request.trim_end_matches('\0')).await;
            let answer = within(conn.next()).await.unwrap().unwrap();
            assert_eq!(answer, wide("Default answer from server\0"));
        }
    }
    drop(conns);

    // What it does not take: nothing, and more than it has room for.
    for size in [0, 2 * 4096 + 1] {
        let mut conn = within(client.connect()).await.unwrap();
        within(conn.send(sample(size, 0))).await.unwrap();
        let end = within(conn.next()).await;
        assert!(end.is_none(), "{end:?}");
    }
    assert_eq!(server.ends().await, (Some(0), vec![]));
}

/// The text number `n`, as `text_peer` has it.
fn text(n: usize, longest: usize) -> Bytes {
    let size = [1, 20, 300, 4095, 4096, 4097, 9000][n % 7];
    (0..size.min(longest))
        .map(|i| b'a' + ((i + n) % 26) as u8)
        .collect()
}

const TEXTS: usize = 50;

/// Both ends send whenever they like.
async fn chat(conn: PipeConnection, longest: usize) -> PipeConnection {
    let (mut sender, mut receiver) = conn.split();
    let sending = async {
        for n in 0..TEXTS {
            sender.send(text(n, longest)).await.unwrap();
        }
    };
    let receiving = async {
        for n in 0..TEXTS {
            let received = receiver.next().await.unwrap().unwrap();
            assert!(received == text(n, longest), "text {n} came otherwise");
        }
    };
    within(async { tokio::join!(sending, receiving) }).await;
    within(sender.send("exit".into())).await.unwrap();
    receiver.reunite(sender).unwrap()
}

fn text_peer(name: &str, role: &str, manner: &str, longest: usize) -> Option<Running> {
    let mut command = peer("text_peer")?;
    command.args([&path(name), role, manner]);
    command.args([TEXTS.to_string(), longest.to_string()]);
    Some(Running::start(command))
}

#[tokio::test]
async fn a_client_that_reads_bytes_exchanges_texts_with_our_message_server() {
    for manner in ["events", "routines"] {
        let name = unique_name("c-text-client");
        let mut server = message_server(&name).bind().unwrap();
        let Some(client) = text_peer(&name, "client", manner, 9000) else {
            return;
        };
        let mut conn = chat(within(server.accept()).await.unwrap(), 9000).await;
        let end = within(conn.next()).await;
        assert!(end.is_none(), "{end:?}");
        client.succeeds().await;
    }
}

#[tokio::test]
async fn our_message_client_exchanges_texts_with_a_server_that_sends_whenever_it_likes() {
    // Its completion routines cannot read what is longer than its buffer: systems differ in how
    // ReadFileEx tells of the rest of a message.
    for (manner, longest) in [("events", 9000), ("routines", 4096)] {
        let name = unique_name("c-text-server");
        let Some(mut server) = text_peer(&name, "server", manner, longest) else {
            return;
        };
        server.says("ready").await;
        let client = PipeClient::builder(&name).message_mode();
        let conn = within(client.connect()).await.unwrap();
        let mut conn = chat(conn, longest).await;
        let end = within(conn.next()).await;
        assert!(end.is_none(), "{end:?}");
        server.succeeds().await;
    }
}
