//! Starts and stops under traffic: what a run takes it gives back.

use std::thread;
use std::time::{Duration, Instant};

use xdpfrag::lab::{Daemon, Lab, LabConfig};

use super::resources::{Held, Kernel};
use super::{disturb, long, note, report};
use crate::residue::{Objects, held_by, present, state};
use crate::support::{deliver, forward, lab, mixed, stop};

/// Ways to run that hold different things.
const WAYS: [&[&str]; 5] = [
    &[],
    &["--handback", "veth"],
    &["--handback", "tap", "--tcp", "resegment"],
    &["--tcp", "resegment", "--redirect", "late"],
    &["--notify", "--metrics", "127.0.0.1:9435"],
];
/// How long the kernel may take to free what nobody holds any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// What others on the machine may do meanwhile, in `make torture`: a fraction of the 8 MiB of packet memory, 0.5 MiB of
/// maps and the network namespace that each of 200 runs could leave.
const KERNEL_KIB: i64 = 16 << 10;
const AVAILABLE_KIB: i64 = 256 << 10;

#[test]
fn many_starts_under_traffic() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let times = if long() { 200 } else { 10 };
    // Each way once: what the kernel keeps for the next time is there, and what a run holds is known.
    let begin = state(&lab);
    let first = WAYS.map(|way| run(&lab, way));
    let before = Kernel::now();
    let mut held = Objects::new();
    let serving = forward(&lab, &[]);
    let cost = disturb(&lab, Duration::ZERO, || {
        stop(serving);
        for number in 0..times {
            let daemon = forward(&lab, WAYS[number % WAYS.len()]);
            held.extend(held_by(daemon.pid()));
            let held_now = settled(&daemon, first[number % WAYS.len()]);
            assert_eq!(held_now, first[number % WAYS.len()], "run {number}");
            stop(daemon);
        }
    });
    report(&format!("{times} starts and stops"), cost);
    // What fits does not need xdpfrag, and must not suffer from its coming and going.
    assert!(cost.fits.datagrams <= cost.allowed(3 * times), "{cost:?}");

    assert!(held.len() >= 10 * times, "a run holds more than {} of {times} runs", held.len());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Objects = held.intersection(&present()).copied().collect();
        let (links, xsk, after) = (state(&lab), xsk_sockets(&lab), Kernel::now());
        let namespaces = before.namespaces.zip(after.namespaces).map_or(0, |(before, after)| after - before);
        let kernel_kib = after.own_kib - before.own_kib;
        let memory_kib = before.available_kib - after.available_kib;
        let clean = left.is_empty() && links == begin && xsk == 0;
        // Other labs come and go beside the short form.
        let flat = !long()
            || (namespaces < times as i64 / 10 && kernel_kib < KERNEL_KIB && memory_kib < AVAILABLE_KIB);
        let found = format!(
            "left behind: {} of {} BPF objects, {xsk} AF_XDP sockets, {namespaces} network namespaces; the kernel's own \
             memory {kernel_kib:+} KiB, memory to be had {:+} KiB",
            left.len(),
            held.len(),
            -memory_kib
        );
        if clean && flat {
            note(&format!("{times} starts and stops, {found}"));
            break;
        }
        assert!(Instant::now() < deadline, "{found}: {left:?}\n{begin}\n---\n{links}");
        thread::sleep(Duration::from_millis(100));
    }
    stop(forward(&lab, &[]));
}

/// Descriptors, threads and KiB of maps.
type Holdings = (usize, usize, u64);

/// Starts it, has it carry something, and answers what it holds.
fn run(lab: &Lab, way: &[&str]) -> Holdings {
    let daemon = forward(lab, way);
    deliver(lab, mixed(100));
    let held = holdings(&daemon);
    stop(daemon);
    held
}

fn holdings(daemon: &Daemon) -> Holdings {
    let Held { descriptors, threads, maps_kib, .. } = Held::by(daemon.pid());
    (descriptors, threads, maps_kib)
}

/// What it holds once the start is over, which ends a little after it says so.
fn settled(daemon: &Daemon, expected: Holdings) -> Holdings {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let now = holdings(daemon);
        if now == expected || Instant::now() > deadline {
            return now;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// AF_XDP sockets in the gateway that are not yet freed.
fn xsk_sockets(lab: &Lab) -> u64 {
    let text = lab.gateway.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/protocols")?)).unwrap();
    let line = text.lines().find(|line| line.starts_with("XDP ")).expect("the kernel has AF_XDP");
    line.split_whitespace().nth(2).expect("sockets").parse().unwrap()
}
