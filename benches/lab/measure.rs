//! Every method under one workload, in turn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use xdpfrag::lab::bench::rfc2544::{LOADS, Latency};
use xdpfrag::lab::bench::{Cores, CpuTime, Rate, Search, Testbed, Trial, Workload};
use xdpfrag::lab::{Daemon, Lab};

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

/// A method that is ready, in a lab of its own.
#[derive(Debug)]
pub(crate) struct Gateway<'lab> {
    name: String,
    testbed: Testbed<'lab>,
    daemon: Option<Daemon>,
}

impl<'lab> Gateway<'lab> {
    pub(crate) fn new(
        method: &Method,
        lab: &'lab Lab,
        cores: Cores,
        arguments: &Arguments,
    ) -> Result<Gateway<'lab>> {
        let mut testbed = Testbed::new(lab, cores, method.limits())?;
        let daemon = method.start(lab, &mut testbed, cores, &arguments.binary, &arguments.run_args)?;
        Ok(Gateway { name: method.name(), testbed, daemon })
    }

    pub(crate) fn load(&mut self, workload: Workload) -> Result<()> {
        self.testbed.load(workload)
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.daemon.map_or(Ok(()), |daemon| daemon.stop().map(drop))
    }

    fn trial(&self, workload: Workload, rate: Rate, duration: Duration) -> Result<Point> {
        let trial = self.testbed.trial(rate, duration).and_then(|trial| valid(trial, workload));
        trial.map(|trial| Point::from(&trial)).with_context(|| format!("method {}", self.name))
    }
}

/// One round: a trial of each gateway after the other, then the next kind of trial. What is compared lies a second apart,
/// because the machine may be another in a minute. `beside` is called once among the floods.
pub(crate) fn round(
    gateways: &[Gateway<'_>],
    workload: Workload,
    durations: Durations,
    load: Option<f64>,
    beside: impl FnOnce() -> Result<()>,
) -> Result<Vec<Cell>> {
    let load = load.unwrap_or_else(|| fixed_load(workload));
    for gateway in gateways {
        gateway.trial(workload, Rate::Moderated(load), durations.warm_up)?;
    }
    let each = |rate, duration| {
        gateways.iter().map(|gateway| gateway.trial(workload, rate, duration)).collect::<Result<Vec<_>>>()
    };
    let floods = each(Rate::Flood, durations.flood)?;
    beside()?;
    let loads = each(Rate::Moderated(load), durations.load)?;
    let knees = gateways.iter().zip(loads.iter().zip(&floods));
    let knees = knees.map(|(gateway, (load, flood))| {
        knee(&gateway.testbed, workload, load, flood, durations)
            .with_context(|| format!("method {}", gateway.name))
    });
    let knees = knees.collect::<Result<Vec<_>>>()?;
    let latencies = gateways.iter().zip(&knees).map(|(gateway, knee)| match knee {
        Some(knee) if LATENCY_OF.contains(&workload) => {
            latencies(&gateway.testbed, knee.delivered, durations)
        }
        _ => Ok(Vec::new()),
    });
    let latencies = latencies.collect::<Result<Vec<_>>>()?;
    let points = loads.into_iter().zip(knees).zip(floods).zip(latencies);
    Ok(points.map(|(((load, knee), flood), latency)| Cell { load, knee, flood, latency }).collect())
}

/// The highest load without loss, of which batches make packets cheaper than they are at a low load.
fn knee(
    testbed: &Testbed<'_>,
    workload: Workload,
    load: &Point,
    flood: &Point,
    durations: Durations,
) -> Result<Option<Point>> {
    let high = (3e9 / load.cpu_ns).max(1.3 * flood.delivered).min(flood.offered);
    let search =
        Search { trial: durations.step, steps: durations.steps, range: SEARCH_RANGE, tolerance: TOLERANCE };
    let knee = search.run(testbed, high, Rate::Moderated)?;
    Ok(knee.map(|trial| valid(trial, workload)).transpose()?.as_ref().map(Point::from))
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
