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
pub(crate) mod raw;
mod remote;
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
    /// How long the fault lasted, what repairs it included.
    took: Duration,
}

impl Cost {
    /// `make torture` has the machine for itself. In `make test` a worker may have to wait for its core longer than
    /// `--stall` allows: three times as much, and a tenth of what was sent.
    fn allowed(&self, limit: usize) -> usize {
        if long() { limit } else { (3 * limit + self.sent / 10).min(self.sent / 4 * 3) }
    }

    fn keeps(&self, loss: Loss, limit: Limit) -> bool {
        let allowed = self.allowed(limit.datagrams);
        let Some(recovery) = limit.recovery else { return loss.datagrams <= allowed };
        if long() {
            return loss.datagrams <= allowed && loss.recovery <= recovery;
        }
        // On a busy machine a start takes as long as it takes, and the last one lost may be one that the fault did not cost.
        let noise = self.allowed(0);
        let took = (self.took.as_secs_f64() * f64::from(RATE)) as usize + noise;
        let in_time = loss.recovery <= (recovery * 3).max(self.took + recovery);
        loss.datagrams <= allowed.max(took) && (in_time || loss.datagrams <= noise)
    }
}

/// What a stream may lose to a fault in `make torture`.
#[derive(Debug, Clone, Copy)]
struct Limit {
    datagrams: usize,
    /// From the fault until the last of them was sent.
    recovery: Option<Duration>,
}

impl Limit {
    /// So many, whenever.
    const fn lost(datagrams: usize) -> Limit {
        Limit { datagrams, recovery: None }
    }

    /// All that are sent in the first `milliseconds` after the fault.
    const fn outage(milliseconds: u64) -> Limit {
        let datagrams = milliseconds as usize * RATE as usize / 1000;
        Limit { datagrams, recovery: Some(Duration::from_millis(milliseconds)) }
    }
}

/// What the kernel forwards by itself goes on; one that is on its way may be lost with whatever carries it.
const UNHARMED: Limit = Limit::lost(5);

/// Sends what fits and what is oversize at a steady rate, lets `fault` happen, and goes on for `watch`.
fn disturb(lab: &Lab, watch: Duration, fault: impl FnOnce()) -> Cost {
    let stream = |port, size| Stream::start(&lab.appliance, &lab.far, (FAR, port), size, RATE).unwrap();
    let [fits, oversize] = [stream(PORT, 100 - 28), stream(PORT + 1, 1500 - 28)];
    thread::sleep(BEFORE);
    let event = Instant::now();
    fault();
    let took = event.elapsed();
    thread::sleep(watch);
    let elapsed = event.elapsed();
    let [fits, oversize] = [fits.stop(), oversize.stop()];
    for account in [&fits, &oversize] {
        let before = account.lost_before(event - ON_THE_WAY);
        // A busy machine loses some without any fault.
        assert!(before == 0 || (!long() && before < account.sent() / 4), "{before} lost before the fault");
        assert_eq!(account.corrupt(), 0);
        assert!(account.sent() > (RATE / 10) as usize, "a stream of {} datagrams", account.sent());
    }
    let sent = elapsed.as_secs_f64() * f64::from(RATE);
    Cost { fits: fits.loss(event), oversize: oversize.loss(event), sent: sent as usize, took }
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
    // libtest names the thread of a test after it.
    let current = thread::current();
    let test = current.name().expect("the thread of a test");
    let again = test.trim_start_matches("torture::");
    note(&format!("| {fault} | {} | {} | `{again}` |", cell(cost.fits), cell(cost.oversize)));
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
    costs_within(fault, cost, Limit::lost(limit), Limit::lost(limit));
}

/// The same with a limit for each stream.
fn costs_within(fault: &str, cost: Cost, fits: Limit, oversize: Limit) {
    report(fault, cost);
    let kept = cost.keeps(cost.fits, fits) && cost.keeps(cost.oversize, oversize);
    assert!(kept, "{fault}: {cost:?}, allowed are {fits:?} that fit and {oversize:?} oversize");
}
