//! Processes and threads that bind one name at once, over files that dead servers have left. One wins
//! at a time, and whoever has won can be reached until it ends.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use asyncipc::endpoint::EndpointHandle;
use asyncipc::{Endpoint, Error, PipeClient, PipeName, PipeServer};
use futures::{SinkExt, StreamExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;

use crate::run::{
    Result, Run, SOON, Started, count, current_thread, ensure, fail, itself, orders, unique, within,
};

const PROCESSES: u64 = 3;
const THREADS: u64 = 2;

pub(crate) fn run(run: &Run) -> Result<String> {
    current_thread()?.block_on(race(run))
}

async fn race(run: &Run) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let holder = folder.path().join("holder").display().to_string();
    File::create(&holder)?;
    let name = unique("race");
    let mut rng = run.choices(0);
    let (mut won, mut refused, mut killed) = (0, 0, 0);
    while run.goes_on() {
        let mut racers = Vec::new();
        for _ in 0..PROCESSES {
            let seed = rng.random::<u64>().to_string();
            let mut command = itself("race", &[&name, &holder, &seed])?;
            command.stdout(std::process::Stdio::piped());
            racers.push(Started::new(command.spawn()?));
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..400))).await;
        for mut racer in racers {
            // Leaves its file behind, if it has won.
            if rng.random_bool(0.5) {
                racer.kill().await?;
                killed += 1;
                continue;
            }
            // One that has ended says why.
            let _ = racer.stop().await;
            let output = racer.process.stdout.take().ok_or("no output")?;
            let mut lines = BufReader::new(output).lines();
            let line = within("what a racer has found", lines.next_line()).await??;
            let line = line.unwrap_or_default();
            let status = within("a racer ends", racer.process.wait()).await??;
            ensure!(status.success(), "a racer: {line} ({status})");
            let Some((wins, others)) = line.split_once(' ') else {
                fail!("a racer says {line:?}");
            };
            won += wins.parse::<u64>()?;
            refused += others.parse::<u64>()?;
        }
        // Whatever they left, the name can be had.
        let server = PipeServer::bind(&name).map_err(|e| format!("after all have ended: {e}"))?;
        reach(&name, &Held::Server(Box::new(server))).await?;
    }
    Ok(format!(
        "{} binds won and {} refused, {killed} racers killed; never two at a time, none unreachable",
        count(won),
        count(refused)
    ))
}

/// In a child: some threads that bind, hold and let go, until told to stop.
pub(crate) fn racer(name: &str, holder: &str, seed: &str) -> Result<()> {
    let stop = orders();
    let (won, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    let mut rng = SmallRng::seed_from_u64(seed.parse()?);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let rng = SmallRng::seed_from_u64(rng.random());
            let (name, holder) = (name.to_string(), holder.to_string());
            let (won, refused, over) = (won.clone(), refused.clone(), over.clone());
            std::thread::spawn(move || {
                current_thread()?.block_on(bind_again(&name, &holder, rng, &won, &refused, &over))
            })
        })
        .collect();
    current_thread()?.block_on(async {
        while !threads.iter().any(|it| it.is_finished()) {
            if tokio::time::timeout(Duration::from_millis(20), stop.notified())
                .await
                .is_ok()
            {
                break;
            }
        }
    });
    over.store(true, Relaxed);
    for thread in threads {
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                println!("{error}");
                return Err(error);
            }
            Err(_) => fail!("a thread has panicked"),
        }
    }
    println!("{} {}", won.load(Relaxed), refused.load(Relaxed));
    Ok(())
}

/// A name that is held: by a server, or by an endpoint, which lets go in another way.
enum Held {
    Server(Box<PipeServer>),
    Endpoint(EndpointHandle, JoinHandle<()>),
}

async fn bind_again(
    name: &str,
    holder: &str,
    mut rng: SmallRng,
    won: &AtomicU64,
    refused: &AtomicU64,
    over: &AtomicBool,
) -> Result<()> {
    while !over.load(Relaxed) {
        let bound = if rng.random_bool(0.5) {
            PipeServer::bind(name).map(|it| Held::Server(Box::new(it)))
        } else {
            Endpoint::builder(name)
                .drain_timeout(SOON)
                .bind()
                .map(|it| Held::Endpoint(it.handle(), tokio::spawn(it.run())))
        };
        match bound {
            Ok(held) => {
                // Locked while the name is held, and a little shorter.
                let file = lock(holder).await?;
                won.fetch_add(1, Relaxed);
                let outcome = hold(name, held, &file, &mut rng).await;
                outcome.map_err(|e| format!("one that has won: {e}"))?;
            }
            Err(Error::AddressInUse { .. }) => {
                refused.fetch_add(1, Relaxed);
                let pause = Duration::from_micros(rng.random_range(0..2000));
                tokio::time::sleep(pause).await;
            }
            // The lock on the folder may be somebody else's for too long.
            Err(Error::TimedOut { .. }) => drop(refused.fetch_add(1, Relaxed)),
            Err(error) => fail!("binding: {error}"),
        }
    }
    Ok(())
}

/// Takes the lock that only one may have, and says in its file who has it.
async fn lock(holder: &str) -> Result<File> {
    let mut file = File::options().read(true).write(true).open(holder)?;
    while file.try_lock().is_err() {
        let other = std::fs::read_to_string(holder)?;
        // The system closes the files of a process that was killed one after the other: its socket
        // may be gone before its lock is. By then it has no descriptor any more (exit_files).
        let descriptors = std::fs::read_dir(format!("/proc/{other}/fd"));
        if descriptors.is_ok_and(|it| it.count() > 0) {
            let own = std::process::id();
            fail!("two servers are bound at once, in the processes {own} and {other}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    file.set_len(0)?;
    file.write_all(std::process::id().to_string().as_bytes())?;
    Ok(file)
}

async fn hold(name: &str, held: Held, file: &File, rng: &mut SmallRng) -> Result<()> {
    reach(name, &held).await?;
    let pause = Duration::from_micros(rng.random_range(0..3000));
    tokio::time::sleep(pause).await;
    // Nobody has taken the name away meanwhile.
    reach(name, &held).await?;
    file.unlock()?;
    match held {
        Held::Server(server) => drop(server),
        Held::Endpoint(handle, running) => {
            handle.shutdown();
            within("an endpoint ends", running).await??;
        }
    }
    if rng.random_ratio(1, 4) {
        // As a server that was killed.
        let path = PipeName::new(name)?;
        drop(stale(path.as_path()));
    }
    Ok(())
}

/// Leaves a socket's file with nobody behind it, if the path is free.
fn stale(path: &Path) -> std::io::Result<()> {
    UnixListener::bind(path).map(drop)
}

/// Connects to a name that this process holds, and finds this process there.
async fn reach(name: &str, held: &Held) -> Result<()> {
    let connecting = PipeClient::builder(name).timeout(SOON).connect();
    let conn = within("reaching a server that is bound", connecting).await?;
    let mut conn = conn.map_err(|e| format!("it is bound, and cannot be reached: {e}"))?;
    let found = conn.peer()?.process_id;
    let own = std::process::id();
    ensure!(
        found.is_none_or(|it| it == own),
        "process {own} is bound, and process {found:?} is reached"
    );
    if let Held::Endpoint(..) = held {
        let ask = r#"{"action": "none", "from": "probe", "id": 1}"#;
        conn.send(ask.into()).await?;
        let refusal = within("an endpoint that is bound answers", conn.next()).await?;
        ensure!(
            refusal.transpose()?.is_some(),
            "an endpoint that is bound has left"
        );
    }
    Ok(())
}
