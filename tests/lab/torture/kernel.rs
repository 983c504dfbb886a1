//! What can happen to the kernel around it.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use xdpfrag::lab::{Daemon, LAN, LabConfig};

use super::process::STUCK;
use super::{UNHARMED, costs_within, disturb};
use crate::support::{binary, deliver, lab, mixed, skip, stop};

/// Time stamps and heartbeats go from user space to BPF programs, which know the host's clock only.
#[test]
fn a_time_namespace_with_another_clock() {
    for offset in ["86400", "-600"] {
        let Some(lab) = lab(LabConfig::beyond()) else { return };
        if lab.gateway.output("unshare", &["--time", "true"]).is_err() {
            return skip("this kernel has no time namespaces");
        }
        let mut command = Command::new("unshare");
        command.args(["--time", "--monotonic", offset, "--"]).arg(binary());
        command.args(["run", "--iface", LAN, "--mtu", "1422", "--stall", "100", "--json"]);
        let daemon = Daemon::start_command(&lab.gateway, command).unwrap();
        let offsets = fs::read_to_string(format!("/proc/{}/timens_offsets", daemon.pid())).unwrap();
        assert!(offsets.contains(offset), "{offsets}");
        deliver(&lab, mixed(500));
        let watch = Duration::from_secs(1);
        let cost = disturb(&lab, watch, || {
            daemon.signal(Signal::SIGSTOP).unwrap();
            thread::sleep(watch);
            daemon.signal(Signal::SIGCONT).unwrap();
        });
        let fault = format!("CLOCK_MONOTONIC off by {offset} s, SIGSTOP for 1 s (`--stall 100`)");
        costs_within(&fault, cost, UNHARMED, STUCK);
        deliver(&lab, mixed(200));
        let interface = stop(daemon);
        let latency = interface.workers[0].latency.expect("frames have passed");
        assert!(latency.max_ns < 5_000_000_000, "{latency:?}");
    }
}
