//! A hub whose clients read fast, slowly, not at all, or leave. Each gets what it should, in order,
//! and delays nobody.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asyncipc::hub::{DisconnectReason, Event, Overflow};
use asyncipc::{ConnectionId, Error, PipeHub, PipeServer};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::run::{
    Result, Run, SOON, connect, count, ensure, fail, length, lock, multi_thread, number, numbered,
    unique, within,
};

/// What a client says first: then its number. All else that it says is echoed to it.
const HELLO: u64 = 1 << 40;

/// Echoes are told from broadcasts by this.
const ECHO: u64 = 1 << 41;

pub(crate) fn run(run: &Run) -> Result<String> {
    multi_thread()?.block_on(async {
        let waiting = hub(run, Overflow::Wait, 0);
        let disconnecting = hub(run, Overflow::Disconnect, 1000);
        let (one, other) = tokio::try_join!(waiting, disconnecting)?;
        Ok(format!(
            "{} clients, {} broadcasts, {} arrived, {} had no room, {} echoes; {} disconnected for not \
             reading",
            count(one.clients + other.clients),
            count(one.broadcasts + other.broadcasts),
            count(one.arrived + other.arrived),
            count(one.full + other.full),
            count(one.echoes + other.echoes),
            count(other.overflowed)
        ))
    })
}

#[derive(Debug, Default)]
struct Figures {
    clients: u64,
    broadcasts: u64,
    arrived: u64,
    full: u64,
    echoes: u64,
    overflowed: u64,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Reads all the time, and talks to the hub.
    Fast,
    Slow,
    /// Never reads, and stays.
    Dead,
    /// Reads a little, and leaves.
    Leaving,
}

/// What a client has seen.
#[derive(Debug)]
struct Seen {
    client: u64,
    kind: Kind,
    broadcasts: Vec<u64>,
    echoes: u64,
}

/// What the hub knows of its clients.
#[derive(Debug, Default)]
struct Known {
    /// Which connection a client has.
    ids: HashMap<u64, ConnectionId>,
    /// Which broadcasts had no room, by connection.
    full: HashMap<ConnectionId, HashSet<u64>>,
    /// How many messages were told to be sent, by connection.
    told: HashMap<ConnectionId, u64>,
    gone: HashMap<ConnectionId, String>,
    overflowed: u64,
    failed: Vec<String>,
}

async fn hub(run: &Run, overflow: Overflow, salt: u64) -> Result<Figures> {
    let name = unique("hub");
    let mut rng = run.choices(salt);
    let server = PipeServer::builder(&name)
        .drain_timeout(SOON)
        .linger(SOON)
        .bind()?;
    let hub = PipeHub::builder()
        .queue(rng.random_range(8..64))
        .overflow(overflow)
        .serve(server);
    let handle = hub.handle();
    let known = Arc::new(Mutex::new(Known::default()));
    let events = tokio::spawn(read(hub, known.clone(), overflow));

    let over = Arc::new(AtomicBool::new(false));
    let broadcasts = Arc::new(AtomicU64::new(0));
    let broadcasting = {
        let (handle, known, over, broadcasts) = (
            handle.clone(),
            known.clone(),
            over.clone(),
            broadcasts.clone(),
        );
        let mut rng = run.choices(salt + 1);
        tokio::spawn(async move {
            while !over.load(Relaxed) {
                let n = broadcasts.fetch_add(1, Relaxed);
                let full = handle.broadcast(numbered(n, length(&mut rng, 20_000)))?;
                for id in full {
                    lock(&known).full.entry(id).or_default().insert(n);
                }
                match rng.random_range(0..20) {
                    0 => sleep(Duration::from_millis(rng.random_range(0..4))).await,
                    _ => sleep(Duration::from_micros(200)).await,
                }
            }
            Ok::<_, Error>(())
        })
    };

    let mut clients: JoinSet<Result<Seen>> = JoinSet::new();
    let mut seen = Vec::new();
    let mut next = 0;
    while run.goes_on() {
        while clients.len() < 10 {
            let kind = match next {
                0 | 1 => Kind::Fast,
                _ => [Kind::Fast, Kind::Slow, Kind::Dead, Kind::Leaving][rng.random_range(0..4)],
            };
            let rng = run.choices(salt + 10 + next);
            clients.spawn(client(name.clone(), next, kind, rng, over.clone()));
            next += 1;
        }
        tokio::select! {
            Some(client) = clients.join_next() => seen.push(client??),
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
    over.store(true, Relaxed);
    broadcasting.await??;
    handle.shutdown();
    while let Some(client) = within("clients see the end of the hub", clients.join_next()).await? {
        seen.push(client??);
    }
    within("the hub drains", events).await??;

    let known = lock(&known);
    if let Some(failed) = known.failed.first() {
        fail!("{overflow:?}: {failed}");
    }
    let mut figures = Figures {
        clients: next,
        broadcasts: broadcasts.load(Relaxed),
        full: known.full.values().map(|it| it.len() as u64).sum(),
        overflowed: known.overflowed,
        ..Figures::default()
    };
    for seen in &seen {
        check(seen, &known, overflow, figures.broadcasts)?;
        figures.arrived += seen.broadcasts.len() as u64;
        figures.echoes += seen.echoes;
    }
    Ok(figures)
}

/// The application: learns who is who, and echoes.
async fn read(mut hub: PipeHub, known: Arc<Mutex<Known>>, overflow: Overflow) {
    let handle = hub.handle();
    let mut connected = HashSet::new();
    while let Some(event) = hub.next().await {
        let mut known = lock(&known);
        match event {
            Event::Connected { id, .. } if !connected.insert(id) => {
                known.failed.push(format!("{id} has connected twice"));
            }
            Event::Received { id, .. } | Event::Sent { id, .. } if !connected.contains(&id) => {
                known
                    .failed
                    .push(format!("{id} has an event, and is not connected"));
            }
            Event::Received { id, message, .. } => match number(&message) {
                Ok(n) if n >= HELLO => drop(known.ids.insert(n - HELLO, id)),
                Ok(n) => {
                    // One that is asked for has at most one echo under way, but broadcasts may have
                    // filled its queue.
                    if handle.try_send(id, numbered(ECHO + n, 10)).is_err()
                        && overflow == Overflow::Wait
                    {
                        let handle = handle.clone();
                        tokio::spawn(async move {
                            let _ = handle.send(id, numbered(ECHO + n, 10)).await;
                        });
                    }
                }
                Err(error) => known.failed.push(error.to_string()),
            },
            Event::Sent { id, messages, .. } => {
                *known.told.entry(id).or_default() += messages as u64;
            }
            Event::Disconnected { id, reason, .. } => {
                if !connected.remove(&id) {
                    known
                        .failed
                        .push(format!("{id} has disconnected without being there"));
                }
                if let DisconnectReason::Overflow = reason {
                    known.overflowed += 1;
                    if overflow == Overflow::Wait {
                        known
                            .failed
                            .push(format!("{id} was disconnected: {reason}"));
                    }
                }
                known.gone.insert(id, reason.to_string());
            }
            _ => {}
        }
    }
    if !connected.is_empty() {
        let left = format!("{connected:?} have no Disconnected");
        lock(&known).failed.push(left);
    }
}

async fn client(
    name: String,
    client: u64,
    kind: Kind,
    mut rng: SmallRng,
    over: Arc<AtomicBool>,
) -> Result<Seen> {
    let mut conn = connect(format!("client {client}"), &name).await?;
    let mut seen = Seen {
        client,
        kind,
        broadcasts: Vec::new(),
        echoes: 0,
    };
    conn.send(numbered(HELLO + client, 0)).await?;
    if kind == Kind::Dead {
        // Until the hub is over, or a part of that.
        let stays = Duration::from_millis(rng.random_range(100..3000));
        let started = tokio::time::Instant::now();
        while !over.load(Relaxed) && started.elapsed() < stays {
            sleep(Duration::from_millis(10)).await;
        }
        return Ok(seen);
    }
    let leaves_after = rng.random_range(1..50);
    let mut asked = None;
    let mut next = 0;
    loop {
        if kind == Kind::Fast && asked.is_none() && !over.load(Relaxed) {
            let question: Bytes = numbered(next, 0);
            // A hub with the other policy may have ended it.
            if conn.send(question).await.is_ok() {
                asked = Some(next);
                next += 1;
            }
        }
        let what = format!("a {kind:?} client waits for the hub");
        let message = match within(what, conn.next()).await? {
            None | Some(Err(Error::Closed { .. } | Error::Truncated { .. })) => return Ok(seen),
            Some(message) => number(&message?)?,
        };
        if message >= ECHO {
            ensure!(
                asked == Some(message - ECHO),
                "client {client} got the echo of {}, and waits for {asked:?}",
                message - ECHO
            );
            asked = None;
            seen.echoes += 1;
            continue;
        }
        if let Some(last) = seen.broadcasts.last()
            && *last >= message
        {
            fail!("client {client} got broadcast {message} after {last}");
        }
        seen.broadcasts.push(message);
        match kind {
            Kind::Slow => sleep(Duration::from_millis(rng.random_range(0..3))).await,
            Kind::Leaving if seen.broadcasts.len() >= leaves_after => return Ok(seen),
            _ => {}
        }
    }
}

/// Between the first and the last broadcast that a client has, those are missing that had no room;
/// one that has read to the end has all up to the last, and of each the hub was told.
fn check(seen: &Seen, known: &Known, overflow: Overflow, broadcasts: u64) -> Result<()> {
    let Seen { client, kind, .. } = seen;
    let Some(id) = known.ids.get(client) else {
        // The hub ended before it was read.
        return Ok(());
    };
    let empty = HashSet::new();
    let full = known.full.get(id).unwrap_or(&empty);
    let (Some(first), Some(last)) = (seen.broadcasts.first(), seen.broadcasts.last()) else {
        return Ok(());
    };
    let reads_all = matches!(kind, Kind::Fast | Kind::Slow) && overflow == Overflow::Wait;
    let last = if reads_all { broadcasts - 1 } else { *last };
    let got: HashSet<u64> = seen.broadcasts.iter().copied().collect();
    let missing = (*first..=last).find(|it| !got.contains(it) && !full.contains(it));
    if let Some(missing) = missing {
        fail!(
            "{overflow:?}: {kind:?} client {client} has not got broadcast {missing}, which had room"
        );
    }
    if let Some(n) = full.iter().find(|it| got.contains(it)) {
        fail!("{overflow:?}: {kind:?} client {client} has got broadcast {n}, which had no room");
    }
    let told = known.told.get(id).copied().unwrap_or_default();
    let arrived = seen.broadcasts.len() as u64 + seen.echoes;
    ensure!(
        told >= arrived || !reads_all,
        "{kind:?} client {client} has got {arrived} messages, and {told} are told to be sent"
    );
    ensure!(
        told == arrived || !reads_all,
        "{kind:?} client {client} has got {arrived} messages, {told} are told to be sent; it went as {:?}",
        known.gone.get(id)
    );
    Ok(())
}
