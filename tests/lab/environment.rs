//! The machine around xdpfrag changes while it runs, or is not as most are. Default flags unless a test says why not, and
//! no attempt is made twice.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use xdpfrag::lab::traffic::tcp::Direction;
use xdpfrag::lab::traffic::udp::{Flow, Tally};
use xdpfrag::lab::{Daemon, FAR, LAN, Lab, LabConfig, Namespace};
use xdpfrag::observe::snapshot::{InterfaceSnapshot, Snapshot};

use crate::support::{PORT, binary, carry, lab, lab_alone, mixed, received, snmp, stop};

/// The longest payload that fits the SA.
const FITS: usize = 1422 - 28;

/// `xdpfrag run --iface eth1 --mtu 1422 ARGS`: nothing but these.
fn run(lab: &Lab, args: &[&str]) -> Daemon {
    let all = [&["--mtu", "1422", "--json"], args].concat();
    Daemon::start(&lab.gateway, binary(), &all).unwrap_or_else(|error| panic!("{error:#}"))
}

fn ethtool(namespace: &Namespace, what: &[&str]) {
    namespace.output("ethtool", what).unwrap_or_else(|error| panic!("{error:#}"));
}

/// A flow slow enough for a busy machine: what is lost of it xdpfrag or the kernel has lost.
fn flow(port: u16, sizes: Vec<usize>) -> Flow {
    Flow { rate: 1000, quiet: Duration::from_secs(1), ..Flow::new((FAR, port), sizes) }
}

fn whole(tally: &Tally, what: &str) {
    assert!(tally.complete() && tally.reordered == 0, "{what}: {tally:?}");
}

/// Who moves packets from core to core, where they overtake each other whatever xdpfrag does.
#[derive(Clone, Copy, PartialEq)]
enum Moves {
    /// Nobody: the senders stay on one core, and with them the softirqs of their veths.
    Nobody,
    /// The kernel, as it likes.
    Kernel,
}

/// Several flows at once, so that each queue has some; all of each arrives whole and in order, and the far host has put
/// together what was too long for the SA.
fn deliver_flows(lab: &Lab, flows: u16, sizes: &[usize], what: &str) {
    deliver(lab, flows, sizes, what, Moves::Nobody);
}

fn deliver(lab: &Lab, flows: u16, sizes: &[usize], what: &str, moves: Moves) {
    let before = snmp(&lab.far, "Ip", "ReasmOKs");
    thread::scope(|scope| {
        let run = |n| {
            scope.spawn(move || {
                if moves == Moves::Nobody {
                    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
                }
                flow(PORT + n, sizes.to_vec()).run(&lab.appliance, &lab.far).unwrap()
            })
        };
        for running in (0..flows).map(run).collect::<Vec<_>>() {
            let tally = running.join().unwrap();
            assert!(tally.complete(), "{what}: {tally:?}");
            assert!(tally.reordered == 0 || moves == Moves::Kernel, "{what}: {tally:?}");
        }
    });
    let long = sizes.iter().filter(|size| **size > FITS).count() as u64 * u64::from(flows);
    assert_eq!(snmp(&lab.far, "Ip", "ReasmOKs") - before, long, "{what}");
    assert_eq!(snmp(&lab.far, "Ip", "ReasmFails"), 0, "{what}");
}

#[test]
fn offloads_are_switched_under_traffic_and_nothing_is_lost() {
    for flags in [&[][..], &["--df", "clear"]] {
        let Some(lab) = lab(LabConfig::default()) else { return };
        ethtool(&lab.gateway, &["-K", LAN, "gro", "on"]);
        let mut daemon = run(&lab, flags);
        let changes = [
            ["rx-udp-gro-forwarding", "on"],
            ["rx-udp-gro-forwarding", "off"],
            ["gro", "off"],
            ["gro", "on"],
        ];
        thread::scope(|scope| {
            // Long enough for all changes; what is still to come when the last is made shows that it did no harm.
            let traffic = scope.spawn(|| flow(PORT, mixed(16_000)).run(&lab.appliance, &lab.far).unwrap());
            for change in changes {
                ethtool(&lab.gateway, &[&["-K", LAN][..], &change].concat());
                if !flags.is_empty() {
                    daemon.wait_for("settled anew").unwrap();
                }
            }
            whole(&traffic.join().unwrap(), &format!("{flags:?}"));
        });
        assert_eq!(snmp(&lab.far, "Ip", "ReasmFails"), 0);
        // What GRO lists cannot be edited any more: until the change is seen it is lost, and counted.
        ethtool(&lab.gateway, &["-K", LAN, "rx-gro-list", "on"]);
        if !flags.is_empty() {
            daemon.wait_for("settled anew").unwrap();
        }
        deliver_flows(&lab, 1, &mixed(1000), "rx-gro-list");
        assert!(carry(&lab, Direction::Upload).complete(), "{flags:?}");
        stop(daemon);
    }
}

#[test]
fn queues_that_come_while_it_runs_get_workers() {
    let Some(lab) = lab_alone(LabConfig { queues: 4, ..LabConfig::default() }) else { return };
    ethtool(&lab.gateway, &["-L", LAN, "rx", "1", "tx", "1"]);
    ethtool(&lab.appliance, &["-L", "lan0", "rx", "4", "tx", "1"]);
    // The kernel needs no worker for most of what there is here: have them see everything.
    let mut daemon = run(&lab, &["--redirect", "all"]);
    deliver_flows(&lab, 8, &mixed(120), "one queue");
    ethtool(&lab.gateway, &["-L", LAN, "rx", "4", "tx", "4"]);
    ethtool(&lab.appliance, &["-L", "lan0", "rx", "4", "tx", "4"]);
    daemon.wait_for("is on all queues now").unwrap();
    deliver(&lab, 8, &mixed(120), "four queues", Moves::Kernel);
    // Queues with an AF_XDP socket the kernel does not take away.
    let fewer = lab.gateway.output("ethtool", &["-L", LAN, "rx", "1", "tx", "1"]);
    assert!(fewer.is_err(), "{fewer:?}");
    deliver(&lab, 8, &mixed(120), "still four", Moves::Kernel);
    let interface = stop(daemon);
    assert_eq!(interface.workers.len(), 4, "{interface:?}");
    assert!(interface.workers.iter().filter(|worker| worker.received > 0).count() > 1, "{interface:?}");
    assert_eq!(received(&interface), interface.xdp["all"] + interface.xdp["oversize"], "{interface:?}");
}

#[test]
fn longer_frames_are_served_once_the_lan_takes_them() {
    // By the kernel, and by workers alone.
    for sa_mtu in [1422, 1500] {
        let Some(lab) = lab(LabConfig { sa_mtu, ..LabConfig::default() }) else { return };
        let mut daemon = run(&lab, &[]);
        deliver_flows(&lab, 1, &mixed(300), "before");
        lab.gateway.ip("link set eth1 mtu 9000").unwrap();
        lab.appliance.ip("link set lan0 mtu 9000").unwrap();
        daemon.wait_for("MTU is 9000 now").unwrap();
        let sizes: Vec<usize> = (0..300).map(|n| [8972, 100, 4000, FITS, 2772 + n][n % 5]).collect();
        deliver_flows(&lab, 1, &sizes, &format!("link {sa_mtu}"));
        assert!(carry(&lab, Direction::Upload).complete(), "link {sa_mtu}");
        let interface = stop(daemon);
        assert_eq!(interface.xdp["too_long"], 0, "{interface:?}");
        // The longest segments of TCP are theirs in any case.
        let cut: u64 = interface.workers.iter().map(|worker| worker.reasons["fragmented"]).sum();
        assert_eq!(cut > 0, sa_mtu == 1500, "{interface:?}");
    }
}

#[test]
fn segments_with_unfinished_checksums_arrive() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    ethtool(&lab.appliance, &["-K", "lan0", "tx", "on"]);
    // The host is deaf to the MSS, too.
    let daemon = run(&lab, &["--tcp", "resegment", "--mss", "off"]);
    let report = carry(&lab, Direction::Upload);
    assert!(report.complete(), "{report:?}");
    deliver_flows(&lab, 1, &mixed(600), "UDP");
    for host in [&lab.far, &lab.appliance] {
        assert_eq!((snmp(host, "Tcp", "InCsumErrors"), snmp(host, "Udp", "InCsumErrors")), (0, 0));
    }
    let interface = stop(daemon);
    assert_eq!(interface.late.get("checksum").copied().unwrap_or(0), 0, "{interface:?}");
}

/// All that counts frames, by name.
fn counts(interface: &InterfaceSnapshot) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut add = |of: &str, map: &BTreeMap<String, u64>| {
        counts.extend(map.iter().map(|(name, count)| (format!("{of} {name}"), *count)));
    };
    add("xdp", &interface.xdp);
    add("edit", &interface.xdp_edits);
    add("late", &interface.late);
    for worker in &interface.workers {
        add("worker", &worker.reasons);
        add("worker edit", &worker.edits);
    }
    counts
}

/// What lan0 has sent so far, frames.
fn sent(lab: &Lab) -> u64 {
    let link = lab.appliance.output("ip", &["-j", "-s", "link", "show", "lan0"]).unwrap();
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    link[0]["stats64"]["tx"]["packets"].as_u64().expect("a number")
}

#[test]
fn every_frame_is_counted_once_and_no_counter_goes_down() {
    for flags in [&[][..], &["--tcp", "fragment", "--df", "clear"]] {
        let Some(lab) = lab(LabConfig::default()) else { return };
        let daemon = run(&lab, flags);
        let (first, sent_before) = (snapshot(&lab), sent(&lab));
        let mut last = counts(&first);
        thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                // Who asks for counters all the time moves the sender, and with it the softirqs of its veths, from
                // core to core: that it all arrives is what is asked here, not in which order.
                let tally = flow(PORT, mixed(6000)).run(&lab.appliance, &lab.far).unwrap();
                assert!(tally.complete(), "{tally:?}");
                carry(&lab, Direction::Upload)
            });
            while !traffic.is_finished() {
                let now = counts(&snapshot(&lab));
                for (name, count) in &last {
                    assert!(now[name] >= *count, "{name} went down from {count} to {}", now[name]);
                }
                last = now;
            }
            assert!(traffic.join().unwrap().complete());
        });
        let total = |interface: &InterfaceSnapshot| interface.xdp.values().sum::<u64>();
        assert_eq!(total(&snapshot(&lab)) - total(&first), sent(&lab) - sent_before, "{flags:?}");
        stop(daemon);
    }
}

fn snapshot(lab: &Lab) -> InterfaceSnapshot {
    let program = binary().to_str().expect("a path in UTF-8");
    let text = lab.gateway.output(program, &["stats", "--json"]).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    snapshot.interfaces.into_iter().next().expect("one interface")
}

/// Every setting of one dimension meets every setting of each other one.
#[test]
fn environments_in_pairs() {
    let settings: [&[[&str; 2]]; 4] = [
        &[["gro", "on"]],
        &[["gro", "off"]],
        &[["gro", "on"], ["rx-udp-gro-forwarding", "on"]],
        &[["gro", "on"], ["rx-gro-list", "on"]],
    ];
    for (merging, changes) in settings.iter().enumerate() {
        for other in [false, true] {
            // As long as these rows differ, and none is another's opposite, all pairs are there.
            let is = |row: [bool; 4]| other ^ row[merging];
            let rps = is([false, false, false, false]);
            let threaded = is([false, false, true, true]);
            let queues = 1 + u32::from(is([false, true, false, true]));
            let vlan = is([false, true, true, false]).then_some(7);
            let tracked = is([false, false, false, true]);
            let what = format!(
                "{changes:?}, RPS {rps}, threaded NAPI {threaded}, {queues} queues, VLAN {vlan:?}, conntrack {tracked}"
            );
            let Some(lab) = lab_alone(LabConfig { queues, vlan, ..LabConfig::default() }) else { return };
            if tracked {
                let rules = "add table ip t; add chain ip t f { type filter hook forward priority 0; policy drop; }; \
                             add rule ip t f ct state established,related accept; \
                             add rule ip t f iifname eth1 ct state new accept";
                lab.gateway.output("nft", &[rules]).unwrap();
            }
            let daemon = run(&lab, &[]);
            for change in *changes {
                ethtool(&lab.gateway, &[&["-K", LAN][..], change].concat());
            }
            let mut sysfs = format!("echo {} > /sys/class/net/{LAN}/threaded", u8::from(threaded));
            for queue in (0..queues).filter(|_| rps) {
                sysfs += &format!(" && echo 3 > /sys/class/net/{LAN}/queues/rx-{queue}/rps_cpus");
            }
            let script = format!("mount -t sysfs sysfs /sys && {sysfs}");
            lab.gateway.output("unshare", &["--mount", "sh", "-c", &script]).unwrap();
            // Threads of NAPI go where the scheduler sends them, RPS spreads, and what the kernel has fragmented leaves
            // by another TX queue than what is whole.
            let moves = if threaded || rps || queues > 1 { Moves::Kernel } else { Moves::Nobody };
            deliver(&lab, 4, &mixed(500), &what, moves);
            let report = carry(&lab, Direction::Upload);
            assert!(report.complete(), "{what}: {report:?}");
            let interface = stop(daemon);
            let lost =
                ["no_worker", "super_packet", "too_long", "malformed"].map(|reason| interface.xdp[reason]);
            assert_eq!(lost, [0; 4], "{what}: {interface:?}");
        }
    }
}
