//! Nothing of xdpfrag is left on the machine, however it ended.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::query::{LinkInfoIter, MapInfoIter, ProgInfoIter};
use nix::sys::signal::Signal;
use xdpfrag::lab::{Lab, LabConfig};

use crate::support::{deliver, forward, lab, mixed};

/// Interfaces, routes, rules, qdiscs, filters and nftables of the gateway, as text.
pub(crate) fn state(lab: &Lab) -> String {
    let ask = |program: &str, line: &str| {
        lab.gateway
            .output(program, &line.split(' ').collect::<Vec<_>>())
            .unwrap_or_else(|error| panic!("{error:#}"))
    };
    [
        ask("ip", "-d -o link"),
        ask("ip", "-o addr"),
        ask("ip", "route show table all"),
        ask("ip", "rule"),
        ask("tc", "qdisc"),
        ask("tc", "filter show dev eth1 ingress"),
        ask("tc", "filter show dev eth1 egress"),
        ask("ethtool", "-k eth1"),
        ask("nft", "list ruleset"),
    ]
    .concat()
}

/// BPF objects by kind and id.
pub(crate) type Objects = BTreeSet<(&'static str, u32)>;

/// What the process holds, from /proc/PID/fdinfo.
pub(crate) fn held_by(pid: u32) -> Objects {
    let mut held = Objects::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        let Ok(info) = fs::read_to_string(entry.unwrap().path()) else { continue };
        for line in info.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let kind = ["prog_id", "map_id", "link_id"].into_iter().find(|kind| *kind == key);
            if let (Some(kind), Ok(id)) = (kind, value.trim().parse()) {
                held.insert((kind, id));
            }
        }
    }
    held
}

/// What the kernel has.
pub(crate) fn present() -> Objects {
    let programs = ProgInfoIter::default().map(|info| ("prog_id", info.id));
    let maps = MapInfoIter::default().map(|info| ("map_id", info.id));
    let links = LinkInfoIter::default().map(|info| ("link_id", info.id));
    programs.chain(maps).chain(links).collect()
}

const TAP: [&str; 4] = ["--tcp", "resegment", "--handback", "tap"];
const LATE: [&str; 4] = ["--tcp", "resegment", "--redirect", "late"];

fn ends_without_a_trace(signal: Signal, arguments: &[&str]) {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let before = state(&lab);
    let daemon = forward(&lab, arguments);
    deliver(&lab, mixed(200));
    assert_ne!(state(&lab), before, "an attached program shows in `ip link`");
    let held = held_by(daemon.pid());
    assert!(held.iter().any(|(kind, _)| *kind == "prog_id"), "{held:?}");
    assert!(held.is_subset(&present()));

    daemon.signal(signal).unwrap();
    let ended = daemon.wait().unwrap();
    assert_eq!(ended.status.success(), signal != Signal::SIGKILL, "{}", ended.stderr);
    // The kernel takes programs and devices apart behind the process's back.
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let left: Objects = held.intersection(&present()).copied().collect();
        let after = state(&lab);
        if left.is_empty() && after == before {
            break;
        }
        assert!(Instant::now() < deadline, "{signal} {arguments:?}: left {left:?}\n{before}\n---\n{after}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nothing_is_left_after_sigint() {
    ends_without_a_trace(Signal::SIGINT, &[]);
    ends_without_a_trace(Signal::SIGINT, &["--handback", "veth"]);
    ends_without_a_trace(Signal::SIGINT, &TAP);
    ends_without_a_trace(Signal::SIGINT, &LATE);
}

#[test]
fn nothing_is_left_after_sigterm() {
    ends_without_a_trace(Signal::SIGTERM, &[]);
    ends_without_a_trace(Signal::SIGTERM, &["--handback", "veth"]);
    ends_without_a_trace(Signal::SIGTERM, &TAP);
    ends_without_a_trace(Signal::SIGTERM, &LATE);
}

#[test]
fn nothing_is_left_after_sigkill() {
    ends_without_a_trace(Signal::SIGKILL, &[]);
    ends_without_a_trace(Signal::SIGKILL, &["--handback", "veth"]);
    ends_without_a_trace(Signal::SIGKILL, &TAP);
    ends_without_a_trace(Signal::SIGKILL, &LATE);
}

#[test]
fn it_starts_again_at_once() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGKILL, Signal::SIGTERM] {
        let daemon = forward(&lab, &[]);
        deliver(&lab, mixed(200));
        daemon.signal(signal).unwrap();
        daemon.wait().unwrap();
    }
}
