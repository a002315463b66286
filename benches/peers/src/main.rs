//! Measures everybody, and writes docs/benchmarks.md: see scripts/bench-report.

mod cells;
mod goals;
#[allow(dead_code, reason = "some of it is for the criterion groups alone")]
#[path = "../../harness/mod.rs"]
mod harness;
#[cfg(unix)]
mod instructions;
mod measure;
mod peers;
mod plots;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures, on this system, and keeps the figures.
    Measure {
        /// What it runs on and was built with, in words.
        #[arg(long)]
        system: String,
        /// Each round has every contender at everything.
        #[arg(long, default_value_t = 4)]
        rounds: usize,
        /// How long each measurement lasts.
        #[arg(long, default_value_t = 80)]
        milliseconds: u64,
        /// Only cells with this in their names, such as `one way, 64 B`.
        #[arg(long)]
        only: Option<String>,
        #[arg(long)]
        out: PathBuf,
    },
    /// Prints the ratios of figures that were kept.
    Show { figures: PathBuf },
    /// Writes docs/benchmarks.md and its plots from figures that were kept.
    Write {
        /// The folder to write to.
        #[arg(long)]
        docs: PathBuf,
        /// Of Linux and of Windows, either or both.
        #[arg(required = true)]
        figures: Vec<PathBuf>,
    },
    /// Sends or receives so many messages of 64 B, for scripts/count-instructions.
    #[cfg(unix)]
    #[command(hide = true)]
    Instructions(instructions::Run),
    /// The client's process.
    #[command(hide = true)]
    Client(measure::Client),
    /// A process that keeps a processor busy.
    #[command(hide = true)]
    Burn { processor: usize },
}

fn main() -> Result<()> {
    harness::serve_if_asked(&peers::everybody());
    match Args::parse().command {
        Command::Measure {
            system,
            rounds,
            milliseconds,
            only,
            out,
        } => measure::everything(system, rounds, milliseconds, only.as_deref())?.save(&out),
        Command::Show { figures } => {
            report::show(&measure::Figures::load(&figures)?);
            Ok(())
        }
        Command::Write { docs, figures } => report::write(&docs, &figures),
        #[cfg(unix)]
        Command::Instructions(run) => run.run(),
        Command::Client(client) => client.run(),
        Command::Burn { processor } => measure::burn(processor),
    }
}
