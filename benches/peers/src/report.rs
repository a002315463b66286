//! Tables.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cells::{self, BASELINE, Cell};
use crate::harness::label;
use crate::measure::Figures;
use crate::peers::everybody;

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

/// A row for each cell, a column for each contender.
pub(crate) fn ratios(figures: &Figures) -> String {
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
                Some(it) => format!("{:.2} ({:.2}-{:.2})", it.median, it.least, it.greatest),
                None => String::new(),
            };
            write!(out, " {text} |").unwrap();
        }
        out.push('\n');
    }
    out
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

pub(crate) fn write(_docs: &Path, _with: &str, _figures: &[PathBuf]) -> Result<()> {
    let _ = label(1);
    todo!()
}
