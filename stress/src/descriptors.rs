//! A server that has no descriptors left, again and again. It goes on with what it has, and accepts
//! again when there are some. The server is a child, whose limit is low.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use asyncipc::{PipeClient, PipeServer};
use futures::{SinkExt, StreamExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::run::{
    HANG, Result, Run, Started, count, echo, ensure, fail, itself, multi_thread, number, numbered,
    orders, unique, within,
};

/// How many the server may have open.
const LIMIT: u64 = 64;

/// How many clients there are at a time.
const CLIENTS: usize = 12;

pub(crate) fn run(run: &Run) -> Result<String> {
    multi_thread()?.block_on(exhaust(run))
}

async fn exhaust(run: &Run) -> Result<String> {
    let name = unique("descriptors");
    let mut rng = run.choices(0);
    let mut command = itself("descriptors", &[&name, &rng.random::<u64>().to_string()])?;
    command.stdout(Stdio::piped());
    let mut server = Started::new(command.spawn()?);
    let mut clients: JoinSet<Result<u64>> = JoinSet::new();
    let (mut started, mut messages) = (0, 0);
    while run.goes_on() {
        while clients.len() < CLIENTS {
            clients.spawn(client(name.clone(), started, run.choices(100 + started)));
            started += 1;
        }
        if let Some(client) = clients.join_next().await {
            messages += client??;
        }
    }
    while let Some(client) = clients.join_next().await {
        messages += client??;
    }
    server.stop().await?;
    let output = server.process.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(output).lines();
    let line = within("the server's last words", lines.next_line()).await??;
    let status = within("the server ends", server.process.wait()).await??;
    let words = line.unwrap_or_default();
    let Some((accepted, exhausted)) = words.split_once(' ') else {
        fail!("the server ended with {status}, and said {words:?}");
    };
    ensure!(status.success(), "the server: {status}");
    ensure!(
        accepted.parse() == Ok(started),
        "{started} clients were served, and the server has counted {accepted}"
    );
    Ok(format!(
        "{} clients served while descriptors ran out {exhausted} times, {} messages, 0 lost",
        count(started),
        count(messages)
    ))
}

/// Has messages echoed that are long enough for writes to wait, and reads slowly.
async fn client(name: String, client: u64, mut rng: SmallRng) -> Result<u64> {
    let builder = PipeClient::builder(&name)
        .wait_for_server(true)
        .timeout(HANG);
    let conn = within(format!("client {client} connects"), builder.connect()).await??;
    let (mut sender, mut receiver) = conn.split();
    let messages: Vec<_> = (0..rng.random_range(1..8))
        .map(|it| numbered(it, rng.random_range(0..600_000)))
        .collect();
    let sending = async {
        for message in &messages {
            let what = format!("client {client} sends");
            within(what, sender.send(message.clone())).await??;
        }
        Ok::<_, asyncipc::BoxError>(())
    };
    let receiving = async {
        for message in &messages {
            if rng.random_bool(0.3) {
                sleep(Duration::from_millis(rng.random_range(0..10))).await;
            }
            let what = format!("client {client} waits for an echo");
            let Some(echo) = within(&what, receiver.next()).await?.transpose()? else {
                fail!("{what}, and the stream has ended");
            };
            ensure!(
                echo == message,
                "client {client} got message {} in place of another",
                number(&echo)?
            );
        }
        Ok(())
    };
    tokio::try_join!(sending, receiving)?;
    Ok(messages.len() as u64)
}

/// In a child: an echo server, beside something that takes every descriptor there is.
pub(crate) fn server(name: &str, seed: &str) -> Result<()> {
    let stop = orders();
    let limit = Rlimit {
        current: Some(LIMIT),
        maximum: Some(LIMIT),
    };
    setrlimit(Resource::Nofile, limit)?;
    let mut rng = SmallRng::seed_from_u64(seed.parse()?);
    multi_thread()?.block_on(async {
        let serving = PipeServer::bind(name)?
            .serve(echo)
            .with_graceful_shutdown(async move { stop.notified().await });
        let serving = tokio::spawn(serving);
        let mut exhausted = 0;
        while !serving.is_finished() {
            let mut taken = Vec::new();
            loop {
                match File::open("/dev/null") {
                    Ok(file) => taken.push(file),
                    Err(error) => {
                        let is_limit =
                            error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error());
                        ensure!(is_limit, "opening: {error}");
                        break;
                    }
                }
            }
            exhausted += 1;
            sleep(Duration::from_millis(rng.random_range(0..30))).await;
            // A few are free for a while, or all.
            if rng.random_bool(0.5) {
                taken.truncate(taken.len().saturating_sub(rng.random_range(1..4)));
                sleep(Duration::from_millis(rng.random_range(0..20))).await;
            }
            drop(taken);
            sleep(Duration::from_millis(rng.random_range(0..50))).await;
        }
        let stats = serving.await??;
        println!("{} {exhausted}", stats.clients);
        Ok(())
    })
}
