//! Medians and ratios of all cells: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use xdpfrag::lab::bench::Workload;

use super::measure::{Cell, Point};
use super::method::Method;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// One workload by one method.
#[derive(Debug, Serialize)]
struct Row {
    workload: &'static str,
    method: String,
    samples: Vec<Cell>,
}

impl Report {
    pub(crate) fn new(
        workloads: &[Workload],
        methods: &[Method],
        cells: &BTreeMap<(usize, usize), Vec<Cell>>,
    ) -> Report {
        let row = |(&(row, column), samples): (&(usize, usize), &Vec<Cell>)| Row {
            workload: workloads[row].name(),
            method: methods[column].name(),
            samples: samples.clone(),
        };
        Report { rows: cells.iter().map(row).collect() }
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut workload = "";
        for row in &self.rows {
            if row.workload != workload {
                workload = row.workload;
                // Writing to a String does not fail.
                let _ = writeln!(
                    text,
                    "\n{workload:<16} {:>24} {:>6} {:>6} {:>6} {:>6}  {:>24} {:>6} {:>6} {:>8} {:>7} {:>7}",
                    "load: ns/packet (min-max)",
                    "napi",
                    "worker",
                    "user",
                    "core",
                    "knee: k/s (min-max)",
                    "/nft",
                    "/plain",
                    "ns",
                    "flood",
                    "ns",
                );
            }
            let knee = |cell: &Cell| cell.knee.map_or(0.0, |point| point.delivered);
            let load = |pick: fn(&Point) -> f64| self.median(row, |cell| pick(&cell.load));
            let rate = self.median(row, knee);
            let against = |method: &str| {
                let other =
                    self.rows.iter().find(|other| other.workload == row.workload && other.method == method);
                other.map_or_else(|| "-".into(), |other| format!("{:.2}", rate / self.median(other, knee)))
            };
            let loss = load(|point| point.loss);
            let mark = if loss > 0.01 { "!" } else { "" };
            let _ = writeln!(
                text,
                "{:<16} {:>24} {:>6.0} {:>6.0} {:>6.0} {:>6.0}  {:>24} {:>6} {:>6} {:>8.0} {:>7.0} {:>7.0}",
                row.method,
                format!("{mark}{}", spread(row, |cell| cell.load.cpu_ns)),
                load(|point| point.napi_ns),
                load(|point| point.worker_ns),
                load(|point| point.worker_user_ns),
                load(|point| point.core_ns),
                spread(row, |cell| knee(cell) / 1e3),
                against("nftables"),
                against("plain"),
                self.median(row, |cell| cell.knee.map_or(0.0, |point| point.cpu_ns)),
                self.median(row, |cell| cell.flood.delivered) / 1e3,
                self.median(row, |cell| cell.flood.cpu_ns),
            );
        }
        text
    }

    fn median(&self, row: &Row, pick: impl Fn(&Cell) -> f64) -> f64 {
        sorted(row, pick)[row.samples.len() / 2]
    }
}

fn sorted(row: &Row, pick: impl Fn(&Cell) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = row.samples.iter().map(pick).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn spread(row: &Row, pick: impl Fn(&Cell) -> f64) -> String {
    let values = sorted(row, pick);
    format!("{:.0} ({:.0}-{:.0})", values[values.len() / 2], values[0], values[values.len() - 1])
}
