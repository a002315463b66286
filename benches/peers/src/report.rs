//! Tables.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cells::{self, BASELINE, Cell};
use crate::harness::Work;
use crate::measure::Figures;
use crate::peers::everybody;
use crate::{goals, plots};

/// A median, and the least and the greatest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Spread {
            median,
            least,
            greatest,
        })
    }
}

impl Figures {
    /// How many times the rate of another, round by round.
    pub(crate) fn ratio(&self, one: (&str, Cell), other: (&str, Cell)) -> Option<Spread> {
        let of = |(contender, cell)| Some(&self.series(cell, contender)?.rates);
        let ratios = of(one)?.iter().zip(of(other)?).map(|(a, b)| a / b);
        Spread::of(ratios.collect())
    }
}

/// What there is, for a look at it.
pub(crate) fn show(figures: &Figures) {
    if !figures.cells.is_empty() {
        print!("{}\n{}", ratios(figures), percentiles(figures));
    }
    if !figures.memory.is_empty() {
        print!("{}", memory(figures));
    }
}

/// A row for each cell, a column for each contender.
fn ratios(figures: &Figures) -> String {
    let mut names: Vec<&str> = everybody().iter().map(|it| it.name).collect();
    names.retain(|name| figures.cells.values().any(|it| it.contains_key(*name)));
    let mut out = format!(
        "| | {} |\n|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    for cell in cells::all() {
        let Some(plain) = figures.series(cell, BASELINE) else {
            continue;
        };
        write!(out, "| {cell} |").unwrap();
        for name in &names {
            let text = match figures.ratio((name, cell), (BASELINE, cell)) {
                _ if *name == BASELINE => {
                    format!(
                        "{}/s",
                        count(Spread::of(plain.rates.clone()).unwrap().median)
                    )
                }
                Some(it) => it.to_string(),
                None => String::new(),
            };
            write!(out, " {text} |").unwrap();
        }
        out.push('\n');
    }
    out
}

fn present(figures: &Figures) -> Vec<&'static str> {
    let mut names: Vec<&str> = everybody().iter().map(|it| it.name).collect();
    names.retain(|name| figures.cells.values().any(|it| it.contains_key(*name)));
    names
}

fn header(names: &[&str]) -> String {
    let lines = "---|".repeat(names.len());
    format!("| | {} |\n|---|{lines}\n", names.join(" | "))
}

/// To three digits.
fn count(number: f64) -> String {
    match number {
        0.0..1e3 => format!("{number:.0}"),
        1e3..1e4 => format!("{:.2} k", number / 1e3),
        1e4..1e5 => format!("{:.1} k", number / 1e3),
        1e5..1e6 => format!("{:.0} k", number / 1e3),
        _ => format!("{:.2} M", number / 1e6),
    }
}

/// p50, p90, p99 and p99.9 of the ping-pongs, in microseconds.
fn percentiles(figures: &Figures) -> String {
    let names = present(figures);
    let mut out = header(&names);
    for cell in cells::all() {
        let of = |name: &str| Some(&figures.series(cell, name)?.percentiles);
        if !matches!(cell.work, Work::PingPong | Work::Beside(_)) || of(BASELINE).is_none() {
            continue;
        }
        write!(out, "| {cell} |").unwrap();
        for name in &names {
            let text = of(name).map_or(String::new(), |it| {
                let all: Vec<String> = it.iter().copied().map(short).collect();
                all.join(" / ")
            });
            write!(out, " {text} |").unwrap();
        }
        out.push('\n');
    }
    out
}

fn short(microseconds: f64) -> String {
    match microseconds {
        0.0..10.0 => format!("{microseconds:.1}"),
        _ => format!("{microseconds:.0}"),
    }
}

fn memory(figures: &Figures) -> String {
    let mut out = String::from("| | idle | after a message of 60 kB each |\n|---|---|---|\n");
    for (name, it) in &figures.memory {
        let (idle, after) = (it.idle, it.after_a_message);
        writeln!(out, "| {name} | {idle:.0} B | {after:.0} B |").unwrap();
    }
    out
}

pub(crate) fn write(docs: &Path, figures: &[PathBuf]) -> Result<()> {
    let figures: Vec<Figures> = figures
        .iter()
        .map(|it| Figures::load(it))
        .collect::<Result<_>>()?;
    let linux = figures.iter().find(|it| !it.windows);
    let windows = figures.iter().find(|it| it.windows);
    let goals = goals::table(linux, windows);
    let mut out = format!("{HEAD}\nMeasured: {}.\n", versions());
    for it in &figures {
        let (rounds, milliseconds) = (it.rounds, it.milliseconds);
        writeln!(
            out,
            "- {}: {rounds} rounds, {milliseconds} ms for each figure",
            it.system
        )?;
    }
    out.push_str("\n## Goals\n\n");
    out.push_str(GOALS);
    out.push_str(&goals);
    for it in &figures {
        let system = if it.windows { "Windows" } else { "Linux" };
        std::fs::create_dir_all(docs)?;
        let (throughput, latency) = if it.windows {
            ("throughput-windows.svg", "latency-windows.svg")
        } else {
            ("throughput.svg", "latency.svg")
        };
        plots::throughput(it, &docs.join(throughput))?;
        plots::latency(it, &docs.join(latency))?;
        writeln!(
            out,
            "\n## {system}\n\n![throughput]({throughput})\n\n![latency]({latency})"
        )?;
        writeln!(
            out,
            "\n### Messages per second, as ratios to {BASELINE}\n\n{}",
            ratios(it)
        )?;
        writeln!(
            out,
            "### Round trips in microseconds: p50 / p90 / p99 / p99.9\n\nThe last one only where there were a thousand round trips.\n\n{}",
            percentiles(it)
        )?;
        if !it.memory.is_empty() {
            writeln!(
                out,
                "### Memory of the server for each of 10,000 clients\n\n{}",
                memory(it)
            )?;
        }
        for reason in &it.missing {
            writeln!(out, "Not measured: {reason}.")?;
        }
    }
    std::fs::write(docs.join("benchmarks.md"), &out)?;
    // The verdicts are what one wants to see at once.
    print!("{goals}");
    Ok(())
}

const HEAD: &str = "\
# Benchmarks

Written by `scripts/bench-report`; do not edit. Every figure is the median of all rounds, with the
least and the greatest in brackets. In a round, all contenders do the same work one after the other,
in an order that changes; a ratio is one of messages per second within a round, and 1.00 is tokio's
own socket or pipe with tokio-util's `Framed<_, LengthDelimitedCodec>` and its defaults.

- *one way*: `feed` for each message, one `flush`, over when the server has confirmed every byte
- *send each*: the same with a `send` for each message
- *ping-pong*: one message there and back at a time
- *two processes*: client and server, with a current-thread runtime each; on Linux, each has a
  processor of its own
- *one processor*: the same on one processor, which shows what the software itself costs, and repeats
  better
- *one process*: both on a multi-thread runtime of two threads
- *loaded processors*: two processes beside two more that do nothing but compute, one on each
  processor

The peers with an interface that blocks, or that sends requests, do the nearest thing to it: see
`benches/peers`.
";

const GOALS: &str = "\
Ratios are those of the crate's own connection where nothing else is said. \"Met\" looks at the median
and, between two processes, at those with a processor each.
";

/// Of whatever takes part.
fn versions() -> String {
    let lock = include_str!("../Cargo.lock").replace('"', "");
    let version = |name: &&str| {
        let at = lock.find(&format!("\nname = {name}\nversion = "))?;
        let version = lock[at..].lines().nth(2)?.strip_prefix("version = ")?;
        Some(format!("{name} {version}"))
    };
    let versions: Vec<String> = TAKING_PART.iter().filter_map(version).collect();
    versions.join(", ")
}

const TAKING_PART: &[&str] = &[
    "asyncipc",
    "tokio",
    "tokio-util",
    "interprocess",
    "tipsy",
    "tarpc",
    "tonic",
    "ipc-channel",
    "zmq",
    "nng",
    "iceoryx2",
];
