//! `xdpfrag bench` and what it measures with: every workload arrives, whole and right.

use std::process::Command;
use std::time::Duration;

use xdpfrag::lab::bench::{Cores, Limits, Rate, Testbed, Trial, Workload};
use xdpfrag::lab::{Lab, LabConfig};

use crate::support::{binary, lab};

fn cores() -> Cores {
    let router = std::thread::available_parallelism().unwrap().get() - 1;
    Cores { generator: 0, router, sink: router }
}

fn testbed(lab: &Lab, mtu: u32) -> Testbed<'_> {
    Testbed::new(lab, cores(), Limits { mtu, mss: mtu - 40 }).unwrap()
}

#[test]
fn every_workload_crosses_a_plain_router_and_costs_cpu_time() {
    let Some(place) = lab(LabConfig { sa_mtu: 1500, ..LabConfig::default() }) else { return };
    let mut testbed = testbed(&place, 1500);
    for workload in Workload::ALL {
        testbed.load(workload).unwrap();
        let trial = testbed.trial(Rate::Even(2000.0), Duration::from_millis(300)).unwrap();
        let name = workload.name();
        assert!(trial.sent.frames >= 300, "{name}: {trial:?}");
        assert!(trial.loss() < 0.1, "{name}: {:?} of {:?}", trial.tally, trial.sent);
        assert_eq!((trial.tally.oversize, trial.tally.strange), (0, 0), "{name}: {:?}", trial.tally);
        assert_eq!(trial.latency.len(), if workload.timed() { trial.tally.tails } else { 0 }, "{name}");
        assert!(trial.cpu.napi > 0 && trial.cpu.worker == 0, "{name}: {:?}", trial.cpu);
    }
}

#[test]
fn xdpfrag_makes_every_workload_fit_and_its_workers_are_counted() {
    let Some(place) = lab(LabConfig::default()) else { return };
    let mut testbed = testbed(&place, 1422);
    let flags = ["--mtu", "1422", "--tcp", "resegment", "--poll", "wait"];
    let daemon = testbed.start(&place, binary(), &flags).unwrap();
    for workload in Workload::ALL {
        testbed.load(workload).unwrap();
        let trial = testbed.trial(Rate::Even(2000.0), Duration::from_millis(300)).unwrap();
        let name = workload.name();
        // A wrong checksum would be passed on untouched, too long for the link.
        assert!(trial.loss() < 0.1, "{name}: {:?} of {:?}", trial.tally, trial.sent);
        assert_eq!((trial.tally.oversize, trial.tally.strange), (0, 0), "{name}: {:?}", trial.tally);
        assert_eq!(trial.tally.syns, trial.tally.clamped, "{name}");
        if let Workload::Tcp1 | Workload::Tcp64 = workload {
            assert_eq!(trial.tally.data % 1460, 0, "{name}: whole segments: {:?}", trial.tally);
        }
        let oversize = matches!(workload, Workload::Udp1500 | Workload::Tcp1 | Workload::Tcp64);
        assert!(!oversize || trial.cpu.worker > 0, "{name}: {:?}", trial.cpu);
        assert_eq!(
            trial.tally.packets > trial.tally.originals(),
            oversize || matches!(workload, Workload::Imix | Workload::ImixMixed),
            "{name}"
        );
    }
    daemon.stop().unwrap();
    // Fragments but the first have no TCP header.
    let daemon = testbed.start(&place, binary(), &["--mtu", "1422", "--poll", "wait"]).unwrap();
    testbed.load(Workload::Tcp1).unwrap();
    let Trial { tally, .. } = testbed.trial(Rate::Even(2000.0), Duration::from_millis(300)).unwrap();
    assert!(tally.packets > 2 * 300 && tally.data % 1460 == 0, "{tally:?}");
    daemon.stop().unwrap();
}

#[test]
fn the_command_compares_plain_forwarding_and_xdpfrag() {
    // It makes labs of its own: this one only keeps a place for them.
    let Some(_place) = lab(LabConfig::default()) else { return };
    let arguments = ["bench", "--trial", "50", "--loss", "10", "--json", "--", "--handback", "veth"];
    let output = Command::new(binary()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for way in ["plain", "xdpfrag"] {
        let performance = &report[way];
        assert!(performance["throughput"].as_f64() > Some(1000.0), "{way}: {report}");
        let latency = performance["latency"].as_array().unwrap();
        assert_eq!(latency.len(), 3, "{way}: {report}");
        for at in latency {
            let times = ["min_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "p9999_ns", "max_ns"]
                .map(|name| at[name].as_u64().unwrap());
            assert!(times[0] > 100 && times.is_sorted(), "{way}: {at}");
            assert!(at["packets"].as_u64() > Some(0), "{way}: {at}");
        }
    }
}
