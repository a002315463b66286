//! Endpoints in a ring, whose handlers send to the next one, or ask it. All of it comes to an end
//! soon: handled, answered, or honestly refused.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use asyncipc::Endpoint;
use asyncipc::endpoint::{self, EndpointError, EndpointHandle, Envelope};
use futures::StreamExt;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use crate::run::{
    Findings, Result, Run, SOON, count, ensure, fail, lock, multi_thread, unique, within,
};

pub(crate) fn run(run: &Run) -> Result<String> {
    multi_thread()?.block_on(circles(run))
}

async fn circles(run: &Run) -> Result<String> {
    let mut rng = run.choices(0);
    let mut findings = Findings::default();
    let (mut sent, mut asked, mut refused, mut rounds) = (0, 0, 0, 0);
    while run.goes_on() {
        for (part, few, many) in [
            ("requests in turn", 1, 4),
            ("sends in turn", 100, 2000),
            ("more requests in turn than handlers", 100, 200),
        ] {
            let members = rng.random_range(2..=5);
            let each = rng.random_range(few..=many);
            let mut outcome = Outcome::default();
            findings
                .of(part, async {
                    outcome = match part {
                        "sends in turn" => sends(members, each, &mut rng).await?,
                        _ => requests(members, each, &mut rng).await?,
                    };
                    Ok(0)
                })
                .await;
            match part {
                "sends in turn" => sent += outcome.handled,
                _ => asked += outcome.handled,
            }
            refused += outcome.refused;
        }
        rounds += 1;
    }
    findings.end()?;
    Ok(format!(
        "{rounds} rounds, {} messages and {} requests handled in rings, {} refused at once, none stalled",
        count(sent),
        count(asked),
        count(refused)
    ))
}

#[derive(Debug, Default)]
struct Outcome {
    handled: u64,
    refused: u64,
}

/// A ring, and what it counts.
#[derive(Debug, Default)]
struct Ring {
    names: Vec<String>,
    accepted: AtomicU64,
    handled: AtomicU64,
    refused: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Ring {
    fn new(members: usize) -> Arc<Self> {
        Arc::new(Ring {
            names: (0..members).map(|_| unique("ring")).collect(),
            ..Ring::default()
        })
    }

    fn next(&self, member: usize) -> &str {
        &self.names[(member + 1) % self.names.len()]
    }

    fn is_wrong(&self, what: String) {
        lock(&self.wrong).push(what);
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            handled: self.handled.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }

    /// Binds all members; each handler gets its handle and its place.
    fn bind<F, R>(
        self: &Arc<Self>,
        handler: fn(Arc<Ring>, EndpointHandle, usize, Envelope) -> F,
        reading: &mut JoinSet<()>,
    ) -> Result<Vec<EndpointHandle>>
    where
        F: Future<Output = std::result::Result<R, asyncipc::BoxError>> + Send + 'static,
        R: serde::Serialize,
    {
        let mut handles = Vec::new();
        for member in 0..self.names.len() {
            let ring = self.clone();
            let builder = Endpoint::builder(&self.names[member]).drain_timeout(SOON);
            let endpoint = builder.bind_with(|handle| {
                let own = handle.clone();
                handle.on("go", move |message| {
                    handler(ring.clone(), own.clone(), member, message)
                });
            })?;
            handles.push(endpoint.handle());
            let ring = self.clone();
            reading.spawn(async move { ring.read(endpoint).await });
        }
        Ok(handles)
    }

    async fn read(&self, mut endpoint: Endpoint) {
        while let Some(event) = endpoint.next().await {
            match event {
                endpoint::Event::Ready | endpoint::Event::Closed => {}
                event => self.is_wrong(format!("an endpoint of the ring is told {event:?}")),
            }
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = lock(&self.wrong);
        ensure!(
            wrong.is_empty(),
            "ring of {}: {} things went wrong, the first: {}",
            self.names.len(),
            wrong.len(),
            wrong[0]
        );
        Ok(())
    }

    async fn end(&self, handles: Vec<EndpointHandle>, mut reading: JoinSet<()>) -> Result<()> {
        for handle in handles {
            handle.shutdown();
        }
        while let Some(ended) = within("a ring ends", reading.join_next()).await? {
            ended?;
        }
        self.check()
    }
}

/// A send from a handler: taken, or refused at once.
async fn pass_on(ring: &Ring, handle: &EndpointHandle, member: usize, left: u64) {
    let started = Instant::now();
    // Before it is handled.
    ring.accepted.fetch_add(1, Relaxed);
    match handle.send(ring.next(member), "go", left).await {
        Ok(()) => {}
        Err(EndpointError::QueueFull { .. }) if started.elapsed() < SOON => {
            ring.accepted.fetch_sub(1, Relaxed);
            ring.refused.fetch_add(1, Relaxed);
        }
        Err(error) => {
            let waited = started.elapsed();
            ring.is_wrong(format!(
                "a handler's send failed after {waited:.1?}: {error}"
            ));
        }
    }
}

/// Each member is sent messages from outside of handlers, and every handler sends one on.
async fn sends(members: usize, each: u64, rng: &mut SmallRng) -> Result<Outcome> {
    let ring = Ring::new(members);
    let mut reading = JoinSet::new();
    let handles = ring.bind(
        |ring, handle, member, message| async move {
            let left: u64 = message.parse()?;
            if left > 0 {
                pass_on(&ring, &handle, member, left - 1).await;
            }
            ring.handled.fetch_add(1, Relaxed);
            Ok(())
        },
        &mut reading,
    )?;
    let mut senders: JoinSet<Result<()>> = JoinSet::new();
    let hops = rng.random_range(1..=3);
    for (member, handle) in handles.iter().enumerate() {
        let (ring, handle) = (ring.clone(), handle.clone());
        senders.spawn(async move {
            for _ in 0..each {
                ring.accepted.fetch_add(1, Relaxed);
                let sent = handle.send(ring.next(member), "go", hops).await;
                sent.map_err(|e| format!("a send from outside of handlers: {e}"))?;
            }
            Ok(())
        });
    }
    // It has stalled when nothing is handled for a while.
    let mut last = (0, Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (handled, accepted) = (ring.handled.load(Relaxed), ring.accepted.load(Relaxed));
        if handled > last.0 {
            last = (handled, Instant::now());
        }
        ring.check()?;
        if handled == accepted && senders.is_empty() {
            break;
        }
        ensure!(
            last.1.elapsed() < SOON,
            "a ring of {members}, {each} messages to each from outside, {hops} hops: stalled with \
             {handled} of {accepted} handled and {} refused",
            ring.refused.load(Relaxed)
        );
        while let Some(sent) = senders.try_join_next() {
            sent??;
        }
    }
    ring.end(handles, reading).await?;
    Ok(ring.outcome())
}

/// Each member is asked from outside of handlers, and every handler asks the next one before it
/// answers.
async fn requests(members: usize, each: u64, rng: &mut SmallRng) -> Result<Outcome> {
    let ring = Ring::new(members);
    let mut reading = JoinSet::new();
    let handles = ring.bind(
        |ring, handle, member, message| async move {
            let left: u64 = message.parse()?;
            let below = match left {
                0 => 0,
                _ => {
                    let reply = handle.request(ring.next(member), "go", left - 1).await?;
                    reply.as_u64().ok_or("a reply is no number")?
                }
            };
            ring.handled.fetch_add(1, Relaxed);
            Ok(below + 1)
        },
        &mut reading,
    )?;
    let hops = rng.random_range(1..=members as u64 + 1);
    let mut asking: JoinSet<Result<()>> = JoinSet::new();
    for (member, handle) in handles.iter().enumerate() {
        for _ in 0..each {
            let (ring, handle) = (ring.clone(), handle.clone());
            asking.spawn(async move {
                let started = Instant::now();
                let reply = handle.request(ring.next(member), "go", hops).await;
                let waited = started.elapsed();
                match reply {
                    Ok(reply) => {
                        ensure!(reply == hops + 1, "{hops} hops were answered with {reply}");
                    }
                    // Of this, the one who asked hears at once, or through those in between.
                    Err(EndpointError::QueueFull { .. } | EndpointError::Refused { .. })
                        if waited < SOON =>
                    {
                        ring.refused.fetch_add(1, Relaxed);
                    }
                    Err(error) => fail!("a request failed after {waited:.1?}: {error}"),
                }
                Ok(())
            });
        }
    }
    while let Some(asked) = asking.join_next().await {
        asked?.map_err(|e| {
            format!("a ring of {members}, {each} requests to each from outside, {hops} hops: {e}")
        })?;
    }
    ring.end(handles, reading).await?;
    Ok(ring.outcome())
}
