//! What a running instance costs while nothing happens, and after traffic.

use std::fs;

use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{FAR, LabConfig};

use crate::support::{PORT, forward, lab, mixed, stop};

/// Resident memory of a process, KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().strip_suffix(" kB").expect("in KiB").parse().unwrap()
}

#[test]
fn two_queues_stay_under_64_mib() {
    let Some(lab) = lab(LabConfig { queues: 2, ..LabConfig::beyond() }) else { return };
    let daemon = forward(&lab, &[]);
    // What a busy machine loses of it is not the question here.
    let tally = Flow::new((FAR, PORT), mixed(8000)).run(&lab.appliance, &lab.far).unwrap();
    let resident = resident_kib(daemon.pid());
    assert!(tally.intact > 0 && (1024..64 << 10).contains(&resident), "{resident} KiB");
    assert_eq!(stop(daemon).workers.len(), 2);
}
