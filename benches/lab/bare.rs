//! What bounds every method: the same frames, dropped by XDP; received by an AF_XDP socket and dropped, copied, sent out
//! of another, or transformed by a worker that hands nothing back; and forwarded by the kernel when nothing is left to be
//! done.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use nix::unistd::gettid;
use serde::Serialize;
use xdpfrag::config::{Choice, Treatment};
use xdpfrag::handback::{Handback, HandbackConfig, MemHandback, Veth};
use xdpfrag::lab::bench::bare::Bare;
use xdpfrag::lab::bench::{Cores, Limits, Rate, Testbed, Workload};
use xdpfrag::lab::{LAN, Lab, LabConfig};
use xdpfrag::packet::{Df, Idents, Rule, Sink, Tcp, Transform};
use xdpfrag::port::{BATCH, Port, XskConfig, XskPort};
use xdpfrag::worker::Turn;

use super::measure::Point;
use super::method::{MSS, Programs, SA_MTU};

const WAIT: Duration = Duration::from_millis(5);
/// Most frames between two hand-backs, and their fragments.
const SLOTS: usize = 512;
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

impl Bound {
    pub(crate) fn forwarded(workload: Workload, name: &'static str, flood: &Point) -> Bound {
        Bound { workload: workload.name(), name, rate: flood.delivered, cpu_ns: flood.cpu_ns }
    }
}

/// Empties the socket until it is told to stop, in a lab, and says how many frames there were.
type Receiver = fn(&Lab, XskPort, &AtomicBool) -> Result<u64>;

const RECEIVERS: [(&str, Receiver); 4] = [
    ("AF_XDP rxdrop, copy mode", take_frame),
    ("AF_XDP receive and copy", copy),
    ("AF_XDP receive and transform", transform),
    ("AF_XDP l2fwd, copy mode, to another veth", forward),
];

/// What bounds a workload, in words, of which workload it is measured, and behind what: packets as an ideal gateway would
/// hand them to the stack, and the least that programs can do that have to be there.
pub(crate) type Limit = (&'static str, Workload, Programs);

/// Nothing for TCP, of which plain forwarding makes as many packets as it gets.
pub(crate) fn limits(workload: Workload) -> Vec<Limit> {
    let cut = |already| {
        vec![
            ("cut already, plain forwarding", already, Programs::None),
            ("XDP_PASS, the least edit and cut behind GRO", workload, Programs::Cut),
        ]
    };
    match workload {
        Workload::Udp1500 => cut(Workload::Cut),
        Workload::Imix => cut(Workload::ImixCut),
        Workload::Small | Workload::Syn => vec![
            ("XDP_PASS and an empty tcx program", workload, Programs::Empty),
            ("XDP_PASS and the least edit behind GRO", workload, Programs::Edit),
        ],
        Workload::Tcp1 | Workload::Tcp64 | Workload::ImixMixed | Workload::Cut | Workload::ImixCut => {
            Vec::new()
        }
    }
}

/// The bounds that end at eth1, once.
pub(crate) fn measure(workload: Workload, cores: Cores, duration: Duration) -> Result<Vec<Bound>> {
    let mut bounds = Vec::new();
    if matches!(workload, Workload::Udp1500 | Workload::Small) {
        bounds.push(dropped(workload, cores, duration)?);
        for (name, receiver) in RECEIVERS {
            bounds.push(received(workload, cores, duration, name, receiver)?);
        }
    }
    Ok(bounds)
}

fn dropped(workload: Workload, cores: Cores, duration: Duration) -> Result<Bound> {
    let lab = Lab::new(&LabConfig::default())?;
    let mut testbed = Testbed::new(&lab, cores, Limits { mtu: 1500, mss: 1460 })?;
    testbed.load(workload)?;
    let bare = Bare::dropping(&lab)?;
    let trial = testbed.trial(Rate::Flood, duration)?;
    Ok(bound(workload, "XDP_DROP", bare.dropped()?, trial.cpu.total(), trial.sent.elapsed))
}

fn received(
    workload: Workload,
    cores: Cores,
    duration: Duration,
    name: &'static str,
    receiver: Receiver,
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
            receiver(&lab, port, &stop)
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

fn take_frame(_: &Lab, port: XskPort, stop: &AtomicBool) -> Result<u64> {
    empty(port, stop, |_| (), || Ok(()))
}

/// The least that leaves the UMEM's frames to the kernel.
fn copy(_: &Lab, port: XskPort, stop: &AtomicBool) -> Result<u64> {
    let (mut slots, mut next) = (vec![0; SLOTS * SLOT], 0);
    let take = |frame: &[u8]| {
        slots[next * SLOT..][..frame.len()].copy_from_slice(frame);
        std::hint::black_box(&mut slots);
        next = (next + 1) % SLOTS;
    };
    empty(port, stop, take, || Ok(()))
}

/// Out of the sending half of another socket. What it sends ends at a loopback that is down.
fn forward(lab: &Lab, port: XskPort, stop: &AtomicBool) -> Result<u64> {
    let out = lab.gateway.run(|| {
        let ifindex = if_nametoindex("lo")?;
        Ok(Veth::open(&HandbackConfig {
            interface: LAN.into(),
            ifindex,
            queue: 0,
            max_frame: 1522,
            max_datagram: 1522,
            token: 0,
        })?)
    })?;
    let out = RefCell::new(out);
    let take = |frame: &[u8]| {
        let mut out = out.borrow_mut();
        if out.reserve(1, frame.len()) {
            out.push(frame.len()).copy_from_slice(frame);
        }
    };
    let flush = || {
        let flushed = out.borrow_mut().flush();
        Ok(flushed.result?)
    };
    empty(port, stop, take, flush)
}

/// Gives every frame to `take`, and after each batch calls `flush`.
fn empty(
    mut port: XskPort,
    stop: &AtomicBool,
    mut take: impl FnMut(&[u8]),
    mut flush: impl FnMut() -> Result<()>,
) -> Result<u64> {
    let mut frames = 0;
    while !stop.load(Acquire) {
        let receipt = port.receive(BATCH, |frame| take(frame.bytes));
        flush()?;
        port.refill();
        frames += receipt.frames as u64;
        if receipt.frames == 0 {
            port.wait(WAIT)?;
        }
    }
    Ok(frames)
}

/// Everything that a worker does, but that the kernel does not get what it made.
fn transform(_: &Lab, port: XskPort, stop: &AtomicBool) -> Result<u64> {
    let transform = Transform { df: Df::Clear, tcp: Tcp::Resegment, idents: Arc::new(Idents::default()) };
    let rule = Rule::new(SA_MTU as u16, Some(MSS as u16), None);
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
