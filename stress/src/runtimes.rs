//! Connections, shared senders and listeners that are used in one short-lived runtime after the
//! other, and where there is none. They belong to the runtime that made them, which lives.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::mpsc;
use std::time::Duration;

use asyncipc::{Endpoint, PipeClient, PipeConnection, PipeHub, PipeServer, SharedSender};
use bytes::Bytes;
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::{Builder, Runtime};

use crate::run::{
    Findings, Result, Run, SOON, cancelled, count, current_thread, ensure, fail, length,
    multi_thread, number, numbered, unique,
};

/// Connections that are open already when others are made: those are watched in another way.
const OTHERS: usize = 20;

pub(crate) fn run(run: &Run) -> Result<String> {
    let home = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    // It drives the findings' own timers, so that what hangs elsewhere is noticed.
    let watching = multi_thread()?;
    let home: &'static Runtime = Box::leak(Box::new(home));
    let others = home.block_on(async {
        let mut others = Vec::new();
        for _ in 0..OTHERS {
            others.push(pair().await?);
        }
        Ok::<_, asyncipc::BoxError>(others)
    })?;
    let mut rng = run.choices(0);
    let mut findings = Findings::default();
    let (mut messages, mut clients, mut rounds) = (0, 0, 0);
    watching.block_on(async {
        while run.goes_on() {
            for kind in Executor::ALL {
                messages += findings
                    .of(kind.sending(), sending(home, kind, &mut rng))
                    .await;
                messages += findings
                    .of(kind.sharing(), sharing(home, kind, &mut rng))
                    .await;
                if let Some(part) = kind.accepting() {
                    clients += findings.of(part, accepting(home, kind, &mut rng)).await;
                }
            }
            if rounds % 8 == 0 {
                findings
                    .of("a server, its runtime ended", ended(Kind::Server))
                    .await;
                findings
                    .of(
                        "a stream of clients, its runtime ended",
                        ended(Kind::Stream),
                    )
                    .await;
                findings
                    .of("a hub, its runtime ended", ended(Kind::Hub))
                    .await;
                findings
                    .of("an endpoint, its runtime ended", ended(Kind::Endpoint))
                    .await;
                findings
                    .of("a connection, its runtime ended", ended(Kind::Connection))
                    .await;
            }
            rounds += 1;
        }
    });
    drop(others);
    findings.end()?;
    Ok(format!(
        "{rounds} rounds, {} messages sent and {} clients accepted in short-lived runtimes and without \
         any, 0 lost",
        count(messages),
        count(clients)
    ))
}

/// Where futures are polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Executor {
    CurrentThread,
    MultiThread,
    /// Not of tokio.
    None,
}

impl Executor {
    const ALL: [Executor; 3] = [
        Executor::CurrentThread,
        Executor::MultiThread,
        Executor::None,
    ];

    fn sending(self) -> &'static str {
        match self {
            Executor::CurrentThread => "sending in current-thread runtimes",
            Executor::MultiThread => "sending in multi-thread runtimes",
            Executor::None => "sending without a runtime",
        }
    }

    fn sharing(self) -> &'static str {
        match self {
            Executor::CurrentThread => "a shared sender in current-thread runtimes",
            Executor::MultiThread => "a shared sender in multi-thread runtimes",
            Executor::None => "a shared sender without a runtime, when one writes already",
        }
    }

    /// Accepting watches a new descriptor, for which there has to be a runtime.
    fn accepting(self) -> Option<&'static str> {
        match self {
            Executor::CurrentThread => Some("accepting in current-thread runtimes"),
            Executor::MultiThread => Some("accepting in multi-thread runtimes"),
            Executor::None => None,
        }
    }

    /// Runs one step in a thread of its own, in a runtime that ends afterwards. What hangs there
    /// stays there.
    async fn step<T: Send + 'static>(
        self,
        step: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (done, outcome) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let outcome = match self {
                Executor::CurrentThread => current_thread().and_then(|it| it.block_on(step)),
                Executor::MultiThread => multi_thread().and_then(|it| it.block_on(step)),
                Executor::None => futures::executor::block_on(step),
            };
            let _ = done.send(outcome);
        });
        match tokio::time::timeout(SOON, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => fail!("a panic"),
            Err(_) => fail!("hung for {SOON:?}"),
        }
    }
}

async fn pair() -> Result<(PipeConnection, PipeConnection)> {
    let name = unique("runtimes");
    let mut server = PipeServer::builder(&name).linger(SOON).bind()?;
    let client = PipeClient::builder(&name).linger(SOON);
    let (client, accepted) = tokio::join!(client.connect(), server.accept());
    Ok((client?, accepted?))
}

/// As [`pair`], made in the runtime that lives.
async fn pair_at(home: &'static Runtime) -> Result<(PipeConnection, PipeConnection)> {
    home.spawn(pair()).await?
}

/// Reads in the runtime that lives, now and then slowly, to the end.
fn read_at(
    home: &'static Runtime,
    mut conn: PipeConnection,
    mut rng: SmallRng,
) -> tokio::task::JoinHandle<Result<Vec<u64>>> {
    home.spawn(async move {
        let mut arrived = Vec::new();
        while let Some(message) = conn.next().await {
            arrived.push(number(&message?)?);
            if rng.random_ratio(1, 10) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(arrived)
    })
}

fn rng_of(rng: &mut SmallRng) -> SmallRng {
    SmallRng::seed_from_u64(rng.random())
}

fn messages(next: &mut u64, rng: &mut SmallRng) -> Vec<Bytes> {
    let first = *next;
    *next += rng.random_range(1..30);
    // Far more than the system takes at a time, so that writes wait.
    (first..*next)
        .map(|it| numbered(it, length(rng, 400_000)))
        .collect()
}

async fn finished(reading: tokio::task::JoinHandle<Result<Vec<u64>>>, sent: u64) -> Result<u64> {
    let Ok(arrived) = tokio::time::timeout(SOON, reading).await else {
        fail!("{sent} messages were sent, and the reader has hung for {SOON:?}");
    };
    let arrived = arrived??;
    ensure!(
        arrived.iter().copied().eq(0..sent),
        "{sent} messages were sent, and {} arrived, of which the first that is wrong is {:?}",
        arrived.len(),
        arrived.iter().enumerate().find(|(i, it)| *i as u64 != **it)
    );
    Ok(sent)
}

/// A connection's sender goes from runtime to runtime. Now and then one of them gives up a flush.
async fn sending(home: &'static Runtime, kind: Executor, rng: &mut SmallRng) -> Result<u64> {
    let (one, other) = pair_at(home).await?;
    let reading = read_at(home, other, rng_of(rng));
    let (mut sender, receiver) = one.split();
    let mut next = 0;
    for _ in 0..rng.random_range(2..6) {
        let messages = messages(&mut next, rng);
        let gives_up = rng.random_bool(0.3);
        sender = kind
            .step(async move {
                for message in messages {
                    sender.feed(message).await?;
                }
                if gives_up {
                    // What is left, the next one writes.
                    cancelled(1, sender.flush()).await.transpose()?;
                } else {
                    sender.flush().await?;
                }
                Ok(sender)
            })
            .await
            .map_err(|e| format!("feed and flush: {e}"))?;
    }
    sender = kind
        .step(async move {
            sender.flush().await?;
            Ok(sender)
        })
        .await
        .map_err(|e| format!("flush: {e}"))?;
    drop((sender, receiver));
    finished(reading, next).await
}

/// A shared sender's clones go to other runtimes, each of which flushes before it ends.
async fn sharing(home: &'static Runtime, kind: Executor, rng: &mut SmallRng) -> Result<u64> {
    let (one, other) = pair_at(home).await?;
    let reading = read_at(home, other, rng_of(rng));
    let (sender, receiver) = one.split();
    let sender: SharedSender = sender.into_shared();
    let mut next = 0;
    if kind == Executor::None {
        // Whoever has no runtime needs a task that writes already.
        let (sender, message) = (sender.clone(), numbered(next, 10));
        home.spawn(async move { sender.send(message).await })
            .await??;
        next += 1;
    }
    for _ in 0..rng.random_range(2..6) {
        let messages = messages(&mut next, rng);
        let sender = sender.clone();
        kind.step(async move {
            for message in messages {
                sender.send(message).await?;
            }
            Ok(sender.flush().await?)
        })
        .await?;
    }
    drop((sender, receiver));
    finished(reading, next).await
}

/// A server is made in one runtime, and accepts in others. Each client that it has accepted belongs
/// to the runtime that did, as it would with tokio's own sockets.
async fn accepting(home: &'static Runtime, kind: Executor, rng: &mut SmallRng) -> Result<u64> {
    let name = unique("runtimes");
    let bound = name.clone();
    let mut server = home.spawn(async move { PipeServer::bind(bound) }).await??;
    let clients = rng.random_range(1..10);
    for client in 0..clients {
        let name = name.clone();
        let talking = home.spawn(async move {
            let mut conn = PipeClient::connect(name).await?;
            conn.send(numbered(client, 100)).await?;
            let echo = conn.next().await.transpose()?;
            let Some(echo) = echo else {
                fail!("client {client} was accepted, and not answered");
            };
            ensure!(
                number(&echo)? == client,
                "client {client} got another's echo"
            );
            Ok::<_, asyncipc::BoxError>(())
        });
        server = kind
            .step(async move {
                let mut accepted = server.accept().await?;
                let message = accepted.next().await.transpose()?;
                let message = message.ok_or("the stream ended")?;
                accepted.send(message.freeze()).await?;
                Ok(server)
            })
            .await
            .map_err(|e| format!("accept: {e}"))?;
        let talked = tokio::time::timeout(SOON, talking).await;
        talked.map_err(|_| format!("client {client} has hung for {SOON:?}"))???;
    }
    Ok(clients)
}

/// What is left of a runtime that has ended.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Server,
    Stream,
    Hub,
    Endpoint,
    Connection,
}

/// What waits for whether something comes, when nothing can come any more.
type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whoever waits for something of a runtime that has ended hears of it.
async fn ended(kind: Kind) -> Result<u64> {
    let (made, making) = mpsc::channel::<Waiting>();
    std::thread::spawn(move || {
        let runtime = current_thread()?;
        let waiting = runtime.block_on(async {
            let name = unique("ended");
            Ok::<Waiting, asyncipc::BoxError>(match kind {
                Kind::Server => {
                    let mut server = PipeServer::bind(name)?;
                    Box::pin(async move { drop(server.accept().await) })
                }
                Kind::Stream => {
                    let server = PipeServer::bind(name)?;
                    Box::pin(first(server))
                }
                Kind::Hub => {
                    let hub: PipeHub = PipeServer::bind(name)?.into_hub();
                    Box::pin(last(hub))
                }
                Kind::Endpoint => Box::pin(last(Endpoint::bind(name)?)),
                Kind::Connection => {
                    let (mut conn, other) = pair().await?;
                    Box::pin(async move {
                        drop(conn.next().await);
                        drop(other);
                    })
                }
            })
        })?;
        drop(runtime);
        made.send(waiting).map_err(|_| "nobody waits")?;
        Ok::<_, asyncipc::BoxError>(())
    })
    .join()
    .map_err(|_| "a panic")??;
    let waiting = making.recv()?;
    let heard = tokio::time::timeout(SOON, std::panic::AssertUnwindSafe(waiting).catch_unwind());
    match heard.await {
        Ok(Ok(())) => Ok(1),
        Ok(Err(_)) => fail!("a panic, and no error"),
        Err(_) => fail!("its runtime has ended, and it waits for {SOON:?} without a word"),
    }
}

async fn first<S: Stream + Unpin>(mut stream: S) {
    poll_fn(|cx| stream.poll_next_unpin(cx)).await;
}

async fn last<S: Stream + Unpin>(mut stream: S) {
    while stream.next().await.is_some() {}
}
