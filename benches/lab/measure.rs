//! One method under every workload.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use xdpfrag::lab::bench::rfc2544::{LOADS, Latency};
use xdpfrag::lab::bench::{Cores, CpuTime, Rate, Search, Testbed, Trial, Workload};

use super::Arguments;
use super::method::Method;

/// How long trials last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Durations {
    warm_up: Duration,
    pub(crate) load: Duration,
    pub(crate) flood: Duration,
    step: Duration,
    steps: u32,
}

impl Durations {
    pub(crate) const FULL: Durations = Durations {
        warm_up: Duration::from_millis(80),
        load: Duration::from_millis(300),
        flood: Duration::from_millis(300),
        step: Duration::from_millis(120),
        steps: 8,
    };
    pub(crate) const QUICK: Durations = Durations {
        warm_up: Duration::from_millis(50),
        load: Duration::from_millis(200),
        flood: Duration::from_millis(150),
        step: Duration::from_millis(60),
        steps: 6,
    };
}

/// The highest load without loss is looked for within this factor.
const SEARCH_RANGE: f64 = 24.0;
/// Share of packets that may get lost where none should: eth1 has a ring of 256, and a VM stalls now and then.
const TOLERANCE: f64 = 0.005;
/// Where latency is measured, too.
const LATENCY_OF: [Workload; 2] = [Workload::Udp1500, Workload::Small];

/// One method under one workload, once.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    /// At a fixed load, below saturation.
    pub(crate) load: Point,
    /// At the highest load without loss; none was without.
    pub(crate) knee: Option<Point>,
    /// With as much as the generator can make.
    pub(crate) flood: Point,
    /// Latencies, for some workloads.
    pub(crate) latency: Vec<Latency>,
}

/// One trial, in rates and times per original packet.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Point {
    /// Packets per second sent.
    pub(crate) offered: f64,
    /// Packets per second that arrived.
    pub(crate) delivered: f64,
    /// Share that did not.
    pub(crate) loss: f64,
    /// Router CPU time per packet delivered, ns; then the parts of it.
    pub(crate) cpu_ns: f64,
    pub(crate) napi_ns: f64,
    pub(crate) worker_ns: f64,
    pub(crate) worker_user_ns: f64,
    pub(crate) softirqd_ns: f64,
    /// Everything on the core that was not idle, ns per packet, as a check.
    pub(crate) core_ns: f64,
}

impl From<&Trial> for Point {
    fn from(trial: &Trial) -> Point {
        let packets = (trial.tally.originals() as f64).max(1.0);
        let CpuTime { napi, worker, worker_user, softirqd, core } = trial.cpu;
        let per_packet = |ns: u64| ns as f64 / packets;
        Point {
            offered: trial.offered(),
            delivered: trial.delivered(),
            loss: trial.loss(),
            cpu_ns: trial.cpu_per_packet(),
            napi_ns: per_packet(napi),
            worker_ns: per_packet(worker),
            worker_user_ns: per_packet(worker_user),
            softirqd_ns: per_packet(softirqd),
            core_ns: per_packet(core),
        }
    }
}

/// Below what every method can do.
fn fixed_load(workload: Workload) -> f64 {
    match workload {
        Workload::Udp1500 | Workload::Tcp1 | Workload::Tcp64 | Workload::Cut => 80_000.0,
        Workload::Imix | Workload::ImixMixed | Workload::ImixCut | Workload::Small | Workload::Syn => {
            160_000.0
        }
    }
}

/// A new lab for `method`, and in it every workload.
pub(crate) fn method(
    method: &Method,
    workloads: &[Workload],
    cores: Cores,
    durations: Durations,
    arguments: &Arguments,
) -> Result<Vec<Cell>> {
    let lab = method.lab()?;
    let mut testbed = Testbed::new(&lab, cores, method.limits())?;
    let daemon = method.start(&lab, &mut testbed, cores, &arguments.binary, &arguments.run_args)?;
    let mut cells = Vec::new();
    for &workload in workloads {
        testbed.load(workload)?;
        let load = arguments.load.unwrap_or_else(|| fixed_load(workload));
        cells.push(cell(&testbed, workload, load, durations)?);
    }
    if let Some(daemon) = daemon {
        daemon.stop()?;
    }
    Ok(cells)
}

fn cell(testbed: &Testbed<'_>, workload: Workload, load: f64, durations: Durations) -> Result<Cell> {
    testbed.trial(Rate::Moderated(load), durations.warm_up)?;
    let at_load = valid(testbed.trial(Rate::Moderated(load), durations.load)?, workload)?;
    let flood = valid(testbed.trial(Rate::Flood, durations.flood)?, workload)?;
    let (at_load, flood) = (Point::from(&at_load), Point::from(&flood));
    // Batches make packets cheaper than they are at a low load.
    let high = (3e9 / at_load.cpu_ns).max(1.3 * flood.delivered).min(flood.offered);
    let search =
        Search { trial: durations.step, steps: durations.steps, range: SEARCH_RANGE, tolerance: TOLERANCE };
    let knee = search.run(testbed, high, Rate::Moderated)?;
    let knee = knee.map(|trial| valid(trial, workload)).transpose()?;
    let latency = match &knee {
        Some(knee) if LATENCY_OF.contains(&workload) => latencies(testbed, knee.delivered(), durations)?,
        _ => Vec::new(),
    };
    Ok(Cell { load: at_load, knee: knee.as_ref().map(Point::from), flood, latency })
}

/// At shares of the knee, every packet when it is due.
fn latencies(testbed: &Testbed<'_>, knee: f64, durations: Durations) -> Result<Vec<Latency>> {
    let at = |load: f64| {
        let trial = testbed.trial(Rate::Even(load * knee), durations.load)?;
        Ok(Latency::new(load, load * knee, trial.loss().max(0.0), &trial.latency))
    };
    LOADS.into_iter().map(at).collect()
}

/// A trial in which the gateway did what it should.
fn valid(trial: Trial, workload: Workload) -> Result<Trial> {
    let tally = &trial.tally;
    ensure!(tally.originals() > 0, "{}: nothing arrived: {tally:?}, sent {:?}", workload.name(), trial.sent);
    ensure!(tally.oversize == 0, "{}: packets too long for the far link arrived: {tally:?}", workload.name());
    ensure!(tally.syns == tally.clamped, "{}: SYNs with a large MSS arrived: {tally:?}", workload.name());
    ensure!(tally.strange == 0, "{}: frames that nobody sent arrived: {tally:?}", workload.name());
    Ok(trial)
}
