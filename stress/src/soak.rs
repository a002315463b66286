//! Everything at once for long. Memory and descriptors do not grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use asyncipc::hub::Event;
use asyncipc::{Endpoint, PipeHub, PipeServer};
use futures::{SinkExt, StreamExt};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::platform;
use crate::run::{
    Result, Run, SOON, connect, count, echo, ensure, length, multi_thread, numbered, unique, within,
};

/// How much more memory may be in use at the end than at the most while it warmed up.
const MEMORY: u64 = 8 << 20;

/// The same for descriptors.
const DESCRIPTORS: usize = 32;

/// The part of the time that is for warming up, and the one at the end that is compared with it.
const WARM: f64 = 0.4;
const END: f64 = 0.8;

/// How often memory and descriptors have to be counted during the warm-up.
const LOOKS: u32 = 4;

pub(crate) fn run(run: &Run) -> Result<String> {
    multi_thread()?.block_on(soak(run))
}

async fn soak(run: &Run) -> Result<String> {
    let [server, hub, endpoint] = ["server", "hub", "endpoint"].map(unique);
    let serving = PipeServer::bind(&server)?;
    let stop = serving.shutdown_handle();
    let serving = serving.serve(echo);
    let serving = tokio::spawn(serving);
    let events = PipeServer::builder(&hub)
        .drain_timeout(SOON)
        .bind()?
        .into_hub();
    let clients = events.handle();
    let events = tokio::spawn(echo_events(events));
    let answering = Endpoint::builder(&endpoint)
        .on("echo", async |message| Ok(message.data))
        .drain_timeout(SOON)
        .bind()?;
    let answers = answering.handle();
    let answering = tokio::spawn(answering.run());

    let messages = Arc::new(AtomicU64::new(0));
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for task in 0..8 {
        let (run, messages) = (run.clone(), messages.clone());
        let names = [server.clone(), hub.clone(), endpoint.clone()];
        tasks.spawn(async move {
            let mut rng = run.choices(task);
            while run.goes_on() {
                let done = match task % 4 {
                    0 => ask(&names[2], &mut rng).await?,
                    1 => share(&names[0], &mut rng).await?,
                    2 => talk(&names[1], &mut rng).await?,
                    _ => talk(&names[0], &mut rng).await?,
                };
                messages.fetch_add(done, Relaxed);
            }
            Ok(())
        });
    }

    let (mut warm, mut looks) = ((0, 0), 0);
    let mut end: Option<(u64, usize)> = None;
    loop {
        // Once more when the time is over: so the shortest run has an end to look at, too.
        let is_over = !run.goes_on();
        let passed = if is_over { 1.0 } else { run.passed() };
        if let (Some(memory), Some(descriptors)) = (platform::memory(), platform::descriptors()) {
            match passed {
                ..WARM => {
                    warm = (warm.0.max(memory), warm.1.max(descriptors));
                    looks += 1;
                }
                END.. => {
                    let least = end.unwrap_or((memory, descriptors));
                    end = Some((least.0.min(memory), least.1.min(descriptors)));
                }
                _ => {}
            }
        }
        if is_over {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    stop.shutdown();
    within("the server drains", serving).await???;
    clients.shutdown();
    within("the hub drains", events).await??;
    answers.shutdown();
    within("the endpoint drains", answering).await??;

    let done = count(messages.load(Relaxed));
    let Some((memory, descriptors)) = end else {
        return Ok(format!(
            "{done} messages; only Linux tells how much memory and how many descriptors are in use"
        ));
    };
    ensure!(
        looks >= LOOKS,
        "too short: memory and descriptors were counted {looks} times during the warm-up, and {LOOKS} are \
         needed; take --seconds 2 at least, and more on a busy machine"
    );
    let grown = memory.saturating_sub(warm.0);
    ensure!(
        grown <= MEMORY,
        "{} kB of memory were in use while it warmed up, and never less than {} kB at the end: {} kB \
         more are allowed",
        warm.0 >> 10,
        memory >> 10,
        MEMORY >> 10
    );
    let more = descriptors.saturating_sub(warm.1);
    ensure!(
        more <= DESCRIPTORS,
        "{} descriptors were open while it warmed up, and never less than {descriptors} at the end: \
         {DESCRIPTORS} more are allowed",
        warm.1
    );
    Ok(format!(
        "{done} messages; memory at most {} kB warming up and {} kB at the end, {} kB more allowed; \
         descriptors {} and {}, {DESCRIPTORS} more allowed",
        warm.0 >> 10,
        memory >> 10,
        MEMORY >> 10,
        warm.1,
        descriptors
    ))
}

async fn echo_events(mut hub: PipeHub) {
    let clients = hub.handle();
    while let Some(event) = hub.next().await {
        if let Event::Received { id, message, .. } = event {
            // One message for each client is under way.
            let _ = clients.try_send(id, message);
        }
    }
}

/// A client that comes, has some messages echoed, and goes.
async fn talk(name: &str, rng: &mut SmallRng) -> Result<u64> {
    let mut conn = connect("a client", name).await?;
    let messages = rng.random_range(1..100);
    for n in 0..messages {
        let message = numbered(n, length(rng, 500_000));
        within("a client sends", conn.send(message.clone())).await??;
        let echo = within("a client waits for its echo", conn.next()).await?;
        ensure!(
            echo.transpose()?.is_some_and(|it| it == message),
            "the echo of message {n} is missing, or another one"
        );
    }
    if rng.random_bool(0.5) {
        within("a client closes", conn.close()).await??;
    }
    Ok(messages)
}

/// The same by several tasks that share a sender.
async fn share(name: &str, rng: &mut SmallRng) -> Result<u64> {
    const TASKS: u64 = 4;
    let conn = connect("a client", name).await?;
    let (sender, mut receiver) = conn.split();
    let sender = sender.into_shared();
    let each = rng.random_range(1..200);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let sender = sender.clone();
        tasks.spawn(async move {
            for n in 0..each {
                sender.send(numbered(task * each + n, 50)).await?;
            }
            Ok::<_, asyncipc::Error>(())
        });
    }
    for n in 0..TASKS * each {
        let echo = within("an echo to a shared sender", receiver.next()).await?;
        ensure!(
            echo.transpose()?.is_some(),
            "the stream ended before echo {n}"
        );
    }
    while let Some(sent) = tasks.join_next().await {
        sent??;
    }
    within("a shared sender closes", sender.close()).await??;
    Ok(TASKS * each)
}

/// An endpoint that comes, asks, and goes.
async fn ask(name: &str, rng: &mut SmallRng) -> Result<u64> {
    let own = Endpoint::builder(unique("asks"))
        .drain_timeout(SOON)
        .bind()?;
    let handle = own.handle();
    let running = tokio::spawn(own.run());
    let requests = rng.random_range(1..100);
    for n in 0..requests {
        let text = "x".repeat(length(rng, 100_000));
        let reply = handle.request(name, "echo", &text).await?;
        ensure!(reply == *text, "request {n} has another reply");
    }
    handle.shutdown();
    within("an endpoint drains", running).await??;
    Ok(requests)
}
