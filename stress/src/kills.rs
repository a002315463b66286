//! Servers, clients and workers that are killed at any moment. What each has done it has written to
//! a file, which outlives it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use asyncipc::{Error, PipeClient, PipeConnection, PipeServer};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::run::{
    HANG, Result, Run, SOON, Started, count, current_thread, ensure, fail, itself, multi_thread,
    orders, unique, within, within_time,
};

/// How many clients a server has.
const CLIENTS: u64 = 4;

/// A client's number, then its message's.
const RECORD: usize = 16;

pub(crate) fn run(run: &Run) -> Result<String> {
    multi_thread()?.block_on(kills(run))
}

async fn kills(run: &Run) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let mut servers = Servers::new(folder.path())?;
    let mut workers = Workers::new(folder.path())?;
    let mut clients = Clients::new(folder.path())?;
    let mut rng = run.choices(0);
    while run.goes_on() {
        servers.round(&mut rng).await?;
        clients.round(&mut rng).await?;
        workers.round(&mut rng).await?;
    }
    let served: u64 = servers.talkers.iter().map(|it| it.acknowledged).sum();
    let worked = workers.talker.acknowledged;
    let twice = servers.log.twice + workers.log.twice;
    Ok(format!(
        "{} servers, {} clients and {} workers killed, {} acknowledged, 0 lost, {} sent twice",
        servers.killed,
        clients.killed,
        workers.killed,
        count(served + worked + clients.acknowledged),
        count(twice)
    ))
}

/// What servers or workers have written, looked at when nobody writes.
struct Log {
    path: PathBuf,
    /// How many messages of each client were handled: the first so many.
    handled: HashMap<u64, u64>,
    twice: u64,
}

impl Log {
    fn new(path: PathBuf) -> Result<Self> {
        File::create(&path)?;
        Ok(Log {
            path,
            handled: HashMap::new(),
            twice: 0,
        })
    }

    /// What was acknowledged must be in the log, and nothing that was sent before may be missing.
    /// The log is empty afterwards.
    fn check<'a>(&mut self, talkers: impl IntoIterator<Item = &'a Talker>) -> Result<()> {
        let written = fs::read(&self.path)?;
        File::create(&self.path)?;
        let (records, rest) = written.as_chunks::<RECORD>();
        ensure!(rest.is_empty(), "the log ends with half a record");
        for record in records {
            let (client, message) = parse(record);
            let handled = self.handled.entry(client).or_default();
            ensure!(
                message <= *handled,
                "client {client}: message {message} was handled, but {handled} was lost before it"
            );
            match message == *handled {
                true => *handled += 1,
                false => self.twice += 1,
            }
        }
        for Talker {
            client,
            acknowledged,
        } in talkers
        {
            let handled = self.handled.get(client).copied().unwrap_or_default();
            ensure!(
                *acknowledged <= handled,
                "client {client}: {handled} was acknowledged, and is not in the log"
            );
        }
        Ok(())
    }
}

fn record(client: u64, message: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&client.to_be_bytes());
    record[8..].copy_from_slice(&message.to_be_bytes());
    record
}

fn parse(record: &[u8; RECORD]) -> (u64, u64) {
    let (client, message) = record.split_at(8);
    let number = |it: &[u8]| it.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    (number(client), number(message))
}

/// Whoever sends numbered messages, again until they are acknowledged.
#[derive(Debug)]
struct Talker {
    client: u64,
    acknowledged: u64,
}

impl Talker {
    /// Talks until the other side ends. It must not, before it was killed.
    async fn talk(
        &mut self,
        mut conn: PipeConnection,
        mut rng: SmallRng,
        killed: &AtomicBool,
    ) -> Result<()> {
        let client = self.client;
        let mut sent = self.acknowledged;
        let mut can_send = true;
        loop {
            let window = rng.random_range(1..=16);
            while can_send && sent - self.acknowledged < window {
                let mut message = BytesMut::from(&record(client, sent)[..]);
                message.put_bytes(0, length(&mut rng));
                // Broken: what was acknowledged can still be read.
                can_send = conn.feed(message.freeze()).await.is_ok();
                sent += 1;
            }
            can_send = can_send && conn.flush().await.is_ok();
            match conn.next().await {
                Some(Ok(ack)) => {
                    let expected = record(client, self.acknowledged);
                    ensure!(
                        ack == expected[..],
                        "client {client}: {ack:?} came, and not the acknowledgement of {}",
                        self.acknowledged
                    );
                    self.acknowledged += 1;
                }
                None | Some(Err(Error::Closed { .. } | Error::Truncated { .. })) => {
                    ensure!(
                        killed.load(SeqCst),
                        "client {client}: the stream has ended, but nobody was killed"
                    );
                    return Ok(());
                }
                Some(Err(error)) => fail!("client {client}: after a kill: {error}"),
            }
        }
    }
}

fn length(rng: &mut SmallRng) -> usize {
    match rng.random_range(0..50) {
        0 => rng.random_range(0..200_000),
        _ => rng.random_range(0..1000),
    }
}

async fn pause(rng: &mut SmallRng) {
    sleep(Duration::from_micros(rng.random_range(0..40_000))).await;
}

/// Servers that are killed, one after the other on the same name.
struct Servers {
    name: String,
    log: Log,
    talkers: Vec<Talker>,
    killed: u64,
}

impl Servers {
    fn new(folder: &Path) -> Result<Self> {
        let talker = |client| Talker {
            client,
            acknowledged: 0,
        };
        Ok(Servers {
            name: unique("kills"),
            log: Log::new(folder.join("servers"))?,
            talkers: (0..CLIENTS).map(talker).collect(),
            killed: 0,
        })
    }

    async fn round(&mut self, rng: &mut SmallRng) -> Result<()> {
        let log = self.log.path.display().to_string();
        let mut command = itself("kills-server", &[&self.name, &log])?;
        let mut server = Started::new(command.spawn()?);
        self.killed += 1;
        if rng.random_ratio(1, 8) {
            // Perhaps while it binds.
            sleep(Duration::from_micros(rng.random_range(0..10_000))).await;
            return server.kill().await;
        }
        let client = PipeClient::builder(&self.name)
            .wait_for_server(true)
            .timeout(HANG);
        let mut conns = Vec::new();
        for _ in &self.talkers {
            let conn = within("a client connects to a new server", client.connect()).await?;
            conns.push(conn.map_err(|e| format!("the server that follows a killed one: {e}"))?);
        }
        let killed = Arc::new(AtomicBool::new(false));
        let mut talking = JoinSet::new();
        for (mut talker, conn) in self.talkers.drain(..).zip(conns) {
            let (rng, killed) = (rng_of(rng), killed.clone());
            talking.spawn(async move {
                let talked = talker.talk(conn, rng, &killed).await;
                talked.map(|()| talker)
            });
        }
        pause(rng).await;
        killed.store(true, SeqCst);
        server.kill().await?;
        let all = async {
            while let Some(talker) = talking.join_next().await {
                self.talkers.push(talker??);
            }
            Result::Ok(())
        };
        within_time(SOON, "clients see the end of a killed server", all).await??;
        self.log.check(&self.talkers)
    }
}

fn rng_of(rng: &mut SmallRng) -> SmallRng {
    SmallRng::seed_from_u64(rng.random())
}

/// Workers that are killed, each of which goes on with the job of the one before it.
struct Workers {
    log: Log,
    talker: Talker,
    killed: u64,
}

impl Workers {
    fn new(folder: &Path) -> Result<Self> {
        Ok(Workers {
            log: Log::new(folder.join("workers"))?,
            talker: Talker {
                client: 0,
                acknowledged: 0,
            },
            killed: 0,
        })
    }

    async fn round(&mut self, rng: &mut SmallRng) -> Result<()> {
        let log = self.log.path.display().to_string();
        let mut command = itself("kills-worker", &[&log])?;
        let starting = PipeServer::worker().spawn(&mut command);
        let (process, conn) = within("a worker starts", starting).await??;
        let mut worker = Started::new(process);
        let killed = AtomicBool::new(false);
        let kill_rng = rng_of(rng);
        let killing = async {
            let mut rng = kill_rng;
            pause(&mut rng).await;
            killed.store(true, SeqCst);
            worker.kill().await
        };
        let talking = self.talker.talk(conn, rng_of(rng), &killed);
        let both = async { tokio::try_join!(killing, talking) };
        within_time(SOON, "the parent sees the end of a killed worker", both).await??;
        self.killed += 1;
        self.log.check([&self.talker])
    }
}

/// Clients that are killed while they send.
struct Clients {
    log: PathBuf,
    killed: u64,
    acknowledged: u64,
}

impl Clients {
    fn new(folder: &Path) -> Result<Self> {
        Ok(Clients {
            log: folder.join("clients"),
            killed: 0,
            acknowledged: 0,
        })
    }

    async fn round(&mut self, rng: &mut SmallRng) -> Result<()> {
        let name = unique("killed-clients");
        let mut server = PipeServer::bind(&name)?;
        File::create(&self.log)?;
        let log = self.log.display().to_string();
        let mut command = itself(
            "kills-client",
            &[&name, &log, &rng.random::<u64>().to_string()],
        )?;
        let mut client = Started::new(command.spawn()?);
        let mut conn = within("a client comes", server.accept()).await??;
        let deaf = rng.random_bool(0.5);
        let killing = async {
            pause(rng).await;
            if deaf {
                // Much is on its way then.
                pause(rng).await;
            }
            client.kill().await
        };
        let receiving = async {
            let mut next = 0;
            let mut answers = true;
            if deaf {
                sleep(Duration::from_millis(20)).await;
            }
            let end = loop {
                match conn.next().await {
                    Some(Ok(message)) => {
                        let Some((record, _)) = message.split_first_chunk::<RECORD>() else {
                            fail!("{} bytes came, and no record", message.len());
                        };
                        let (_, found) = parse(record);
                        ensure!(
                            found == next,
                            "message {next} was expected, and {found} came"
                        );
                        next += 1;
                        let ack = Bytes::copy_from_slice(record);
                        answers = answers && conn.send(ack).await.is_ok();
                    }
                    None => break "the end".to_string(),
                    Some(Err(error @ (Error::Closed { .. } | Error::Truncated { .. }))) => {
                        break error.to_string();
                    }
                    Some(Err(error)) => fail!("after a client was killed: {error}"),
                }
            };
            Ok((next, end))
        };
        let both = async { tokio::try_join!(killing, receiving) };
        let ((), (received, end)) =
            within_time(SOON, "a server sees the end of a killed client", both).await??;
        let sent = fs::read(&self.log)?.len() as u64;
        // A write beyond a Windows pipe's quota ends with its process.
        ensure!(
            received >= sent || cfg!(windows),
            "the client had sent {sent} messages when it was killed, and {received} came; then {end}"
        );
        ensure!(
            received <= sent + 1,
            "the client had begun to send {} messages, and {received} came",
            sent + 1
        );
        self.killed += 1;
        self.acknowledged += received;
        Ok(())
    }
}

/// In a child: a server that acknowledges what it has written to the log.
pub(crate) fn server(name: &str, log: &str) -> Result<()> {
    orders();
    let log = Arc::new(appended(log)?);
    current_thread()?.block_on(async {
        let server = PipeServer::bind(name)?.serve(move |conn| {
            let log = log.clone();
            async move { acknowledge(conn, &log).await }
        });
        server.await?;
        Ok(())
    })
}

/// In a child: a worker that does the same.
pub(crate) fn worker(log: &str) -> Result<()> {
    let log = appended(log)?;
    current_thread()?.block_on(async {
        let conn = PipeClient::from_parent().connect().await?;
        orders();
        acknowledge(conn, &log).await
    })
}

async fn acknowledge(mut conn: PipeConnection, mut log: &File) -> Result<()> {
    while let Some(message) = conn.next().await {
        let message = message?.freeze();
        ensure!(message.len() >= RECORD, "{} bytes came", message.len());
        let record = message.slice(..RECORD);
        // One write, which is there as a whole when this process is killed.
        log.write_all(&record)?;
        conn.send(record).await?;
    }
    Ok(())
}

fn appended(log: &str) -> Result<File> {
    Ok(OpenOptions::new().append(true).open(log)?)
}

/// In a child: a client that sends, and notes each message that `send` has taken as one byte.
pub(crate) fn client(name: &str, log: &str, seed: &str) -> Result<()> {
    orders();
    let mut log = appended(log)?;
    let mut rng = SmallRng::seed_from_u64(seed.parse()?);
    current_thread()?.block_on(async {
        let (mut sender, mut receiver) = PipeClient::connect(name).await?.split();
        let sending = async {
            for number in 0.. {
                let mut message = BytesMut::from(&record(0, number)[..]);
                message.put_bytes(0, length(&mut rng));
                sender.send(message.freeze()).await?;
                log.write_all(&[1])?;
            }
            Ok::<_, asyncipc::BoxError>(())
        };
        let receiving = async {
            while let Some(ack) = receiver.next().await {
                ack?;
            }
            Ok(())
        };
        tokio::try_join!(sending, receiving).map(drop)
    })
}
