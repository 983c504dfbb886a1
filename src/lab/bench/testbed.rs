//! A lab with a generator and a sink around its gateway, and what one trial on it shows.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use super::cores::{Cores, CpuTime, Router};
use super::generator::{Generator, Rate, Sent};
use super::sink::{Sink, Tally};
use super::workload::Workload;
use crate::lab::{Daemon, Lab};

/// What is queued when the generator ends arrives within this.
const DRAIN: Duration = Duration::from_millis(30);

/// What must not be exceeded at the far side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Packet length, bytes.
    pub mtu: u32,
    /// MSS of SYNs.
    pub mss: u32,
}

/// Generator, gateway and sink.
#[derive(Debug)]
pub struct Testbed<'lab> {
    generator: Generator<'lab>,
    router: Router,
    sink: Sink,
    workload: Option<Workload>,
}

/// What one offered load led to.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What was offered.
    pub sent: Sent,
    /// What arrived.
    pub tally: Tally,
    /// CPU time of the router meanwhile.
    pub cpu: CpuTime,
    /// Nanoseconds from sending to arrival.
    pub latency: Histogram<u64>,
}

impl Trial {
    /// Original packets per second that arrived.
    pub fn delivered(&self) -> f64 {
        self.tally.originals() as f64 / self.sent.elapsed.as_secs_f64()
    }

    /// Original packets per second that were sent.
    pub fn offered(&self) -> f64 {
        self.sent.frames as f64 / self.sent.elapsed.as_secs_f64()
    }

    /// Share of the original packets that did not arrive.
    pub fn loss(&self) -> f64 {
        1.0 - self.tally.originals() as f64 / (self.sent.frames as f64).max(1.0)
    }

    /// Router CPU time per original packet that arrived, ns.
    pub fn cpu_per_packet(&self) -> f64 {
        self.cpu.total() as f64 / (self.tally.originals() as f64).max(1.0)
    }
}

impl<'lab> Testbed<'lab> {
    /// Puts generator and sink around the gateway of `lab`, everything on its core.
    ///
    /// # Errors
    /// Without root, or on kernels without live frames or threaded NAPI.
    pub fn new(lab: &'lab Lab, cores: Cores, limits: Limits) -> Result<Testbed<'lab>> {
        let sink = Sink::attach(&lab.far, "far0", limits.mtu, limits.mss)?;
        let router = Router::new(lab, cores)?;
        Ok(Testbed { generator: Generator::new(lab, cores.generator)?, router, sink, workload: None })
    }

    /// Starts `xdpfrag run` in the gateway and counts its CPU time.
    ///
    /// # Errors
    /// See [`Daemon::start`].
    pub fn start(&mut self, lab: &Lab, binary: &Path, arguments: &[&str]) -> Result<Daemon> {
        let daemon = Daemon::start(&lab.gateway, binary, arguments)?;
        self.router.watch(daemon.pid())?;
        Ok(daemon)
    }

    /// Makes `workload` what is sent from now on.
    ///
    /// # Errors
    /// See [`Generator::load`].
    pub fn load(&mut self, workload: Workload) -> Result<()> {
        self.workload = Some(workload);
        self.generator.load(workload)
    }

    /// The gateway's threads.
    pub fn router_mut(&mut self) -> &mut Router {
        &mut self.router
    }

    /// Sends at `rate` for `duration` and counts what comes of it.
    ///
    /// # Errors
    /// See [`Generator::run`].
    pub fn trial(&self, rate: Rate, duration: Duration) -> Result<Trial> {
        self.sink.reset()?;
        let before = self.router.cpu_time()?;
        let sent = self.generator.run(rate, duration)?;
        thread::sleep(DRAIN);
        let cpu = self.router.cpu_time()? - before;
        let tally = self.sink.tally()?;
        let tally = match self.workload.and_then(Workload::stream) {
            Some(payload) => tally.of_streams(payload),
            None => tally,
        };
        Ok(Trial { sent, tally, cpu, latency: self.sink.latencies()? })
    }
}
