//! Never worse than without xdpfrag: one fault at a time while traffic runs, and what it costs.
//!
//! `make torture` runs these alone and for longer, and prints the table of docs/reliability.md.

mod control;
mod detach;
mod disk;
mod handover;
mod hostile;
mod interface;
mod kernel;
mod load;
mod panic;
mod process;
mod raw;
mod resources;
mod several;
mod soak;
mod starts;

use std::fs::OpenOptions;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use xdpfrag::lab::traffic::stream::{Loss, Stream};
use xdpfrag::lab::{FAR, Lab};
use xdpfrag::observe::snapshot::{InterfaceSnapshot, Snapshot};

use crate::support::{PORT, binary};

/// Datagrams per second of each of the two streams.
const RATE: u32 = 1000;
/// Traffic before the fault: nothing of it may be lost, but what is on its way just then.
const BEFORE: Duration = Duration::from_millis(300);
const ON_THE_WAY: Duration = Duration::from_millis(100);

/// True in `make torture`: the long versions.
fn long() -> bool {
    std::env::var_os("XDPFRAG_TORTURE").is_some()
}

/// What a fault cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Datagrams of 100 bytes.
    fits: Loss,
    /// Datagrams of 1500 bytes with DF, which nothing but xdpfrag carries.
    oversize: Loss,
    /// Of either, sent from the fault on.
    sent: usize,
}

impl Cost {
    /// `make torture` has the machine for itself. In `make test` a worker may have to wait for its core longer than
    /// `--stall` allows, and only an end of the service is a failure.
    fn allowed(&self, limit: usize) -> usize {
        if long() { limit } else { limit.max(self.sent / 2) }
    }
}

/// Sends what fits and what is oversize at a steady rate, lets `fault` happen, and goes on for `watch`.
fn disturb(lab: &Lab, watch: Duration, fault: impl FnOnce()) -> Cost {
    let stream = |port, size| Stream::start(&lab.appliance, &lab.far, (FAR, port), size, RATE).unwrap();
    let [fits, oversize] = [stream(PORT, 100 - 28), stream(PORT + 1, 1500 - 28)];
    thread::sleep(BEFORE);
    let event = Instant::now();
    fault();
    thread::sleep(watch);
    let elapsed = event.elapsed();
    let [fits, oversize] = [fits.stop(), oversize.stop()];
    for account in [&fits, &oversize] {
        let before = account.lost_before(event - ON_THE_WAY);
        // A busy machine loses some without any fault.
        assert!(before == 0 || (!long() && before < account.sent() / 2), "{before} lost before the fault");
        assert_eq!(account.corrupt(), 0);
        assert!(account.sent() > (RATE / 10) as usize, "a stream of {} datagrams", account.sent());
    }
    let sent = elapsed.as_secs_f64() * f64::from(RATE);
    Cost { fits: fits.loss(event), oversize: oversize.loss(event), sent: sent as usize }
}

/// What the running instance has counted so far.
fn running(lab: &Lab) -> InterfaceSnapshot {
    let json = lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&json).unwrap();
    snapshot.interfaces.into_iter().next().expect("eth1")
}

/// Adds a line to the table that `make torture` prints.
fn report(fault: &str, cost: Cost) {
    let cell = |loss: Loss| match loss.datagrams {
        0 => "none | 0".to_string(),
        lost => format!("{lost} | {:.0}", loss.recovery.as_secs_f64() * 1000.0),
    };
    note(&format!("| {fault} | {} | {} |", cell(cost.fits), cell(cost.oversize)));
}

/// Adds a line to what `make torture` prints.
fn note(line: &str) {
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("XDPFRAG_TORTURE") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("the report can be written");
    }
}

/// The same for a fault that `limit` datagrams of either stream may be lost to.
fn costs_at_most(fault: &str, cost: Cost, limit: usize) {
    report(fault, cost);
    let allowed = cost.allowed(limit);
    assert!(cost.fits.datagrams <= allowed && cost.oversize.datagrams <= allowed, "{fault}: {cost:?}");
}
