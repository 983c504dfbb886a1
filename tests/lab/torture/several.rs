//! One of two LAN interfaces is lost.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use xdpfrag::lab::topology::link;
use xdpfrag::lab::traffic::stream::Stream;
use xdpfrag::lab::{FAR, Lab, LabConfig, Namespace};
use xdpfrag::observe::snapshot::Snapshot;

use super::{RATE, costs_at_most, disturb};
use crate::support::{PORT, binary, deliver, forward, lab, mixed, stop};

const WATCH: Duration = Duration::from_secs(2);
const OFFICE_MAC: &str = "02:00:00:00:03:02";
const ETH2_MAC: &str = "02:00:00:00:03:01";

/// A second LAN, 198.18.3.0/24, on the gateway's eth2.
fn office(lab: &Lab) -> Namespace {
    let office = Namespace::new("office").unwrap();
    link([(&office, "lan0", OFFICE_MAC), (&lab.gateway, "eth2", ETH2_MAC)], 1, 1500).unwrap();
    office.ip("addr add 198.18.3.2/24 dev lan0").unwrap();
    office.ip(&format!("neigh add 198.18.3.1 lladdr {ETH2_MAC} dev lan0")).unwrap();
    office.ip("route add default via 198.18.3.1").unwrap();
    lab.gateway.ip("addr add 198.18.3.1/24 dev eth2").unwrap();
    lab.gateway.ip(&format!("neigh add 198.18.3.2 lladdr {OFFICE_MAC} dev eth2")).unwrap();
    office
}

#[test]
fn one_of_two_interfaces_is_deleted_and_the_other_goes_on() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let office = office(&lab);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "stall = 100\n").unwrap();
    let daemon = forward(&lab, &["--iface", "eth2", "--config", file.path().to_str().unwrap()]);
    let stream = Stream::start(&office, &lab.far, (FAR, PORT + 2), 1500 - 28, RATE).unwrap();
    let cost = disturb(&lab, WATCH, || lab.gateway.ip("link del eth2").map(drop).unwrap());
    let account = stream.stop();
    assert!(account.arrived() > 0, "both were served: {account:?}");
    costs_at_most("one of two LAN interfaces deleted (the other's traffic)", cost, 0);

    // What the one that is gone has counted stays, and its worker counts as dead.
    let json = lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&json).unwrap();
    let [eth1, eth2] = snapshot.interfaces.as_slice() else { panic!("{json}") };
    assert!(eth1.workers.iter().all(|worker| worker.alive), "{json}");
    assert!(eth2.workers.iter().all(|worker| !worker.alive && worker.received > 0), "{json}");

    // One of its name is not taken for it; news of it, a reload and addresses do not stumble over it.
    let _again = self::office(&lab);
    std::fs::write(&file, "stall = 200\n").unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    thread::sleep(WATCH);
    deliver(&lab, mixed(200));
    // The last one.
    lab.gateway.ip("link del eth1").unwrap();
    let ended = daemon.wait().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let said = "warning: eth2: the interface is gone: it is not served any more, the other interfaces are; a restart";
    for line in [said, "reloaded: stall: 200 ms now, was 100 ms", "xdpfrag: eth1: the interface is gone"] {
        assert_eq!(ended.stderr.matches(line).count(), 1, "{line}: {}", ended.stderr);
    }
}

/// Else a new version could not be put in its place: it cannot serve what is not there.
#[test]
fn what_was_given_up_need_not_be_taken_over() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let _office = office(&lab);
    let first = forward(&lab, &["--iface", "eth2"]);
    lab.gateway.ip("link del eth2").unwrap();
    thread::sleep(WATCH);
    let second = forward(&lab, &["--replace"]);
    let ended = first.wait().unwrap();
    assert!(ended.status.success() && ended.stderr.contains("replaced by another"), "{}", ended.stderr);
    deliver(&lab, mixed(200));
    stop(second);
}

#[test]
fn the_workers_of_two_interfaces_have_cores_of_their_own() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    if thread::available_parallelism().unwrap().get() < 2 {
        return crate::support::skip("one core");
    }
    let _office = office(&lab);
    let daemon = forward(&lab, &["--iface", "eth2"]);
    let core = |interface: &str| {
        let worker = super::process::thread_named(daemon.pid(), &format!("xf-{interface}-0"));
        let status = std::fs::read_to_string(format!("/proc/{}/task/{worker}/status", daemon.pid())).unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.unwrap().trim().to_owned()
    };
    assert_ne!(core("eth1"), core("eth2"));
}
