//! What bounds every method: the same frames, dropped by XDP, and received by an AF_XDP socket and dropped.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::gettid;
use serde::Serialize;
use xdpfrag::config::Choice;
use xdpfrag::lab::bench::bare::Bare;
use xdpfrag::lab::bench::{Cores, Limits, Rate, Testbed, Workload};
use xdpfrag::lab::{LAN, Lab, LabConfig};
use xdpfrag::port::{BATCH, Port, XskConfig, XskPort};

const WAIT: Duration = Duration::from_millis(5);

/// One bound under flood.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bound {
    pub(crate) workload: &'static str,
    pub(crate) name: &'static str,
    /// Frames per second taken.
    pub(crate) rate: f64,
    /// Router CPU time per frame, ns.
    pub(crate) cpu_ns: f64,
}

/// Both bounds for frames of one kind.
pub(crate) fn measure(workload: Workload, cores: Cores, duration: Duration) -> Result<[Bound; 2]> {
    Ok([dropped(workload, cores, duration)?, received(workload, cores, duration)?])
}

fn dropped(workload: Workload, cores: Cores, duration: Duration) -> Result<Bound> {
    let lab = Lab::new(&LabConfig::default())?;
    let mut testbed = Testbed::new(&lab, cores, Limits { mtu: 1500, mss: 1460 })?;
    testbed.load(workload)?;
    let bare = Bare::dropping(&lab)?;
    let trial = testbed.trial(Rate::Flood, duration)?;
    Ok(bound(workload, "XDP_DROP", bare.dropped()?, trial.cpu.total(), trial.sent.elapsed))
}

fn received(workload: Workload, cores: Cores, duration: Duration) -> Result<Bound> {
    let lab = Lab::new(&LabConfig::default())?;
    let mut testbed = Testbed::new(&lab, cores, Limits { mtu: 1500, mss: 1460 })?;
    testbed.load(workload)?;
    let stop = AtomicBool::new(false);
    let config = XskConfig { interface: LAN.into(), queue: 0, zero_copy: Choice::Off, max_frame: 1522 };
    let mut port = lab.gateway.run(|| Ok(XskPort::open(&config)?))?;
    let bare = Bare::redirecting(&lab, port.as_fd())?;
    let (told, tid) = mpsc::channel();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| -> Result<u64> {
            let told = told;
            core_affinity::set_for_current(core_affinity::CoreId { id: cores.router });
            told.send(gettid().as_raw())?;
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
        });
        let trial = tid.recv().context("no receiver").and_then(|tid| {
            testbed.router_mut().watch_thread(tid)?;
            testbed.trial(Rate::Flood, duration)
        });
        stop.store(true, Release);
        let frames = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let trial = trial?;
        drop(bare);
        Ok(bound(workload, "AF_XDP rxdrop, copy mode", frames, trial.cpu.total(), trial.sent.elapsed))
    })
}

fn bound(workload: Workload, name: &'static str, frames: u64, cpu: u64, elapsed: Duration) -> Bound {
    Bound {
        workload: workload.name(),
        name,
        rate: frames as f64 / elapsed.as_secs_f64(),
        cpu_ns: cpu as f64 / (frames as f64).max(1.0),
    }
}
