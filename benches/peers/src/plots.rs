//! The plots: on both axes, each step is a factor.

use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::cells::{Cell, ONE_WAY_SIZES, PING_PONG_SIZES, Place, cell};
use crate::harness::{Work, label};
use crate::measure::Figures;
use crate::peers::everybody;
use crate::report::Spread;

const PERCENTILES: [&str; 4] = ["p50", "p90", "p99", "p99.9"];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Points of contenders, by size.
type Lines = Vec<(&'static str, Vec<(f64, f64)>)>;

pub(crate) fn throughput(figures: &Figures, path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, (900, 540)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = "One way, two processes: MiB/s against the size of a message";
    let lines = lines(
        figures,
        Work::OneWay,
        &ONE_WAY_SIZES,
        |figures, cell, name| {
            let rate = Spread::of(figures.series(cell, name)?.rates.clone())?.median;
            Some(rate * cell.size as f64 / (1 << 20) as f64)
        },
    );
    plot(&root, title, "MiB/s", lines, true)?;
    Ok(root.present()?)
}

pub(crate) fn latency(figures: &Figures, path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, (1100, 900)).into_drawing_area();
    root.fill(&WHITE)?;
    for (index, area) in root.split_evenly((2, 2)).iter().enumerate() {
        let title = format!("Round trip, two processes: {}", PERCENTILES[index]);
        let lines = lines(
            figures,
            Work::PingPong,
            &PING_PONG_SIZES,
            |figures, cell, name| Some(figures.series(cell, name)?.percentiles?[index]),
        );
        plot(area, &title, "µs", lines, index == 0)?;
    }
    Ok(root.present()?)
}

fn lines(
    figures: &Figures,
    work: Work,
    sizes: &[usize],
    of: impl Fn(&Figures, Cell, &str) -> Option<f64>,
) -> Lines {
    let line = |name| {
        let point = |&size| {
            let value = of(figures, cell(work, size, Place::Two), name)?;
            Some((size as f64, value))
        };
        (name, sizes.iter().filter_map(point).collect())
    };
    let everybody = everybody().into_iter().map(|it| line(it.name));
    everybody
        .filter(|(_, points): &(_, Vec<_>)| !points.is_empty())
        .collect()
}

fn plot(area: &Area<'_>, title: &str, unit: &str, lines: Lines, has_legend: bool) -> Result<()> {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let least = all().map(of).fold(f64::INFINITY, f64::min);
        let greatest = all().map(of).fold(0.0, f64::max);
        (least / 1.3..greatest * 1.3).log_scale()
    };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(range(|it| it.0), range(|it| it.1))?;
    chart
        .configure_mesh()
        .y_desc(unit)
        .x_label_formatter(&|size| label(size.round() as usize))
        .y_label_formatter(&|value| format!("{value}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (index, (name, points)) in lines.iter().enumerate() {
        // Ours are to be found at once.
        let width = if name.starts_with(crate::cells::OURS) {
            3
        } else {
            1
        };
        let style = Palette99::pick(index).stroke_width(width);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    if has_legend {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .draw()?;
    }
    Ok(())
}
