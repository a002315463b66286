//! Runs each measurement in processes of its own, and keeps the figures.

use std::collections::BTreeMap;
use std::io::{Read, Write as _, stdout};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cells::{self, BASELINE, Cell, OURS, Place};
use crate::harness::{self, Entry, Idle, Sample, Server, Work, contenders};
use crate::peers::everybody;

/// A measurement that takes longer hangs.
const TOO_LONG: Duration = Duration::from_secs(60);

pub(crate) const PERCENTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

pub(crate) const IDLE_CLIENTS: usize = 10_000;
pub(crate) const IDLE_MESSAGE: usize = 60_000;

/// What was measured on one system.
#[derive(Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) system: String,
    pub(crate) windows: bool,
    pub(crate) rounds: usize,
    pub(crate) milliseconds: u64,
    /// By cell, then by contender.
    pub(crate) cells: BTreeMap<String, BTreeMap<String, Series>>,
    /// By contender.
    pub(crate) memory: BTreeMap<String, Memory>,
    /// Why something has no figures.
    pub(crate) missing: Vec<String>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Series {
    /// Messages per second, one for each round.
    pub(crate) rates: Vec<f64>,
    /// [`PERCENTILES`] of all rounds' round trips together, in microseconds: as many of them as
    /// there are enough round trips for.
    pub(crate) percentiles: Vec<f64>,
}

/// Bytes of the server's resident set for each client.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) idle: f64,
    pub(crate) after_a_message: f64,
}

impl Figures {
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, serde_json::to_string_pretty(self)?)?)
    }

    pub(crate) fn load(path: &Path) -> Result<Self> {
        let json = std::fs::read(path).with_context(|| format!("no figures in {path:?}"))?;
        Ok(serde_json::from_slice(&json)?)
    }

    pub(crate) fn series(&self, cell: Cell, contender: &str) -> Option<&Series> {
        self.cells.get(&cell.to_string())?.get(contender)
    }
}

pub(crate) fn everything(
    system: String,
    rounds: usize,
    milliseconds: u64,
    only: Option<&str>,
) -> Result<Figures> {
    let mut figures = Figures {
        system,
        windows: cfg!(windows),
        rounds,
        milliseconds,
        cells: BTreeMap::new(),
        memory: BTreeMap::new(),
        missing: Vec::new(),
    };
    let everybody = everybody();
    let light: Vec<&str> = contenders().iter().map(|it| it.name).collect();
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let cells: Vec<Cell> = cells::all()
        .into_iter()
        .filter(|it| wanted(&it.to_string()))
        .filter(|it| everybody.iter().any(|who| it.is_for(who, true)))
        .collect();
    let mut histograms = BTreeMap::new();
    for round in 0..rounds {
        for (index, cell) in cells.iter().enumerate() {
            eprint!(
                "\rround {} of {rounds}, {} of {}   ",
                round + 1,
                index + 1,
                cells.len()
            );
            let mut here: Vec<&Entry> = everybody
                .iter()
                .filter(|it| cell.is_for(it, light.contains(&it.name)))
                .collect();
            if here.is_empty() {
                continue;
            }
            // Nobody is always the first, or always behind the same one.
            let first = (round + index) % here.len();
            here.rotate_left(first);
            if round % 2 == 1 {
                here.reverse();
            }
            for contender in here {
                let measuring = || measure(contender, *cell, milliseconds);
                let sample = measuring()
                    .or_else(|error| {
                        eprintln!("\n{} at {cell}: {error:#}; once more", contender.name);
                        measuring()
                    })
                    .with_context(|| format!("measuring {} at {cell}", contender.name))?;
                let series = figures
                    .cells
                    .entry(cell.to_string())
                    .or_default()
                    .entry(contender.name.to_owned())
                    .or_default();
                series.rates.push(sample.per_second());
                if !sample.round_trips.is_empty() {
                    let histogram = histograms
                        .entry((cell.to_string(), contender.name))
                        .or_insert_with(|| Histogram::<u64>::new(3).unwrap());
                    for nanoseconds in sample.round_trips {
                        histogram.record(nanoseconds)?;
                    }
                    series.percentiles = PERCENTILES
                        .iter()
                        .filter(|(_, quantile)| histogram.len() as f64 * (1.0 - quantile) >= 1.0)
                        .map(|(_, quantile)| histogram.value_at_quantile(*quantile) as f64 / 1000.0)
                        .collect();
                }
            }
        }
    }
    eprintln!();
    if wanted("memory") {
        measure_memory(&mut figures)?;
    }
    Ok(figures)
}

fn measure_memory(figures: &mut Figures) -> Result<()> {
    if !cfg!(target_os = "linux") {
        let why = "the memory of idle clients, which is read from Linux's /proc";
        figures.missing.push(why.into());
        return Ok(());
    }
    for contender in contenders() {
        if contender.name != BASELINE && contender.name != OURS {
            continue;
        }
        let server = Server::start(&contender, None);
        let process = server.child.id().to_string();
        let out = client(&[
            contender.name,
            server.path(),
            "--idle-clients-of-process",
            &process,
        ])?;
        let memory: Vec<f64> = numbers(&out)?.map(|it| it as f64).collect();
        let [without, idle, after] = memory[..] else {
            bail!("the client printed {out:?}")
        };
        let each = |memory: f64| (memory - without) / IDLE_CLIENTS as f64;
        let memory = Memory {
            idle: each(idle),
            after_a_message: each(after),
        };
        figures.memory.insert(contender.name.into(), memory);
    }
    Ok(())
}

/// One figure: a client's process, and a server's unless they share one.
fn measure(contender: &Entry, cell: Cell, milliseconds: u64) -> Result<Sample> {
    let (server, client_on) = match cell.place {
        _ if cfg!(windows) && cell.place != Place::Inside => (Some(None), None),
        Place::Two | Place::Loaded => (Some(Some(0)), Some(1)),
        Place::One => (Some(Some(0)), Some(0)),
        Place::Inside => (None, None),
    };
    let _load = (cell.place == Place::Loaded).then(|| [Burner::start(0), Burner::start(1)]);
    let server = server.map(|processor| Server::start(contender, processor));
    let index = cells::all().iter().position(|it| *it == cell).unwrap();
    let mut args = vec![
        contender.name.to_owned(),
        server.as_ref().map_or("", |it| it.path()).to_owned(),
        format!("--cell={index}"),
        format!("--milliseconds={milliseconds}"),
    ];
    args.extend(client_on.map(|it: usize| format!("--processor={it}")));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = client(&args)?;
    let mut numbers = numbers(&out)?;
    let (messages, elapsed) = (numbers.next(), numbers.next());
    let (Some(messages), Some(elapsed)) = (messages, elapsed) else {
        bail!("the client printed {out:?}")
    };
    Ok(Sample {
        messages,
        elapsed: Duration::from_nanos(elapsed),
        round_trips: numbers.collect(),
    })
}

/// Runs a client's process to its end, and gives back what it printed.
fn client(args: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.arg("client").args(args);
    command.kill_on_drop(true);
    let out = harness::one_thread().block_on(async {
        let out = tokio::time::timeout(TOO_LONG, command.output()).await;
        out.with_context(|| format!("no end after {TOO_LONG:?}"))
    })??;
    let stderr = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success(),
        "the client's {}: {stderr}",
        out.status
    );
    Ok(String::from_utf8(out.stdout)?)
}

fn numbers(printed: &str) -> Result<impl Iterator<Item = u64>> {
    let numbers: Result<Vec<u64>, _> = printed.split_whitespace().map(str::parse).collect();
    Ok(numbers
        .with_context(|| format!("the client printed {printed:?}"))?
        .into_iter())
}

/// The client's process. It prints the number of messages, the nanoseconds that they took, and
/// then the nanoseconds of each round trip; or the server's memory.
#[derive(Args)]
pub(crate) struct Client {
    contender: String,
    /// Empty: the server is to be in this process as well.
    path: String,
    #[arg(long, default_value_t = 0)]
    cell: usize,
    #[arg(long, default_value_t = 0)]
    milliseconds: u64,
    #[arg(long)]
    processor: Option<usize>,
    #[arg(long)]
    idle_clients_of_process: Option<u32>,
}

impl Client {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(processor) = self.processor {
            harness::pin(processor);
        }
        harness::raise_descriptor_limit();
        let everybody = everybody();
        let contender = everybody.iter().find(|it| it.name == self.contender);
        let contender = contender.context("no such contender")?;
        if let Some(process) = self.idle_clients_of_process {
            let idle = Idle {
                clients: IDLE_CLIENTS,
                size: IDLE_MESSAGE,
                memory: Box::new(move || resident_memory(process)),
            };
            let memory = harness::one_thread().block_on((contender.idle)(self.path, idle));
            print_all(&memory);
            return Ok(());
        }
        let cell = cells::all()[self.cell];
        let mut target = Duration::from_millis(self.milliseconds);
        if let Work::Beside(_) = cell.work {
            // Each of its messages waits for a thousand others, and it takes many for a percentile.
            target *= 6;
        }
        let sample = if self.path.is_empty() {
            let path = harness::Path::unique();
            harness::two_threads().block_on(async {
                tokio::spawn((contender.serve)(&path.path));
                calibrated(contender, &path.path, cell, target).await
            })
        } else {
            let driving = calibrated(contender, &self.path, cell, target);
            harness::one_thread().block_on(driving)
        };
        let mut all = vec![sample.messages, sample.elapsed.as_nanos() as u64];
        all.extend(sample.round_trips);
        print_all(&all);
        Ok(())
    }
}

fn print_all(numbers: &[u64]) {
    let all: Vec<String> = numbers.iter().map(u64::to_string).collect();
    // `println!` would panic where this is an error: when the parent has gone.
    let _ = stdout().write_all(all.join(" ").as_bytes());
}

/// Finds out how many messages it takes, which warms up as well, and then measures once.
async fn calibrated(contender: &Entry, path: &str, cell: Cell, target: Duration) -> Sample {
    let at_least = match cell.work {
        Work::Clients(clients) => clients as u64,
        Work::Connect(at_once) => at_once as u64,
        _ => 1,
    };
    let mut messages = at_least;
    loop {
        let sample = contender.run(path.to_owned(), cell.job(messages)).await;
        let factor = target.as_secs_f64() / sample.elapsed.as_secs_f64().max(1e-9);
        messages = (messages as f64 * factor.min(10.0)).ceil() as u64;
        messages = messages.max(at_least);
        if factor < 4.0 {
            return contender.run(path.to_owned(), cell.job(messages)).await;
        }
    }
}

fn resident_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes << 10
}

/// A process that keeps a processor busy, until it is dropped.
struct Burner(Child);

impl Burner {
    fn start(processor: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["burn", &processor.to_string()]);
        Burner(command.stdin(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub(crate) fn burn(processor: usize) -> ! {
    harness::pin(processor);
    // However the parent ends, this ends as well.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    loop {
        std::hint::spin_loop();
    }
}
