//! What bounds every method: the same frames, dropped by XDP, received by an AF_XDP socket and dropped, received
//! and transformed by a worker that hands nothing back, and forwarded by the kernel when nothing is left to be done.

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::gettid;
use serde::Serialize;
use xdpfrag::config::{Choice, Treatment};
use xdpfrag::handback::MemHandback;
use xdpfrag::lab::bench::bare::Bare;
use xdpfrag::lab::bench::{Cores, Limits, Rate, Testbed, Workload};
use xdpfrag::lab::{LAN, Lab, LabConfig};
use xdpfrag::packet::{Df, Idents, Rule, Tcp, Transform};
use xdpfrag::port::{BATCH, Port, XskConfig, XskPort};
use xdpfrag::worker::Turn;

use super::method::{MSS, SA_MTU};

const WAIT: Duration = Duration::from_millis(5);
/// Most frames between two hand-backs, and their fragments.
const SLOTS: usize = 1024;
const SLOT: usize = 2048;

/// One bound under flood.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bound {
    pub(crate) workload: &'static str,
    pub(crate) name: &'static str,
    /// Packets per second taken.
    pub(crate) rate: f64,
    /// Router CPU time per packet, ns.
    pub(crate) cpu_ns: f64,
}

/// Every bound, once.
pub(crate) fn measure(cores: Cores, duration: Duration) -> Result<Vec<Bound>> {
    let mut bounds =
        vec![forwarded(Workload::Cut, cores, duration, "plain forwarding, two fragments each", false)?];
    for workload in [Workload::Small, Workload::Syn] {
        bounds.push(forwarded(workload, cores, duration, "plain forwarding behind XDP_PASS", true)?);
    }
    for workload in [Workload::Udp1500, Workload::Small] {
        bounds.push(dropped(workload, cores, duration)?);
        bounds.push(received(workload, cores, duration, "AF_XDP rxdrop, copy mode", take_frame)?);
        bounds.push(received(workload, cores, duration, "AF_XDP receive and transform", transform)?);
    }
    Ok(bounds)
}

/// Medians of the repeats, each bound by itself.
pub(crate) fn medians(mut samples: Vec<Bound>) -> Vec<Bound> {
    samples.sort_by(|a, b| (a.workload, a.name).cmp(&(b.workload, b.name)).then(a.rate.total_cmp(&b.rate)));
    let same = |a: &Bound, b: &Bound| (a.workload, a.name) == (b.workload, b.name);
    samples.chunk_by(same).map(|repeats| repeats[repeats.len() / 2].clone()).collect()
}

/// What the kernel forwards without anybody's help, in packets.
fn forwarded(
    workload: Workload,
    cores: Cores,
    duration: Duration,
    name: &'static str,
    xdp: bool,
) -> Result<Bound> {
    let lab = Lab::new(&LabConfig { sa_mtu: 1500, ..LabConfig::default() })?;
    let mut testbed = Testbed::new(&lab, cores, Limits { mtu: 1500, mss: 1460 })?;
    testbed.load(workload)?;
    let _passing = xdp.then(|| Bare::passing(&lab)).transpose()?;
    let trial = testbed.trial(Rate::Flood, duration)?;
    Ok(bound(workload, name, trial.tally.originals(), trial.cpu.total(), trial.sent.elapsed))
}

fn dropped(workload: Workload, cores: Cores, duration: Duration) -> Result<Bound> {
    let lab = Lab::new(&LabConfig::default())?;
    let mut testbed = Testbed::new(&lab, cores, Limits { mtu: 1500, mss: 1460 })?;
    testbed.load(workload)?;
    let bare = Bare::dropping(&lab)?;
    let trial = testbed.trial(Rate::Flood, duration)?;
    Ok(bound(workload, "XDP_DROP", bare.dropped()?, trial.cpu.total(), trial.sent.elapsed))
}

/// `receiver` empties the socket until it is told to stop, and says how many frames there were.
fn received(
    workload: Workload,
    cores: Cores,
    duration: Duration,
    name: &'static str,
    receiver: fn(XskPort, &AtomicBool) -> Result<u64>,
) -> Result<Bound> {
    let lab = Lab::new(&LabConfig::default())?;
    let mut testbed = Testbed::new(&lab, cores, Limits { mtu: 1500, mss: 1460 })?;
    testbed.load(workload)?;
    let stop = AtomicBool::new(false);
    let config = XskConfig { interface: LAN.into(), queue: 0, zero_copy: Choice::Off, max_frame: 1522 };
    let port = lab.gateway.run(|| Ok(XskPort::open(&config)?))?;
    let bare = Bare::redirecting(&lab, port.as_fd())?;
    let (told, tid) = mpsc::channel();
    thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<u64> {
            let told = told;
            core_affinity::set_for_current(core_affinity::CoreId { id: cores.router });
            told.send(gettid().as_raw())?;
            receiver(port, &stop)
        });
        let trial = tid.recv().context("no receiver").and_then(|tid| {
            go_first(tid)?;
            testbed.router_mut().watch_thread(tid)?;
            testbed.trial(Rate::Flood, duration)
        });
        stop.store(true, Release);
        let frames = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let trial = trial?;
        drop(bare);
        Ok(bound(workload, name, frames, trial.cpu.total(), trial.sent.elapsed))
    })
}

/// As the workers of `xdpfrag run` do: else NAPI fills the ring faster than it is emptied.
fn go_first(tid: i32) -> Result<()> {
    let status = Command::new("chrt").args(["--rr", "--pid", "1", &tid.to_string()]).status()?;
    ensure!(status.success(), "chrt: {status}");
    Ok(())
}

fn take_frame(mut port: XskPort, stop: &AtomicBool) -> Result<u64> {
    let mut frames = 0;
    while !stop.load(Acquire) {
        let receipt = port.receive(BATCH, |_| ());
        port.refill();
        frames += receipt.frames as u64;
        if receipt.frames == 0 {
            port.wait(WAIT)?;
        }
    }
    Ok(frames)
}

/// Everything that a worker does, but that the kernel does not get what it made.
fn transform(port: XskPort, stop: &AtomicBool) -> Result<u64> {
    let transform = Transform { df: Df::Clear, tcp: Tcp::Resegment, idents: Arc::new(Idents::default()) };
    let rule = Rule { mtu: SA_MTU as u16, mss4: Some(MSS as u16), mss6: None };
    let scope = vec![("0.0.0.0/0".parse()?, rule)];
    let treatment = Arc::new(Treatment { scope, df: Df::Clear, tcp: Tcp::Resegment });
    let mut turn = Turn::new(port, MemHandback::new(SLOTS, SLOT).counting(), transform, treatment);
    while !stop.load(Acquire) {
        if turn.turn()?.idle() {
            turn.wait(WAIT)?;
        }
    }
    Ok(turn.counters().frames())
}

fn bound(workload: Workload, name: &'static str, frames: u64, cpu: u64, elapsed: Duration) -> Bound {
    Bound {
        workload: workload.name(),
        name,
        rate: frames as f64 / elapsed.as_secs_f64(),
        cpu_ns: cpu as f64 / (frames as f64).max(1.0),
    }
}
