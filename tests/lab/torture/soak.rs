//! Hours of everything at once: what an instance holds stays what it is. `make soak`.

use std::array;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use xdpfrag::lab::traffic::stream::Stream;
use xdpfrag::lab::traffic::tcp::Direction;
use xdpfrag::lab::{FAR, Lab, LabConfig};

use super::note;
use super::resources::Held;
use crate::support::{PORT, binary, carry, forward, lab, stop};

/// `SOAK_SECONDS` of `make soak`, else as in `make test`.
fn duration() -> Duration {
    let seconds =
        std::env::var("XDPFRAG_SOAK").map(|seconds| seconds.parse().expect("XDPFRAG_SOAK is in seconds"));
    Duration::from_secs(seconds.unwrap_or(6))
}

/// Samples of a soak.
const SAMPLES: u32 = 60;
/// Datagrams per second of each stream.
const RATE: u32 = 2000;
/// A pass of the allocator's; a leak of 10 bytes a packet would be 20 KiB a second.
const SLACK_KIB: u64 = 512;
/// An address that comes and goes is a route for a moment, which a sample may see or not.
const ROUTE_KIB: u64 = 1;

#[test]
fn what_an_instance_holds_stays_what_it_is() {
    let Some(lab) = lab(LabConfig { queues: 2, ..LabConfig::beyond() }) else { return };
    let (daemon, duration) = (forward(&lab, &["--notify"]), duration());
    let over = AtomicBool::new(false);
    let (samples, accounts) = thread::scope(|scope| {
        scope.spawn(|| bother(&lab, &over));
        let streams = [100 - 28, 1500 - 28].map(|size| {
            let port = PORT + 10 + (size > 1000) as u16;
            Stream::start(&lab.appliance, &lab.far, (FAR, port), size, RATE).unwrap()
        });
        let start = Instant::now();
        let sample = |number: u32| {
            thread::sleep((duration * number / SAMPLES).saturating_sub(start.elapsed()));
            Held::by(daemon.pid())
        };
        let samples: Vec<_> = (1..=SAMPLES).map(sample).collect();
        over.store(true, Ordering::Release);
        (samples, streams.map(Stream::stop))
    });
    // The first third warms up: the allocator's pools, every kind of request.
    let warm = &samples[SAMPLES as usize / 3..];
    let but_memory = |held: &Held| [held.maps_kib, held.descriptors as u64, held.threads as u64];
    let both = |one: [u64; 3], other: [u64; 3]| array::from_fn(|n| one[n].min(other[n]));
    let least = warm.iter().map(but_memory).reduce(both).unwrap();
    let at_rest = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(50));
        but_memory(&Held::by(daemon.pid())) == least
    });
    assert!(at_rest, "more than {least:?} is held when nobody is there any more: {samples:?}");
    let interface = stop(daemon);
    for worker in &interface.workers {
        assert_eq!(worker.received, worker.reasons.values().sum::<u64>(), "{interface:?}");
    }
    let [fits, oversize] = &accounts;
    assert_eq!((fits.corrupt(), oversize.corrupt()), (0, 0));
    let peak = |samples: &[Held]| {
        let most = |of: fn(&Held) -> u64| samples.iter().map(of).max().unwrap_or(0);
        // A client of the control socket is a descriptor, and a capture a thread, for a moment.
        let least = |of: fn(&Held) -> usize| samples.iter().map(of).min().unwrap_or(0);
        (
            most(|held| held.resident_kib),
            most(|held| held.maps_kib),
            least(|held| held.descriptors),
            least(|held| held.threads),
        )
    };
    let (early, late) = (peak(&warm[..warm.len() / 2]), peak(&warm[warm.len() / 2..]));
    note(&format!(
        "Soak of {} s: {} datagrams sent, {} lost; resident {} KiB then {} KiB, BPF maps {} then {} KiB, {} then {} \
         descriptors, {} then {} threads",
        duration.as_secs(),
        fits.sent() + oversize.sent(),
        fits.sent() + oversize.sent() - fits.arrived() - oversize.arrived(),
        early.0,
        late.0,
        early.1,
        late.1,
        early.2,
        late.2,
        early.3,
        late.3
    ));
    assert!(late.0 <= early.0 + SLACK_KIB, "resident memory grows: {samples:?}");
    assert!(late.1.abs_diff(early.1) <= ROUTE_KIB, "the maps grow: {samples:?}");
    assert_eq!((late.2, late.3), (early.2, early.3), "{samples:?}");
    for account in &accounts {
        // Rings overflow on a busy machine; a stall would lose more.
        assert!(account.arrived() * 10 >= account.sent() * 9, "{} of {}", account.arrived(), account.sent());
    }
}

/// What people and programs do to an instance all day.
fn bother(lab: &Lab, over: &AtomicBool) {
    let ask = |arguments: &[&str]| lab.gateway.output(binary().to_str().unwrap(), arguments);
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("soak.pcapng");
    while !over.load(Ordering::Acquire) {
        ask(&["stats", "--json"]).unwrap();
        ask(&["capture", capture.to_str().unwrap(), "--count", "50", "--seconds", "1"]).unwrap();
        // Nothing to read again: refused, which is an answer, too.
        assert!(ask(&["reload"]).is_err());
        assert!(carry(lab, Direction::Upload).complete());
        lab.gateway.ip("addr add 198.18.9.1/32 dev lo").unwrap();
        lab.gateway.ip("addr del 198.18.9.1/32 dev lo").unwrap();
        thread::sleep(Duration::from_millis(200));
    }
}
