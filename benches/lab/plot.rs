//! The report as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{Curve, Report};

const SIZE: (u32, u32) = (960, 480);
const FONT: &str = "sans-serif";

/// Bars of `value` by workload and method.
pub(crate) fn bars(
    path: &Path,
    report: &Report,
    title: &str,
    unit: &str,
    value: impl Fn(&str, &str) -> Option<f64>,
) -> Result<()> {
    let (workloads, methods) = (report.workloads(), report.methods());
    let cell = |row: usize, column: usize| value(workloads[row], &methods[column]).unwrap_or(0.0);
    let highest = (0..workloads.len())
        .flat_map(|row| (0..methods.len()).map(move |column| (row, column)))
        .map(|(row, column)| cell(row, column))
        .fold(1.0, f64::max);
    let draw = |area: DrawingArea<SVGBackend<'_>, Shift>| -> Result<()> {
        area.fill(&WHITE).map_err(wrong)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 18))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..workloads.len() as f64, 0.0..highest * 1.05)
            .map_err(wrong)?;
        let label = |x: &f64| {
            let row = *x as usize;
            if (x.fract() - 0.5).abs() < 0.01 {
                workloads.get(row).copied().unwrap_or("").into()
            } else {
                String::new()
            }
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(workloads.len() * 2 + 1)
            .x_label_formatter(&label)
            .y_desc(unit)
            .draw()
            .map_err(wrong)?;
        let width = 0.8 / methods.len() as f64;
        for (column, method) in methods.iter().enumerate() {
            let colour = Palette99::pick(column).to_rgba();
            let bar = |row: usize| {
                let left = row as f64 + 0.1 + column as f64 * width;
                Rectangle::new([(left, 0.0), (left + width * 0.9, cell(row, column))], colour.filled())
            };
            chart
                .draw_series((0..workloads.len()).map(bar))
                .map_err(wrong)?
                .label(method)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
        }
        legend(&mut chart)?;
        area.present().map_err(wrong)
    };
    draw(SVGBackend::new(path, SIZE).into_drawing_area())
}

/// Percentiles, one panel per load, a line per method.
pub(crate) fn latencies(path: &Path, title: &str, loads: &[(f64, Vec<Curve>)]) -> Result<()> {
    let points = |curve: &Curve| curve.points.into_iter().enumerate();
    let all = || loads.iter().flat_map(|(_, curves)| curves).flat_map(|curve| curve.points);
    let (low, high) = (all().fold(f64::MAX, f64::min).max(0.1), all().fold(1.0, f64::max));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(wrong)?;
    let area = area.titled(title, (FONT, 18)).map_err(wrong)?;
    for (panel, (load, curves)) in area.split_evenly((1, loads.len())).into_iter().zip(loads) {
        let mut chart = ChartBuilder::on(&panel)
            .caption(format!("{:.0} % load", load * 100.0), (FONT, 14))
            .margin(8)
            .x_label_area_size(30)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..(Curve::NAMES.len() - 1) as f64, (low * 0.8..high * 1.2).log_scale())
            .map_err(wrong)?;
        let label = |x: &f64| Curve::NAMES.get(x.round() as usize).copied().unwrap_or("").to_owned();
        chart
            .configure_mesh()
            .x_labels(Curve::NAMES.len())
            .x_label_formatter(&label)
            .y_desc("us")
            .draw()
            .map_err(wrong)?;
        for (index, curve) in curves.iter().enumerate() {
            let colour = Palette99::pick(index).to_rgba();
            let line = points(curve).map(|(place, us)| (place as f64, us));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))
                .map_err(wrong)?
                .label(&curve.method)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour.stroke_width(2)));
        }
        legend(&mut chart)?;
    }
    area.present().map_err(wrong)
}

fn legend<'a, 'b: 'a, X: Ranged<ValueType = f64> + 'a, Y: Ranged<ValueType = f64> + 'a>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>,
) -> Result<()> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(wrong)
}

/// The errors of plotters borrow what they are about.
fn wrong(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}
