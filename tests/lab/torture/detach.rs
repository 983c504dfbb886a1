//! Somebody else takes away what xdpfrag has attached, or has left room for.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapHandle, libbpf_sys};
use nix::sys::signal::Signal;
use xdpfrag::lab::{Daemon, LAN, LabConfig, wire};

use super::{disturb, report, running};
use crate::support::{deliver, forward, lab, mixed, stop};

/// A look at the links every second, and as long again on a busy machine.
const WATCH: Duration = Duration::from_millis(2500);

/// Values of `field` of the process's descriptors that are `kind`, by fdinfo.
fn ids(pid: u32, kind: &str, field: &str) -> Vec<u32> {
    let mut ids: Vec<u32> = fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
        .filter(|info| info.contains(kind))
        .filter_map(|info| info.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok()))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The link of `kind` that the process has; of several the oldest: the hand-back makes its own after the LAN interface's.
fn link(daemon: &Daemon, kind: &str) -> OwnedFd {
    let id =
        ids(daemon.pid(), &format!("link_type:\t{kind}\n"), "link_id:").into_iter().next().expect("a link");
    // SAFETY: the call takes a number and gives a new descriptor, or an error.
    let fd = unsafe { libbpf_sys::bpf_link_get_fd_by_id(id) };
    assert!(fd >= 0, "link {id}: {}", io::Error::last_os_error());
    // SAFETY: the call made `fd` and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `bpftool link detach`.
fn detach(daemon: &Daemon, kind: &str) {
    let link = link(daemon, kind);
    // SAFETY: the call takes a descriptor, which is open.
    let answer = unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) };
    assert_eq!(answer, 0, "{}", io::Error::last_os_error());
}

#[test]
fn a_detached_program_is_attached_again() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &[]);
    let cost = disturb(&lab, WATCH, || detach(&daemon, "xdp"));
    report("XDP program detached by somebody else", cost);
    let allowed = cost.allowed(20);
    assert!(cost.fits.datagrams <= allowed, "{cost:?}");
    // The second in which it is noticed, and not the rest.
    assert!(cost.oversize.datagrams <= 1100.max(cost.allowed(1100)), "{cost:?}");
    deliver(&lab, mixed(200));
    let said = daemon.stop().unwrap();
    assert!(said.status.success(), "{}", said.stderr);
    let line =
        "eth1: somebody else has detached its XDP program, or put another in its place; it is attached again";
    assert_eq!(said.stderr.matches(line).count(), 1, "{}", said.stderr);
}

#[test]
fn what_works_in_tc_is_attached_again() {
    // Without a TAP device: its redirect is not watched.
    let late = ["--handback", "inject"];
    let without = ["--handback", "inject", "--redirect", "oversize"];
    for (flags, what) in
        [(&without[..], "the MSS clamp on the way to the LAN"), (&late, "the program behind GRO")]
    {
        let Some(lab) = lab(LabConfig::beyond()) else { return };
        let daemon = forward(&lab, flags);
        let ids = || ids(daemon.pid(), "link_type:\ttcx\n", "link_id:");
        let before = ids();
        if before.is_empty() {
            return crate::support::skip("a kernel without tcx");
        }
        detach(&daemon, "tcx");
        let deadline = Instant::now() + 10 * WATCH;
        while ids() == before || ids().len() < before.len() {
            assert!(Instant::now() < deadline, "it does not come back: {what}");
            thread::sleep(Duration::from_millis(20));
        }
        let said = daemon.stop().unwrap().stderr;
        let line = format!("warning: eth1: somebody else has detached {what}; it is attached again");
        assert_eq!(said.matches(&line).count(), 1, "{said}");
    }
}

#[test]
fn what_has_no_place_any_more_ends_with_the_reason() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &["--log", "json"]);
    // So that it does not look in between.
    daemon.signal(Signal::SIGSTOP).unwrap();
    detach(&daemon, "xdp");
    let owner = wire::occupy_xdp(&lab.gateway, LAN).unwrap();
    daemon.signal(Signal::SIGCONT).unwrap();
    let ended = daemon.wait().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("cannot be attached again: eth1 has an XDP program already"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("\"level\":\"ERROR\""), "{}", ended.stderr);
    drop(owner);
    stop(forward(&lab, &[]));
}

/// As when the kernel is out of memory, but for good: the maps take no change.
#[test]
fn a_map_that_takes_no_change_does_not_end_the_run() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &[]);
    let maps =
        ids(daemon.pid(), "map_id:", "map_id:").into_iter().map(|id| MapHandle::from_map_id(id).unwrap());
    let routes = maps.into_iter().find(|map| map.name() == "routes").expect("the map of routes");
    routes.freeze().unwrap();
    lab.gateway.ip("addr add 198.18.9.1/32 dev lo").unwrap();
    lab.gateway.ip(&format!("link set {LAN} mtu 2000")).unwrap();
    // Tried again, and said once.
    thread::sleep(WATCH);
    assert_eq!(running(&lab).name, LAN);
    deliver(&lab, mixed(200));
    let ended = daemon.stop().unwrap();
    assert!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    let tried = "BPF map routes: cannot set 198.18.9.1/32";
    assert_eq!(ended.stderr.matches(tried).count(), 1, "{}", ended.stderr);
    // The rest is followed.
    assert!(ended.stderr.contains("eth1: MTU is 2000 now"), "{}", ended.stderr);
}
