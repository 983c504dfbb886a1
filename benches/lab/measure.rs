//! Every method under one workload, in turn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use xdpfrag::lab::Lab;
use xdpfrag::lab::bench::rfc2544::{LOADS, Latency};
use xdpfrag::lab::bench::{Cores, CpuTime, Rate, Search, Testbed, Trial, Workload};

use super::Arguments;
use super::method::{Method, Running};

/// Passes of which a latency consists, for the same reason for which there are rounds.
const LATENCY_PASSES: u32 = 3;
/// Those of which a flood consists, which the goals are about: as many milliseconds in shorter turns halve what chance adds to a ratio.
const FLOOD_PASSES: u32 = 10;

/// How long trials last, all passes of one.
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
        step: Duration::from_millis(100),
        steps: 7,
    };
    pub(crate) const QUICK: Durations = Durations {
        warm_up: Duration::from_millis(50),
        load: Duration::from_millis(200),
        flood: Duration::from_millis(150),
        step: Duration::from_millis(60),
        steps: 6,
    };

    /// As little as can be of all that is no flood.
    pub(crate) fn floods(self) -> Durations {
        Durations { load: Duration::from_millis(30), steps: 0, ..self }
    }
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

impl Point {
    /// Of trials that lasted as long as each other.
    fn mean(points: &[Point]) -> Point {
        let mean = |pick: fn(&Point) -> f64| points.iter().map(pick).sum::<f64>() / points.len() as f64;
        Point {
            offered: mean(|point| point.offered),
            delivered: mean(|point| point.delivered),
            loss: mean(|point| point.loss),
            cpu_ns: mean(|point| point.cpu_ns),
            napi_ns: mean(|point| point.napi_ns),
            worker_ns: mean(|point| point.worker_ns),
            worker_user_ns: mean(|point| point.worker_user_ns),
            softirqd_ns: mean(|point| point.softirqd_ns),
            core_ns: mean(|point| point.core_ns),
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
    running: Running,
}

impl<'lab> Gateway<'lab> {
    pub(crate) fn new(
        method: &Method,
        lab: &'lab Lab,
        cores: Cores,
        arguments: &Arguments,
    ) -> Result<Gateway<'lab>> {
        let mut testbed = Testbed::new(lab, cores, method.limits())?;
        let running = method.start(lab, &mut testbed, cores, &arguments.binary, &arguments.run_args)?;
        Ok(Gateway { name: method.name(), testbed, running })
    }

    pub(crate) fn load(&mut self, workload: Workload) -> Result<()> {
        self.testbed.load(workload)
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.running.stop()
    }

    fn trial(&self, workload: Workload, rate: Rate, duration: Duration) -> Result<Point> {
        let trial = self.testbed.trial(rate, duration).and_then(|trial| valid(trial, workload));
        trial.map(|trial| Point::from(&trial)).with_context(|| format!("method {}", self.name))
    }
}

/// One round: a trial of each gateway after the other, then the next kind of trial. What is compared lies a second apart,
/// because the machine may be another in a minute. The `limits` are flooded among them, and what became of that is the
/// second of the results; `beside` is called once.
pub(crate) fn round(
    gateways: &[Gateway<'_>],
    limits: &[Gateway<'_>],
    workload: Workload,
    durations: Durations,
    load: Option<f64>,
    beside: impl FnOnce() -> Result<()>,
) -> Result<(Vec<Cell>, Vec<Point>)> {
    let load = load.unwrap_or_else(|| fixed_load(workload));
    let all: Vec<_> = gateways.iter().chain(limits).collect();
    for gateway in &all {
        gateway.trial(workload, Rate::Moderated(load), durations.warm_up)?;
    }
    let mut floods = floods(&all, workload, durations.flood)?;
    beside()?;
    let each = |gateway: &Gateway<'_>| gateway.trial(workload, Rate::Moderated(load), durations.load);
    let loads = gateways.iter().map(each).collect::<Result<Vec<_>>>()?;
    let of_limits = floods.split_off(gateways.len());
    let knees = knees(gateways, workload, &loads, &floods, durations)?;
    let latencies = match LATENCY_OF.contains(&workload) {
        true => latencies(gateways, &knees, durations)?,
        false => vec![Vec::new(); gateways.len()],
    };
    let points = loads.into_iter().zip(knees).zip(floods).zip(latencies);
    let cells = points.map(|(((load, knee), flood), latency)| Cell { load, knee, flood, latency });
    Ok((cells.collect(), of_limits))
}

/// A trial of each in as many passes, to and fro, so that none gains by a machine that becomes faster or slower.
fn in_passes<G, T>(passes: u32, gateways: &[G], trial: impl Fn(&G) -> Result<T>) -> Result<Vec<Vec<T>>> {
    let mut results: Vec<_> = gateways.iter().map(|_| Vec::new()).collect();
    for pass in 0..passes {
        let mut order: Vec<_> = gateways.iter().zip(&mut results).collect();
        if pass % 2 == 1 {
            order.reverse();
        }
        for (gateway, results) in order {
            results.push(trial(gateway)?);
        }
    }
    Ok(results)
}

fn floods(gateways: &[&Gateway<'_>], workload: Workload, duration: Duration) -> Result<Vec<Point>> {
    let flood = |gateway: &&Gateway<'_>| gateway.trial(workload, Rate::Flood, duration / FLOOD_PASSES);
    Ok(in_passes(FLOOD_PASSES, gateways, flood)?.iter().map(|points| Point::mean(points)).collect())
}

/// The highest loads without loss, of which batches make packets cheaper than they are at a low load. All searches take a
/// step, then all the next one.
fn knees(
    gateways: &[Gateway<'_>],
    workload: Workload,
    loads: &[Point],
    floods: &[Point],
    durations: Durations,
) -> Result<Vec<Option<Point>>> {
    let search =
        Search { trial: durations.step, steps: durations.steps, range: SEARCH_RANGE, tolerance: TOLERANCE };
    let below = |(load, flood): (&Point, &Point)| {
        let high = (3e9 / load.cpu_ns).max(1.3 * flood.delivered).min(flood.offered);
        search.below(high, Rate::Moderated)
    };
    let mut searches: Vec<_> = loads.iter().zip(floods).map(below).collect();
    for _ in 0..search.steps {
        for (gateway, search) in gateways.iter().zip(&mut searches) {
            search.step(&gateway.testbed).with_context(|| format!("method {}", gateway.name))?;
        }
    }
    let point = |trial: Trial| valid(trial, workload).map(|trial| Point::from(&trial));
    searches.into_iter().map(|search| search.best.map(point).transpose()).collect()
}

/// At shares of each one's knee, every packet when it is due; nothing for one without a knee.
fn latencies(
    gateways: &[Gateway<'_>],
    knees: &[Option<Point>],
    durations: Durations,
) -> Result<Vec<Vec<Latency>>> {
    let mut latencies = vec![Vec::new(); gateways.len()];
    let carried = gateways.iter().zip(knees).zip(&mut latencies);
    let mut carried: Vec<_> = carried
        .filter_map(|((gateway, knee), latencies)| {
            knee.map(|knee| (&gateway.testbed, knee.delivered, latencies))
        })
        .collect();
    for load in LOADS {
        let passes = in_passes(LATENCY_PASSES, &carried, |(testbed, knee, _)| {
            testbed.trial(Rate::Even(load * knee), durations.load / LATENCY_PASSES)
        })?;
        for ((_, knee, latencies), trials) in carried.iter_mut().zip(passes) {
            latencies.push(merged(load, load * *knee, trials)?);
        }
    }
    Ok(latencies)
}

/// The passes at one load as if they were one trial.
fn merged(load: f64, rate: f64, trials: Vec<Trial>) -> Result<Latency> {
    let loss = trials.iter().map(|trial| trial.loss().max(0.0)).sum::<f64>() / trials.len() as f64;
    let mut histograms = trials.into_iter().map(|trial| trial.latency);
    let mut all = histograms.next().context("no pass")?;
    for histogram in histograms {
        all.add(histogram)?;
    }
    Ok(Latency::new(load, rate, loss, &all))
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
