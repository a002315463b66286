//! Raw peers that send whatever they like, in pieces, to a server, a hub and an endpoint. Honest
//! clients beside them lose nothing.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use asyncipc::endpoint;
use asyncipc::hub::Event;
use asyncipc::{Endpoint, PipeClient, PipeHub, PipeName, PipeServer};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinSet, yield_now};

use crate::platform::{self, Raw};
use crate::run::{
    Result, Run, SOON, count, echo, ensure, fail, length, multi_thread, number, numbered, unique,
    within, within_time,
};

/// The longest message, so that it is cheap to send one above it.
const LIMIT: usize = 64 << 10;

/// How many raw peers there are at a time, and honest ones for each kind of server.
const PEERS: u64 = 6;
const HONEST: u64 = 2;

pub(crate) fn run(run: &Run) -> Result<String> {
    // Tokio's first runtime opens a pair of sockets for signals, for good.
    drop(multi_thread()?);
    let before = platform::descriptors();
    let (attacked, whole, echoed) = multi_thread()?.block_on(fuzz(run))?;
    if let (Some(before), Some(after)) = (before, platform::descriptors()) {
        ensure!(
            after <= before,
            "{before} descriptors were open before, and {after} are afterwards"
        );
    }
    Ok(format!(
        "{} raw connections, {} with every message echoed; {} honest messages, 0 lost",
        count(attacked),
        count(whole),
        count(echoed)
    ))
}

/// Whom a raw peer talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Server,
    Hub,
    Endpoint,
}

async fn fuzz(run: &Run) -> Result<(u64, u64, u64)> {
    let names = ["server", "hub", "endpoint"].map(unique);
    let targets = [Target::Server, Target::Hub, Target::Endpoint];

    let server = PipeServer::builder(&names[0])
        .max_message_size(LIMIT)
        .linger(SOON)
        .bind()?;
    let stop = server.shutdown_handle();
    let serving = server.serve(echo);
    let serving = tokio::spawn(serving);

    let hub = PipeServer::builder(&names[1])
        .max_message_size(LIMIT)
        .linger(SOON)
        .drain_timeout(SOON)
        .bind()?;
    let hub = PipeHub::builder().serve(hub);
    let clients = hub.handle();
    let hub = tokio::spawn(echoing_hub(hub));

    let endpoint = Endpoint::builder(&names[2])
        .max_message_size(LIMIT)
        .drain_timeout(SOON)
        .on("echo", async |message| Ok(message.data))
        .bind()?;
    let handle = endpoint.handle();
    let endpoint = tokio::spawn(ignored(endpoint));

    let (attacked, whole, echoed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let counters: &'static [AtomicU64; 3] = Box::leak(Box::new([attacked, whole, echoed]));
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for peer in 0..PEERS {
        let (run, names) = (run.clone(), names.clone());
        tasks.spawn(async move {
            let mut rng = run.choices(peer);
            while run.goes_on() {
                let i = rng.random_range(0..targets.len());
                let name = PipeName::new(&names[i])?;
                if attack(targets[i], name.as_path(), &mut rng).await? {
                    counters[1].fetch_add(1, Relaxed);
                }
                counters[0].fetch_add(1, Relaxed);
            }
            Ok(())
        });
    }
    for (i, target) in targets.into_iter().enumerate() {
        for honest in 0..HONEST {
            let (run, name) = (run.clone(), names[i].clone());
            let rng = run.choices(1000 + i as u64 * HONEST + honest);
            tasks.spawn(async move {
                if target == Target::Endpoint {
                    ask(&run, &name, rng, &counters[2]).await
                } else {
                    talk(&run, &name, rng, &counters[2]).await
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }

    stop.shutdown();
    within("the server drains", serving).await???;
    clients.shutdown();
    within("the hub drains", hub).await??;
    handle.shutdown();
    within("the endpoint drains", endpoint).await??;
    let [attacked, whole, echoed] = counters.each_ref().map(|it| it.load(Relaxed));
    Ok((attacked, whole, echoed))
}

async fn echoing_hub(mut hub: PipeHub) {
    let clients = hub.handle();
    while let Some(event) = hub.next().await {
        if let Event::Received { id, message, .. } = event {
            // Raw peers may not read, and may have left. Honest ones never have a full queue.
            let _ = clients.try_send(id, message);
        }
    }
}

async fn ignored(mut endpoint: Endpoint) {
    while let Some(event) = endpoint.next().await {
        if let endpoint::Event::Closed = event {
            break;
        }
    }
}

/// An honest client, which has every message echoed.
async fn talk(run: &Run, name: &str, mut rng: SmallRng, echoed: &AtomicU64) -> Result<()> {
    let mut next = 0;
    while run.goes_on() {
        let connecting = PipeClient::builder(name).max_message_size(LIMIT).connect();
        let mut conn = within("an honest client connects", connecting).await??;
        for _ in 0..rng.random_range(1..50) {
            let messages = rng.random_range(1..8);
            let sent: Vec<Bytes> = (next..next + messages)
                .map(|it| numbered(it, length(&mut rng, 4000)))
                .collect();
            for message in &sent {
                within("an honest client sends", conn.send(message.clone())).await??;
            }
            for message in sent {
                let what = format!("the echo of honest message {next}");
                let echo = within(&what, conn.next()).await?;
                let Some(echo) = echo.transpose()? else {
                    fail!("the stream ended before {what}");
                };
                let found = number(&echo)?;
                ensure!(echo == message, "{found} came in place of {what}");
                next += 1;
                echoed.fetch_add(1, Relaxed);
            }
        }
        within("an honest client closes", conn.close()).await??;
    }
    Ok(())
}

/// The same with requests to an endpoint.
async fn ask(run: &Run, name: &str, mut rng: SmallRng, echoed: &AtomicU64) -> Result<()> {
    let own = Endpoint::builder(unique("honest"))
        .drain_timeout(SOON)
        .bind()?;
    let handle = own.handle();
    let own = tokio::spawn(ignored(own));
    let mut next = 0_u64;
    while run.goes_on() {
        let text = "x".repeat(length(&mut rng, 2000));
        let asking = handle.request(name, "echo", (next, &text));
        let reply = within(format!("the reply to request {next}"), asking).await??;
        ensure!(
            reply == serde_json::json!([next, text]),
            "request {next} was answered with {reply}"
        );
        next += 1;
        echoed.fetch_add(1, Relaxed);
        if rng.random_ratio(1, 4) {
            yield_now().await;
        }
    }
    handle.shutdown();
    within("an honest endpoint drains", own).await??;
    Ok(())
}

/// One connection of a raw peer. Whether it was one that had every message echoed.
async fn attack(target: Target, path: &Path, rng: &mut SmallRng) -> Result<bool> {
    let peer = match platform::connect(path).await {
        Ok(peer) => peer,
        // All instances of a Windows pipe are taken for a moment, or the socket's backlog is full.
        Err(error) if platform::is_busy(&error) => {
            tokio::time::sleep(Duration::from_millis(1)).await;
            return Ok(false);
        }
        Err(error) => fail!("a raw peer cannot connect: {error}"),
    };
    let valid = target == Target::Server && rng.random_bool(0.5);
    if valid {
        return echo_all(peer, rng).await.map(|()| true);
    }
    let mut peer = peer;
    let bytes = match rng.random_range(0..6) {
        0 => garbage(rng),
        1 => frames(rng, target),
        2 => {
            // Stops inside a message.
            let mut bytes = frames(rng, target);
            bytes.truncate(rng.random_range(0..=bytes.len()));
            bytes
        }
        3 => {
            // Announces more than may come.
            let mut bytes = frames(rng, target);
            bytes.put_u32(rng.random_range(LIMIT as u32 + 1..=u32::MAX));
            bytes.extend_from_slice(&garbage(rng));
            bytes
        }
        4 => {
            let mut bytes = BytesMut::new();
            for _ in 0..rng.random_range(0..5000) {
                bytes.put_u32(0);
            }
            bytes
        }
        _ => BytesMut::new(),
    };
    let extras = Extras::any(rng);
    // A server may end the connection at any byte, and need not read while its answers are not.
    let writing = write_pieces(&mut peer, &bytes, rng, extras);
    let _ = tokio::time::timeout(Duration::from_millis(20), writing).await;
    match rng.random_range(0..4) {
        0 => {}
        1 => {
            // Half-closed, it is answered, and then left.
            let _ = tokio::time::timeout(SOON, peer.shutdown()).await;
            if cfg!(unix) {
                let end = read_to_end(&mut peer);
                within_time(SOON, "a server leaves a peer that has half-closed", end).await?;
            }
        }
        2 => {
            let mut some = vec![0; rng.random_range(1..5000)];
            let _ = tokio::time::timeout(Duration::from_millis(1), peer.read(&mut some)).await;
        }
        _ => yield_now().await,
    }
    Ok(false)
}

/// What a raw peer sends beside bytes.
#[derive(Clone, Copy, Debug)]
struct Extras {
    descriptors: bool,
    urgent_data: bool,
}

impl Extras {
    fn any(rng: &mut SmallRng) -> Self {
        Extras {
            descriptors: rng.random_bool(0.3),
            urgent_data: rng.random_bool(0.3),
        }
    }
}

async fn read_to_end(peer: &mut Raw) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(1..) = peer.read(&mut buf).await {}
}

/// Sends valid messages in whatever pieces, descriptors and urgent data among them, and has all of
/// them echoed.
async fn echo_all(mut peer: Raw, rng: &mut SmallRng) -> Result<()> {
    let mut bytes = BytesMut::new();
    // So few that the echoes have room while nobody reads them.
    let most = if cfg!(windows) { 2000 } else { 40_000 };
    let mut messages = 0;
    loop {
        let message = numbered(messages, length(rng, most / 4));
        if bytes.len() + 4 + message.len() > most {
            break;
        }
        bytes.put_u32(message.len() as u32);
        bytes.extend_from_slice(&message);
        messages += 1;
        if rng.random_ratio(1, 20) {
            break;
        }
    }
    let extras = Extras::any(rng);
    let writing = write_pieces(&mut peer, &bytes, rng, extras);
    within_time(SOON, "a raw peer sends valid messages", writing).await??;
    let half_closes = cfg!(unix) && rng.random_bool(0.3);
    if half_closes {
        peer.shutdown().await?;
    }
    let mut echo = vec![0; bytes.len()];
    let what = format!(
        "{messages} echoes to a raw peer, which sends {extras:?}{}",
        if half_closes { " and half-closes" } else { "" }
    );
    within_time(SOON, &what, peer.read_exact(&mut echo))
        .await?
        .map_err(|e| format!("{what}: {e}"))?;
    ensure!(echo == bytes, "{what} came, and were others");
    if half_closes {
        let end = within_time(SOON, "the end after all echoes", peer.read(&mut echo)).await??;
        ensure!(end == 0, "{end} bytes came behind all echoes");
    }
    Ok(())
}

/// Writes everything in pieces of random length, with pauses, and with what else a socket can
/// carry if `extras` says so.
async fn write_pieces(
    peer: &mut Raw,
    mut bytes: &[u8],
    rng: &mut SmallRng,
    extras: Extras,
) -> io::Result<()> {
    // A second urgent byte would make an unread first one a part of the stream.
    let mut urgent = extras.urgent_data;
    while !bytes.is_empty() {
        let most = if rng.random_bool(0.2) { 5 } else { 20_000 };
        let (piece, rest) = bytes.split_at(rng.random_range(1..=bytes.len().min(most)));
        bytes = rest;
        match rng.random_range(0..10) {
            0 | 1 if extras.descriptors => {
                platform::write_with_descriptors(peer, piece, rng.random_range(1..5)).await?;
            }
            2 if urgent => {
                urgent = false;
                platform::write_urgent(peer).await?;
                peer.write_all(piece).await?;
            }
            _ => peer.write_all(piece).await?,
        }
        match rng.random_range(0..10) {
            0 => tokio::time::sleep(Duration::from_micros(rng.random_range(0..1000))).await,
            1..5 => yield_now().await,
            _ => {}
        }
    }
    Ok(())
}

fn garbage(rng: &mut SmallRng) -> BytesMut {
    let mut bytes = BytesMut::zeroed(rng.random_range(0..3000));
    rng.fill(&mut bytes[..]);
    // Else nearly all of it is a length above the limit.
    if rng.random_bool(0.5) && bytes.len() >= 4 {
        bytes[..2].fill(0);
    }
    bytes
}

/// Whole frames of the kind that the target takes, or not quite.
fn frames(rng: &mut SmallRng, target: Target) -> BytesMut {
    let mut bytes = BytesMut::new();
    for n in 0..rng.random_range(1..20) {
        let message = match target {
            Target::Endpoint => envelope(rng, n),
            _ => numbered(n, length(rng, LIMIT - 8)),
        };
        bytes.put_u32(message.len() as u32);
        bytes.extend_from_slice(&message);
    }
    bytes
}

fn envelope(rng: &mut SmallRng, id: u64) -> Bytes {
    let text = match rng.random_range(0..9) {
        0 => r#"{"action": "echo", "from": "raw", "data": [1, 2, 3]}"#.into(),
        1 => format!(r#"{{"action": "echo", "from": "raw", "data": "x", "id": {id}}}"#),
        2 => format!(r#"{{"action": "nothing", "from": "raw", "id": {id}}}"#),
        3 => format!(r#"{{"action": "echo", "from": "raw", "reply": {id}, "data": 1}}"#),
        4 => r#"{"from": "raw", "closing": true}"#.into(),
        5 => r#"{"from": "raw", "error": "no", "size": 99999999}"#.into(),
        6 => "[".repeat(rng.random_range(1..2000)),
        7 => r#"{"action": 5}"#.into(),
        _ => "null".into(),
    };
    text.into()
}
