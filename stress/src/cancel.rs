//! Everything that can be awaited is cancelled after a random number of polls. Nothing is lost or
//! doubled beyond what the documentation says of each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use asyncipc::endpoint;
use asyncipc::hub::Event;
use asyncipc::{
    Endpoint, Error, PipeClient, PipeConnection, PipeHub, PipeReceiver, PipeSender, PipeServer,
};
use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::{JoinSet, yield_now};

use crate::run::{
    Findings, HANG, Result, Run, SOON, Started, cancelled, count, ensure, fail, itself, length,
    multi_thread, number, numbered, orders, unique, within_time,
};

/// How many messages a round has.
const MESSAGES: u64 = 200;

/// The last message where both directions are in use. On Windows it is the end: pipes of bytes have
/// no end of one direction.
const LAST: u64 = 1 << 32;

static CANCELLED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(run: &Run) -> Result<String> {
    multi_thread()?.block_on(cancel(run))
}

async fn cancel(run: &Run) -> Result<String> {
    let mut rng = run.choices(0);
    let mut findings = Findings::default();
    let (mut rounds, mut messages) = (0, 0);
    while run.goes_on() {
        messages += findings.of("messages", conversation(&mut rng)).await;
        messages += findings.of("closing", closing(&mut rng)).await;
        messages += findings
            .of("accepting and connecting", arriving(&mut rng))
            .await;
        messages += findings.of("a shared sender", sharing(&mut rng)).await;
        messages += findings.of("a hub", hub(&mut rng)).await;
        messages += findings.of("endpoints", endpoints(&mut rng)).await;
        if rounds % 8 == 0 {
            messages += findings.of("starting workers", workers(&mut rng)).await;
            messages += findings.of("a crowd", crowd(&mut rng)).await;
        }
        rounds += 1;
    }
    findings.end()?;
    Ok(format!(
        "{} cancelled in {rounds} rounds, {} messages arrived, 0 lost, 0 doubled",
        count(CANCELLED.load(Relaxed)),
        count(messages)
    ))
}

/// Mostly runs `future` to its end; else cancels it after some polls.
async fn perhaps<F: Future>(rng: &mut SmallRng, future: F) -> Option<F::Output> {
    if rng.random_bool(0.4) {
        return Some(future.await);
    }
    cancel_at_random(rng, future).await
}

async fn cancel_at_random<F: Future>(rng: &mut SmallRng, future: F) -> Option<F::Output> {
    let output = cancelled(rng.random_range(0..4), future).await;
    if output.is_none() {
        CANCELLED.fetch_add(1, Relaxed);
        // So that others come to something.
        yield_now().await;
    }
    output
}

fn rng_of(rng: &mut SmallRng) -> SmallRng {
    SmallRng::seed_from_u64(rng.random())
}

/// The two ends of a connection, whose server is gone.
async fn pair() -> Result<(PipeConnection, PipeConnection)> {
    let name = unique("cancel");
    let mut server = PipeServer::bind(&name)?;
    let (client, accepted) = tokio::join!(PipeClient::connect(&name), server.accept());
    Ok((client?, accepted?))
}

/// What a sender knows of its messages.
#[derive(Debug, Default)]
struct Sent {
    /// These arrive.
    surely: BTreeSet<u64>,
    /// These arrive or not.
    perhaps: BTreeSet<u64>,
}

impl Sent {
    /// Each arrived at most once, in order, and none that was not sent.
    fn check(&self, what: &str, arrived: &[u64]) -> Result<()> {
        let disorder = arrived.windows(2).find(|it| it[0] >= it[1]);
        if let Some(it) = disorder {
            fail!("{what}: message {} came after {}", it[1], it[0]);
        }
        let arrived: BTreeSet<u64> = arrived.iter().copied().collect();
        if let Some(lost) = self.surely.difference(&arrived).next() {
            fail!("{what}: message {lost} was sent, and has not arrived");
        }
        let known = |it: &&u64| self.surely.contains(it) || self.perhaps.contains(it);
        if let Some(other) = arrived.iter().find(|it| !known(it)) {
            fail!("{what}: message {other} was not sent, and has arrived");
        }
        Ok(())
    }
}

/// `next` and `recv_into`, cancelled at will, up to the end of the stream.
async fn receive(mut receiver: PipeReceiver, rng: &mut SmallRng) -> Result<Vec<u64>> {
    let mut arrived = Vec::new();
    let mut buf = BytesMut::new();
    loop {
        if rng.random_bool(0.5) {
            match perhaps(rng, receiver.next()).await {
                None => {}
                Some(None) => return Ok(arrived),
                Some(Some(message)) => arrived.push(number(&message?)?),
            }
        } else {
            buf.clear();
            match perhaps(rng, receiver.recv_into(&mut buf)).await {
                None => ensure!(
                    buf.is_empty(),
                    "a cancelled recv_into has left {} bytes",
                    buf.len()
                ),
                Some(len) => match len? {
                    None => return Ok(arrived),
                    Some(_) => arrived.push(number(&buf)?),
                },
            }
        }
        if cfg!(windows) && arrived.last() == Some(&LAST) {
            return Ok(arrived);
        }
        if rng.random_ratio(1, 50) {
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..2000))).await;
        }
    }
}

/// `send`, `feed` and `flush` against `next` and `recv_into`, both ways at once.
async fn conversation(rng: &mut SmallRng) -> Result<u64> {
    let (one, other) = pair().await?;
    let ((to_other, from_other), (to_one, from_one)) = (one.split(), other.split());
    let [mut a, mut b, mut c, mut d] = [rng_of(rng), rng_of(rng), rng_of(rng), rng_of(rng)];
    let (there, arrived_there, back, arrived_back) = tokio::try_join!(
        say(to_other, &mut a),
        receive(from_one, &mut b),
        say(to_one, &mut c),
        receive(from_other, &mut d),
    )?;
    there.check("send and feed", &arrived_there)?;
    back.check("send and feed", &arrived_back)?;
    Ok((arrived_there.len() + arrived_back.len()) as u64)
}

async fn say(mut sender: PipeSender, rng: &mut SmallRng) -> Result<Sent> {
    let mut sent = Sent::default();
    for n in 0..MESSAGES {
        let message = numbered(n, length(rng, 300_000));
        match rng.random_range(0..4) {
            0 => {
                // Cancelled, it waited for room, and was not taken.
                if let Some(fed) = perhaps(rng, sender.feed(message)).await {
                    fed?;
                    // There is a flush at last.
                    sent.surely.insert(n);
                }
            }
            1 => {
                if let Some(flushed) = perhaps(rng, sender.flush()).await {
                    flushed?;
                }
            }
            _ => match perhaps(rng, sender.send(message)).await {
                Some(taken) => {
                    taken?;
                    sent.surely.insert(n);
                }
                None => {
                    sent.perhaps.insert(n);
                }
            },
        }
    }
    sender.send(numbered(LAST, 0)).await?;
    sent.surely.insert(LAST);
    if cfg!(unix) {
        while perhaps(rng, sender.close_write())
            .await
            .transpose()?
            .is_none()
        {}
    }
    sender.close().await?;
    Ok(sent)
}

/// A `close` that is cancelled drops the connection: what was flushed stays readable.
async fn closing(rng: &mut SmallRng) -> Result<u64> {
    let (mut one, other) = pair().await?;
    let messages = rng.random_range(0..20);
    for n in 0..messages {
        // They fit into the system's buffer, for nobody reads yet.
        one.feed(numbered(n, length(rng, 500))).await?;
    }
    one.flush().await?;
    if let Some(closed) = cancel_at_random(rng, one.close()).await {
        let early = matches!(closed, Err(Error::TimedOut { .. }));
        ensure!(
            !early,
            "closing was over before anybody could read: {closed:?}"
        );
    }
    let (_sender, receiver) = other.split();
    let arrived = receive(receiver, rng).await?;
    ensure!(
        arrived.iter().copied().eq(0..messages),
        "{messages} messages were flushed before a close that was cancelled, and {arrived:?} came"
    );
    Ok(messages)
}

/// A cancelled `accept` loses no client, and a cancelled `connect` leaves nothing behind.
async fn arriving(rng: &mut SmallRng) -> Result<u64> {
    const CLIENTS: u64 = 20;
    let name = unique("cancel");
    let mut server = PipeServer::builder(&name)
        .backlog(rng.random_range(1..30))
        .bind()?;
    let mut clients: JoinSet<Result<()>> = JoinSet::new();
    for client in 0..CLIENTS {
        let (name, mut rng) = (name.clone(), rng_of(rng));
        clients.spawn(async move {
            let builder = PipeClient::builder(&name).timeout(HANG);
            let mut conn = loop {
                if let Some(conn) = perhaps(&mut rng, builder.connect()).await {
                    break conn?;
                }
            };
            conn.send(numbered(client, 0)).await?;
            let answer = conn.next().await.transpose()?;
            ensure!(answer.is_some(), "client {client} was not answered");
            Ok(())
        });
    }
    let mut came = BTreeSet::new();
    while (came.len() as u64) < CLIENTS {
        let Some(conn) = perhaps(rng, server.accept()).await else {
            continue;
        };
        let mut conn = conn?;
        // None: one who gave up.
        if let Some(Ok(message)) = conn.next().await {
            let client = number(&message)?;
            ensure!(came.insert(client), "client {client} came twice");
            conn.send(message.freeze()).await?;
        }
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(CLIENTS)
}

/// A cancelled `send` of a shared sender has not taken its message.
async fn sharing(rng: &mut SmallRng) -> Result<u64> {
    const TASKS: u64 = 3;
    let (one, other) = pair().await?;
    let (sender, _one_receiver) = one.split();
    let (_other_sender, receiver) = other.split();
    let sender = sender.into_shared();
    let mut tasks: JoinSet<Result<Sent>> = JoinSet::new();
    for task in 0..TASKS {
        let (sender, mut rng) = (sender.clone(), rng_of(rng));
        tasks.spawn(async move {
            let mut sent = Sent::default();
            for n in task * MESSAGES..(task + 1) * MESSAGES {
                let message = numbered(n, length(&mut rng, 100_000));
                if let Some(taken) = perhaps(&mut rng, sender.send(message)).await {
                    taken?;
                    sent.surely.insert(n);
                }
                if rng.random_ratio(1, 20)
                    && let Some(flushed) = perhaps(&mut rng, sender.flush()).await
                {
                    flushed?;
                }
            }
            Ok(sent)
        });
    }
    let mut receiving_rng = rng_of(rng);
    let closing = async {
        let mut all = Vec::new();
        while let Some(sent) = tasks.join_next().await {
            all.push(sent??);
        }
        while cancel_at_random(rng, sender.close())
            .await
            .transpose()?
            .is_none()
        {}
        drop((sender, _one_receiver));
        Ok(all)
    };
    let receiving_rng = &mut receiving_rng;
    let (all, arrived) = tokio::try_join!(closing, receive(receiver, receiving_rng))?;
    for sent in &all {
        let of_this_task = arrived.iter().copied().filter(|it| {
            let first = sent.surely.first().copied().unwrap_or_default();
            it / MESSAGES == first / MESSAGES
        });
        sent.check("a shared sender", &of_this_task.collect::<Vec<_>>())?;
    }
    Ok(arrived.len() as u64)
}

/// `next` of a hub loses nothing, and a cancelled `send` of its handle has sent nothing.
async fn hub(rng: &mut SmallRng) -> Result<u64> {
    let name = unique("cancel");
    let mut hub = PipeHub::builder()
        .queue(rng.random_range(1..20))
        .serve(PipeServer::bind(&name)?);
    let handle = hub.handle();
    let (sender, receiver) = PipeClient::connect(&name).await?.split();
    let (mut a, mut b, mut c) = (rng_of(rng), rng_of(rng), rng_of(rng));

    let id = loop {
        match perhaps(rng, hub.next()).await {
            Some(Some(Event::Connected { id, .. })) => break id,
            Some(None) => fail!("the hub has ended before its client came"),
            _ => {}
        }
    };
    let answering = async {
        let mut sent = Sent::default();
        for n in 0..MESSAGES {
            let message = numbered(n, length(&mut a, 20_000));
            if let Some(taken) = perhaps(&mut a, handle.send(id, message)).await {
                taken?;
                sent.surely.insert(n);
            }
        }
        Ok::<_, asyncipc::BoxError>(sent)
    };
    let events = async {
        let (mut arrived, mut told) = (Vec::new(), 0);
        let mut is_connected = true;
        loop {
            match perhaps(rng, hub.next()).await {
                None => {}
                Some(Some(Event::Received { message, .. })) => arrived.push(number(&message)?),
                Some(Some(Event::Sent { messages, .. })) => told += messages,
                Some(Some(Event::Disconnected { .. })) => is_connected = false,
                Some(None) => break,
                Some(Some(_)) => {}
            }
        }
        ensure!(!is_connected, "the hub has ended without a Disconnected");
        Ok((arrived, told))
    };
    // The client's end of its direction is the end of its stay.
    let talking = async {
        let (answered, sent) = tokio::try_join!(answering, say_and_stay(sender, &mut b))?;
        handle.shutdown();
        Ok((answered, sent))
    };
    let ((answered, (sent, sender)), (arrived, told), answers) =
        tokio::try_join!(talking, events, receive(receiver, &mut c))?;
    drop(sender);
    sent.check("messages to a hub", &arrived_until(&sent, arrived))?;
    answered.check("messages from a hub", &answers)?;
    ensure!(
        told == answered.surely.len(),
        "a hub has taken {} messages, and told of {told} that they were sent",
        answered.surely.len()
    );
    Ok(answers.len() as u64)
}

/// What a hub had not read when it was shut down, it need not have read.
fn arrived_until(sent: &Sent, mut arrived: Vec<u64>) -> Vec<u64> {
    let last = arrived.last().copied().unwrap_or_default();
    arrived.extend(sent.surely.iter().copied().filter(|it| *it > last));
    arrived
}

async fn say_and_stay(mut sender: PipeSender, rng: &mut SmallRng) -> Result<(Sent, PipeSender)> {
    let mut sent = Sent::default();
    for n in 1..=MESSAGES {
        let message = numbered(n, length(rng, 5000));
        match perhaps(rng, sender.send(message)).await {
            Some(taken) => {
                taken?;
                sent.surely.insert(n);
            }
            None => {
                sent.perhaps.insert(n);
            }
        }
    }
    sender.flush().await?;
    Ok((sent, sender))
}

/// A cancelled `send` of an endpoint has accepted nothing; a cancelled `request` is handled at most
/// once.
async fn endpoints(rng: &mut SmallRng) -> Result<u64> {
    let arrived: Arc<std::sync::Mutex<Vec<u64>>> = Arc::default();
    let asked: Arc<std::sync::Mutex<Vec<u64>>> = Arc::default();
    let note = |list: &Arc<std::sync::Mutex<Vec<u64>>>| {
        let list = list.clone();
        move |message: asyncipc::endpoint::Envelope| {
            let list = list.clone();
            async move {
                let (n, _): (u64, String) = message.parse()?;
                crate::run::lock(&list).push(n);
                Ok(n)
            }
        }
    };
    let to = Endpoint::builder(unique("cancel"))
        .on("say", note(&arrived))
        .on("ask", note(&asked))
        .drain_timeout(SOON)
        .bind()?;
    // More than may wait for room at a time, which `crowd` is about.
    let from = Endpoint::builder(unique("cancel"))
        .queue(rng.random_range(200..300))
        .drain_timeout(SOON)
        .bind()?;
    let (to_handle, handle) = (to.handle(), from.handle());
    let (mut a, mut b, mut c) = (rng_of(rng), rng_of(rng), rng_of(rng));
    let reading = async { tokio::try_join!(quiet(to, &mut a), quiet(from, &mut b)) };
    let talking = async {
        let (name, mut sent, mut requests) = (to_handle.name(), Sent::default(), Sent::default());
        let mut asking = JoinSet::new();
        for n in 0..MESSAGES {
            let text = "x".repeat(length(&mut c, 20_000));
            if c.random_ratio(1, 4) {
                let (handle, name, mut rng) = (handle.clone(), name.to_string(), rng_of(&mut c));
                asking.spawn(async move {
                    let request = handle.request(&name, "ask", (n, text));
                    (n, perhaps(&mut rng, request).await)
                });
            } else if let Some(accepted) =
                perhaps(&mut c, handle.send(name, "say", (n, text))).await
            {
                accepted?;
                sent.surely.insert(n);
            }
        }
        while let Some(reply) = asking.join_next().await {
            match reply? {
                (n, Some(reply)) => {
                    let reply = reply?;
                    ensure!(reply == n, "request {n} was answered with {reply}");
                    requests.surely.insert(n);
                }
                (n, None) => {
                    requests.perhaps.insert(n);
                }
            }
        }
        handle.shutdown();
        tokio::time::sleep(Duration::from_millis(1)).await;
        to_handle.shutdown();
        Ok((sent, requests))
    };
    let (_, (sent, requests)) = tokio::try_join!(reading, talking)?;
    let arrived = crate::run::lock(&arrived).clone();
    let mut asked = crate::run::lock(&asked).clone();
    // They are handled side by side, but each once.
    asked.sort_unstable();
    sent.check("messages between endpoints", &arrived)?;
    requests.check("requests between endpoints", &asked)?;
    Ok((arrived.len() + asked.len()) as u64)
}

/// Many tasks wait for the same few places of an endpoint's queue. Each has its turn.
async fn crowd(rng: &mut SmallRng) -> Result<u64> {
    const TASKS: u64 = 8;
    const EACH: u64 = 20;
    let handled = Arc::new(AtomicU64::new(0));
    let counting = handled.clone();
    let to = Endpoint::builder(unique("crowd"))
        .on("say", move |_| {
            counting.fetch_add(1, Relaxed);
            async { Ok(()) }
        })
        .drain_timeout(SOON)
        .bind()?;
    let queue = rng.random_range(1..4);
    let from = Endpoint::builder(unique("crowd"))
        .queue(queue)
        .drain_timeout(SOON)
        .bind()?;
    let (to_handle, handle) = (to.handle(), from.handle());
    let mut reading = JoinSet::new();
    for endpoint in [to, from] {
        let mut rng = rng_of(rng);
        reading.spawn(async move { quiet(endpoint, &mut rng).await });
    }
    let mut sending = JoinSet::new();
    for task in 0..TASKS {
        let (handle, name) = (handle.clone(), to_handle.name().to_string());
        sending.spawn(async move {
            for n in 0..EACH {
                handle.send(&name, "say", (task, n)).await?;
            }
            Ok::<_, asyncipc::BoxError>(())
        });
    }
    let all = async {
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        Ok::<_, asyncipc::BoxError>(())
    };
    let what = format!("{TASKS} tasks send to an endpoint, by a queue of {queue}");
    within_time(SOON, what, all).await??;
    handle.shutdown();
    // One that shuts down hands over what was accepted.
    reading.join_next().await.transpose()?.transpose()?;
    to_handle.shutdown();
    reading.join_next().await.transpose()?.transpose()?;
    let handled = handled.load(Relaxed);
    ensure!(
        handled == TASKS * EACH,
        "{} messages were accepted, and {handled} handled",
        TASKS * EACH
    );
    Ok(handled)
}

/// Reads the events of an endpoint to which nothing happens.
async fn quiet(mut endpoint: Endpoint, rng: &mut SmallRng) -> Result<()> {
    loop {
        match perhaps(rng, endpoint.next()).await {
            None | Some(Some(endpoint::Event::Ready)) => {}
            Some(Some(endpoint::Event::Closed)) => return Ok(()),
            Some(event) => fail!("an endpoint has {event:?}"),
        }
    }
}

/// Cancelling the start of a worker kills it.
async fn workers(rng: &mut SmallRng) -> Result<u64> {
    let mut command = itself("cancel-worker", &[])?;
    let starting = PipeServer::worker().spawn(&mut command);
    if let Some(started) = cancel_at_random(rng, starting).await {
        let (process, mut conn) = started?;
        let mut worker = Started::new(process);
        conn.send(numbered(1, 10)).await?;
        let echo = conn.next().await.transpose()?;
        ensure!(
            echo.as_deref() == Some(&numbered(1, 10)[..]),
            "a worker answered {echo:?}"
        );
        drop(conn);
        let status = worker.process.wait().await?;
        ensure!(status.success(), "a worker whose parent has left: {status}");
        return Ok(1);
    }
    Ok(0)
}

/// In a child: echoes until the parent leaves.
pub(crate) fn worker() -> Result<()> {
    crate::run::current_thread()?.block_on(async {
        let mut conn = loop {
            // Can be cancelled and tried again.
            if let Some(conn) = cancelled(1, PipeClient::from_parent().connect()).await {
                break conn?;
            }
        };
        orders();
        while let Some(message) = conn.next().await {
            conn.send(message?.freeze()).await?;
        }
        Ok(())
    })
}
