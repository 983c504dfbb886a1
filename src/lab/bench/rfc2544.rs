//! `xdpfrag bench`: throughput and latency in the manner of RFC 2544, of plain forwarding and of xdpfrag.
//!
//! It differs from the RFC where a private lab must: trials last seconds and not minutes, a load that fails is
//! tried twice, and every packet carries a time stamp, not one per stream.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::cores::Cores;
use super::generator::Rate;
use super::search::Search;
use super::testbed::{Limits, Testbed};
use super::workload::Workload;
use crate::lab::{Lab, LabConfig};

/// Loads at which latency is measured, as a share of the throughput.
pub const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// Precision of the throughput: 32^(1/2^10) is 0.3 per cent.
const STEPS: u32 = 10;
const RANGE: f64 = 32.0;
/// The first packets meet cold caches.
const WARM_UP: Duration = Duration::from_millis(200);

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Kind of traffic.
    pub workload: Workload,
    /// SA MTU, bytes.
    pub sa_mtu: u32,
    /// Length of a trial.
    pub trial: Duration,
    /// Share of the packets that may be lost at the throughput.
    pub tolerance: f64,
    /// Who works where.
    pub cores: Cores,
    /// More flags for `xdpfrag run`.
    pub run: Vec<String>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Kind of traffic, in words.
    pub workload: &'static str,
    /// SA MTU, bytes.
    pub sa_mtu: u32,
    /// Length of a trial, s.
    pub trial_s: f64,
    /// Share of the packets that may be lost at the throughput.
    pub tolerance: f64,
    /// Who worked where.
    pub cores: Cores,
    /// The kernel alone, nothing rewritten, to a link that takes every packet whole.
    pub plain: Performance,
    /// `xdpfrag run`, to a link of the SA MTU.
    pub xdpfrag: Performance,
    /// How long all of it took, s.
    pub elapsed_s: f64,
}

/// How one way of forwarding fared. A packet is one that was sent, whatever became of it on the way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Performance {
    /// Packets per second without loss; 0 if there is no such load.
    pub throughput: f64,
    /// CPU time of the router per packet at that load, ns.
    pub cpu_ns: f64,
    /// Latencies, at [`LOADS`].
    pub latency: Vec<Latency>,
}

/// Time from sending to the arrival of a packet's last piece at one load, ns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Load as a share of the throughput.
    pub load: f64,
    /// Load, packets per second.
    pub rate: f64,
    /// Packets measured.
    pub packets: u64,
    /// Share of the packets that did not arrive.
    pub loss: f64,
    /// Shortest.
    pub min_ns: u64,
    /// Percentiles.
    pub p50_ns: u64,
    /// 90 per cent took no longer.
    pub p90_ns: u64,
    /// 99 per cent took no longer.
    pub p99_ns: u64,
    /// 99.9 per cent took no longer.
    pub p999_ns: u64,
    /// 99.99 per cent took no longer.
    pub p9999_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

impl Latency {
    /// Percentiles of a histogram of ns.
    pub fn new(load: f64, rate: f64, loss: f64, histogram: &Histogram<u64>) -> Latency {
        let quantile = |quantile| histogram.value_at_quantile(quantile);
        Latency {
            load,
            rate,
            packets: histogram.len(),
            loss,
            min_ns: histogram.min(),
            p50_ns: quantile(0.5),
            p90_ns: quantile(0.9),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            p9999_ns: quantile(0.9999),
            max_ns: histogram.max(),
        }
    }
}

/// Measures plain forwarding, then `binary run`; `progress` is told what happens, a line each.
///
/// Interrupting it needs no clean-up: the namespaces and the child end with the process.
///
/// # Errors
/// If the lab cannot be built, the kernel has no live frames or no threaded NAPI, or `xdpfrag run` does not start.
pub fn run(settings: &Settings, binary: &Path, mut progress: impl FnMut(&str)) -> Result<Report> {
    let start = Instant::now();
    let plain = measure(settings, None, &mut progress).context("plain forwarding")?;
    let xdpfrag = measure(settings, Some(binary), &mut progress).context("xdpfrag")?;
    Ok(Report {
        workload: settings.workload.description(),
        sa_mtu: settings.sa_mtu,
        trial_s: settings.trial.as_secs_f64(),
        tolerance: settings.tolerance,
        cores: settings.cores,
        plain,
        xdpfrag,
        elapsed_s: start.elapsed().as_secs_f64(),
    })
}

fn measure(
    settings: &Settings,
    binary: Option<&Path>,
    progress: &mut impl FnMut(&str),
) -> Result<Performance> {
    let name = if binary.is_some() { "xdpfrag" } else { "plain forwarding" };
    let mtu = if binary.is_some() { settings.sa_mtu } else { 1500 };
    let lab = Lab::new(&LabConfig { sa_mtu: mtu, ..LabConfig::default() })?;
    let mut testbed = Testbed::new(&lab, settings.cores, Limits { mtu, mss: mtu - 40 })?;
    testbed.load(settings.workload)?;
    let daemon = match binary {
        None => None,
        Some(binary) => {
            let (mtu, core) = (mtu.to_string(), settings.cores.router.to_string());
            let mut arguments = vec!["--mtu", &mtu, "--cores", &core];
            arguments.extend(settings.run.iter().map(String::as_str));
            Some(testbed.start(&lab, binary, &arguments)?)
        }
    };
    progress(&format!("{name}: looking for the throughput"));
    let flood = testbed.trial(Rate::Flood, WARM_UP)?;
    anyhow::ensure!(flood.tally.originals() > 0, "nothing arrived: {:?}", flood.tally);
    let search = Search { trial: settings.trial, steps: STEPS, range: RANGE, tolerance: settings.tolerance };
    let found = search.run(&testbed, flood.offered(), Rate::Even)?;
    let mut performance = Performance { throughput: 0.0, cpu_ns: 0.0, latency: Vec::new() };
    if let Some(trial) = found {
        performance.throughput = trial.delivered();
        performance.cpu_ns = trial.cpu_per_packet();
        for load in LOADS {
            let rate = load * performance.throughput;
            progress(&format!(
                "{name}: latency at {:.0} % of {:.0} packets/s",
                load * 100.0,
                performance.throughput
            ));
            let trial = testbed.trial(Rate::Even(rate), settings.trial)?;
            performance.latency.push(Latency::new(load, rate, trial.loss().max(0.0), &trial.latency));
        }
    }
    if let Some(daemon) = daemon {
        daemon.stop()?;
    }
    Ok(performance)
}
