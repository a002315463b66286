//! The plots: on both axes, a step is a factor.

use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::cells::{Cell, ONE_WAY_SIZES, PING_PONG_SIZES, Place, cell};
use crate::harness::{Entry, Work, label};
use crate::measure::{Figures, PERCENTILES};
use crate::peers::everybody;
use crate::report::Spread;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Points of contenders, by the logarithm of the size.
type Lines = Vec<(Entry, Vec<(f64, f64)>)>;

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
    let legend = Some(SeriesLabelPosition::LowerRight);
    plot(&root, title, "MiB/s", lines, legend)?;
    Ok(root.present()?)
}

pub(crate) fn latency(figures: &Figures, path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, (1100, 900)).into_drawing_area();
    root.fill(&WHITE)?;
    for (index, area) in root.split_evenly((2, 2)).iter().enumerate() {
        let title = format!("Round trip, two processes: {}", PERCENTILES[index].0);
        let lines = lines(
            figures,
            Work::PingPong,
            &PING_PONG_SIZES,
            |figures, cell, name| figures.series(cell, name)?.percentiles.get(index).copied(),
        );
        let legend = (index == 0).then_some(SeriesLabelPosition::UpperLeft);
        plot(area, &title, "µs", lines, legend)?;
    }
    Ok(root.present()?)
}

fn lines(
    figures: &Figures,
    work: Work,
    sizes: &[usize],
    of: impl Fn(&Figures, Cell, &str) -> Option<f64>,
) -> Lines {
    let points = |name| {
        let point = |&size: &usize| {
            let value = of(figures, cell(work, size, Place::Two), name)?;
            Some(((size as f64).log2(), value))
        };
        sizes.iter().filter_map(point).collect()
    };
    let lines = everybody().into_iter().map(|it| (it, points(it.name)));
    lines
        .filter(|(_, points): &(_, Vec<_>)| !points.is_empty())
        .collect()
}

fn plot(
    area: &Area<'_>,
    title: &str,
    unit: &str,
    lines: Lines,
    legend: Option<SeriesLabelPosition>,
) -> Result<()> {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let sizes = all().map(|it| it.0);
    let sizes = sizes.clone().fold(f64::INFINITY, f64::min)..sizes.fold(0.0, f64::max);
    let values = all().map(|it| it.1);
    // A legend above the lines needs room.
    let above = if let Some(SeriesLabelPosition::UpperLeft) = legend {
        20.0
    } else {
        1.3
    };
    let values =
        values.clone().fold(f64::INFINITY, f64::min) / 1.3..values.fold(0.0, f64::max) * above;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .margin_right(36)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(sizes, values.log_scale())?;
    chart
        .configure_mesh()
        .y_desc(unit)
        .x_labels(10)
        .x_label_formatter(&|log| label(1 << log.round() as u32))
        .y_label_formatter(&|value| format!("{value}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (contender, points) in &lines {
        // Each has the same colour in every plot, and ours are to be found at once.
        let index = everybody()
            .iter()
            .position(|it| it.name == contender.name)
            .unwrap();
        let is_ours = contender.name.starts_with(crate::cells::OURS);
        let style = Palette99::pick(index).stroke_width(if is_ours { 3 } else { 1 });
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
            .label(contender.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    if let Some(position) = legend {
        chart
            .configure_series_labels()
            .position(position)
            .background_style(WHITE.mix(0.85))
            .draw()?;
    }
    Ok(())
}
