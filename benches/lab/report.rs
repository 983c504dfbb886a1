//! Medians and ratios of all cells: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use xdpfrag::lab::bench::Workload;
use xdpfrag::lab::bench::rfc2544::{LOADS, Latency};

use super::bare::Bound;
use super::goals;
use super::machine::Machine;
use super::measure::{Cell, Point};
use super::method::Method;
use super::plot;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    /// How it was measured.
    method: String,
    bounds: Vec<Bound>,
    rows: Vec<Row>,
}

/// Latency percentiles of one method at one load, us.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) method: String,
    pub(crate) points: [f64; Curve::NAMES.len()],
}

impl Curve {
    pub(crate) const NAMES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "p99.99"];
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
        machine: Machine,
        method: String,
        bounds: Vec<Bound>,
        workloads: &[Workload],
        methods: &[Method],
        cells: &BTreeMap<(usize, usize), Vec<Cell>>,
    ) -> Report {
        let row = |(&(row, column), samples): (&(usize, usize), &Vec<Cell>)| Row {
            workload: workloads[row].name(),
            method: methods[column].name(),
            samples: samples.clone(),
        };
        Report { machine, method, bounds, rows: cells.iter().map(row).collect() }
    }

    fn table(&self) -> String {
        let mut text = String::new();
        let mut workload = "";
        for row in &self.rows {
            if row.workload != workload {
                workload = row.workload;
                // Writing to a String does not fail.
                let _ = writeln!(
                    text,
                    "\n{workload:<16} {:>24} {:>6} {:>6} {:>6} {:>6}  {:>22} {:>6} {:>6} {:>6}  {:>22} {:>6} {:>6} {:>6}",
                    "load: ns/packet (min-max)",
                    "napi",
                    "worker",
                    "user",
                    "core",
                    "knee: k/s (min-max)",
                    "/nft",
                    "/plain",
                    "ns",
                    "flood: k/s (min-max)",
                    "/nft",
                    "/plain",
                    "ns",
                );
            }
            let load = |pick: fn(&Point) -> f64| self.median(row, |cell| pick(&cell.load));
            let against = |method: &str, pick: fn(&Cell) -> f64| {
                let ratio = self.ratio(row.workload, &row.method, method, pick);
                ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"))
            };
            let loss = load(|point| point.loss);
            let mark = if loss > 0.01 { "!" } else { "" };
            let _ = writeln!(
                text,
                "{:<16} {:>24} {:>6.0} {:>6.0} {:>6.0} {:>6.0}  {:>22} {:>6} {:>6} {:>6.0}  {:>22} {:>6} {:>6} {:>6.0}",
                row.method,
                format!("{mark}{}", spread(row, |cell| cell.load.cpu_ns)),
                load(|point| point.napi_ns),
                load(|point| point.worker_ns),
                load(|point| point.worker_user_ns),
                load(|point| point.core_ns),
                spread(row, |cell| knee(cell) / 1e3),
                against("nftables", knee),
                against("plain", knee),
                self.median(row, |cell| cell.knee.as_ref().map_or(0.0, |point| point.cpu_ns)),
                spread(row, |cell| flood(cell) / 1e3),
                against("nftables", flood),
                against("plain", flood),
                self.median(row, |cell| cell.flood.cpu_ns),
            );
        }
        text
    }

    /// Names of the workloads measured.
    pub(crate) fn workloads(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = self.rows.iter().map(|row| row.workload).collect();
        names.dedup();
        names
    }

    /// Names of the methods measured.
    pub(crate) fn methods(&self) -> Vec<String> {
        let first = self.rows.first().map_or("", |row| row.workload);
        self.rows.iter().filter(|row| row.workload == first).map(|row| row.method.clone()).collect()
    }

    /// Those of xdpfrag.
    pub(crate) fn ours(&self) -> Vec<String> {
        let mut methods = self.methods();
        methods.retain(|method| method != "nftables" && method != "plain");
        methods
    }

    /// Packets per second and CPU time per packet in ns, each the median, at the highest load without loss.
    pub(crate) fn knee(&self, workload: &str, method: &str) -> Option<(f64, f64)> {
        let row = self.row(workload, method)?;
        let median = |pick: fn(&Point) -> f64| self.median(row, |cell| cell.knee.as_ref().map_or(0.0, pick));
        Some((median(|point| point.delivered), median(|point| point.cpu_ns)))
    }

    /// Packets per second under flood, the median.
    pub(crate) fn flood(&self, workload: &str, method: &str) -> Option<f64> {
        self.row(workload, method).map(|row| self.median(row, flood))
    }

    /// What `pick` says of one method by what it says of another: the median of the rounds, in each of which both were
    /// measured within a second or two.
    pub(crate) fn ratio(
        &self,
        workload: &str,
        method: &str,
        other: &str,
        pick: impl Fn(&Cell) -> f64,
    ) -> Option<f64> {
        let (row, other) = (self.row(workload, method)?, self.row(workload, other)?);
        median(row.samples.iter().zip(&other.samples).map(|(ours, theirs)| pick(ours) / pick(theirs)))
    }

    /// The bounds: name, workload, packets per second, CPU time per packet, and of the flood of nftables and plain
    /// forwarding in the same round how many times it is.
    fn bounds(&self) -> String {
        let mut text = String::new();
        let mut named: Vec<(&str, &str)> = Vec::new();
        for bound in &self.bounds {
            if named.contains(&(bound.workload, bound.name)) {
                continue;
            }
            named.push((bound.workload, bound.name));
            let rounds = || {
                self.bounds
                    .iter()
                    .filter(|other| (other.workload, other.name) == (bound.workload, bound.name))
            };
            let rate = median(rounds().map(|bound| bound.rate)).unwrap_or_default();
            let cpu_ns = median(rounds().map(|bound| bound.cpu_ns)).unwrap_or_default();
            let against = |method: &str| {
                let row = self.row(bound.workload, method)?;
                median(rounds().zip(&row.samples).map(|(bound, cell)| bound.rate / flood(cell)))
            };
            let _ = write!(
                text,
                "\n{}, {}, flood: {:.0} k/s, {cpu_ns:.0} ns per frame",
                bound.workload,
                bound.name,
                rate / 1e3
            );
            for method in ["nftables", "plain"] {
                if let Some(ratio) = against(method) {
                    let _ = write!(text, ", {ratio:.2} of {method}");
                }
            }
            text.push('\n');
        }
        text
    }

    /// p99 of the latency at the load with this index, in us, the median.
    pub(crate) fn p99(&self, workload: &str, method: &str, load: usize) -> Option<f64> {
        median_latency(self.row(workload, method)?, load, |latency| latency.p99_ns)
    }

    fn row(&self, workload: &str, method: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.workload == workload && row.method == method)
    }

    /// Writes tables, samples and plots into a directory.
    pub(crate) fn save(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("lab.txt", self.text())?;
        write(
            "goals.md",
            format!("{}\n\n{}\n\n{}", self.machine.line(), self.method, goals::markdown(self)),
        )?;
        write("lab.json", serde_json::to_string_pretty(self)? + "\n")?;
        plot::bars(
            &directory.join("throughput.svg"),
            self,
            "Delivered by one router core, loss below 0.5 %",
            "1000 packets per second",
            |workload, method| self.knee(workload, method).map(|(rate, _)| rate / 1e3),
        )?;
        plot::bars(
            &directory.join("cpu.svg"),
            self,
            "Router CPU time at that rate",
            "ns per packet",
            |workload, method| self.knee(workload, method).map(|(_, cpu_ns)| cpu_ns),
        )?;
        for workload in self.workloads() {
            let loads = self.latencies(workload);
            if !loads.is_empty() {
                let path = directory.join(format!("latency-{workload}.svg"));
                plot::latencies(
                    &path,
                    &format!("Latency, {workload}, at a share of each method's rate"),
                    &loads,
                )?;
            }
        }
        Ok(())
    }

    /// Medians over the repeats, by load.
    fn latencies(&self, workload: &str) -> Vec<(f64, Vec<Curve>)> {
        let of = |index: usize, load: f64| {
            let rows = self.rows.iter().filter(|row| row.workload == workload);
            let curve = |row: &Row| {
                let at = |pick: fn(&Latency) -> u64| median_latency(row, index, pick);
                let points = [
                    at(|latency| latency.p50_ns)?,
                    at(|latency| latency.p90_ns)?,
                    at(|latency| latency.p99_ns)?,
                    at(|latency| latency.p999_ns)?,
                    at(|latency| latency.p9999_ns)?,
                ];
                Some(Curve { method: row.method.clone(), points })
            };
            (load, rows.filter_map(curve).collect::<Vec<_>>())
        };
        let loads = LOADS.into_iter().enumerate().map(|(index, load)| of(index, load));
        loads.filter(|(_, curves)| !curves.is_empty()).collect()
    }

    /// Everything a person wants to read.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n{}", self.machine.line(), self.method, self.table());
        text += &self.bounds();
        for workload in self.workloads() {
            for (load, curves) in self.latencies(workload) {
                let names = Curve::NAMES.map(|name| format!("{name:>9}")).concat();
                let _ = writeln!(text, "\n{:<16} {names}   us, {workload} at {:.0} % load", "", load * 100.0);
                for curve in curves {
                    let times = curve.points.map(|us| format!("{us:>9.1}")).concat();
                    let _ = writeln!(text, "{:<16} {times}", curve.method);
                }
            }
        }
        text + "\n" + &goals::markdown(self)
    }

    fn median(&self, row: &Row, pick: impl Fn(&Cell) -> f64) -> f64 {
        sorted(row, pick)[row.samples.len() / 2]
    }
}

/// In us; none if it was not measured.
fn median_latency(row: &Row, load: usize, pick: fn(&Latency) -> u64) -> Option<f64> {
    let us = |cell: &Cell| cell.latency.get(load).map(|latency| pick(latency) as f64 / 1e3);
    median(row.samples.iter().filter_map(us))
}

/// Packets per second at the knee; 0 without one.
pub(crate) fn knee(cell: &Cell) -> f64 {
    cell.knee.as_ref().map_or(0.0, |point| point.delivered)
}

/// Packets per second under flood.
pub(crate) fn flood(cell: &Cell) -> f64 {
    cell.flood.delivered
}

/// None of nothing.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
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
