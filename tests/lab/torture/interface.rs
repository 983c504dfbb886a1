//! What can happen to interfaces.

use std::thread;
use std::time::Duration;

use xdpfrag::lab::topology::{APPLIANCE_MAC, LAN_MAC, link};
use xdpfrag::lab::{APPLIANCE, LAN, LabConfig};

use super::{Limit, UNHARMED, costs_at_most, costs_within, disturb, report};
use crate::support::{deliver, forward, lab, mixed, stop};

const WATCH: Duration = Duration::from_secs(1);

#[test]
fn the_link_goes_down_and_up() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &[]);
    let down = Duration::from_millis(300);
    let cost = disturb(&lab, WATCH, || {
        lab.gateway.ip(&format!("link set {LAN} down")).unwrap();
        thread::sleep(down);
        lab.gateway.ip(&format!("link set {LAN} up")).unwrap();
        // The kernel forgets neighbours of an interface that goes down.
        lab.gateway.ip(&format!("neigh replace {APPLIANCE} lladdr {APPLIANCE_MAC} dev {LAN}")).unwrap();
    });
    costs_within("LAN interface down for 0.3 s", cost, Limit::outage(350), Limit::outage(350));
    // Oversize traffic is back as soon as the interface is.
    let difference = cost.oversize.datagrams.abs_diff(cost.fits.datagrams);
    assert!(cost.fits.datagrams >= 200 && difference < cost.allowed(200), "{cost:?}");
    deliver(&lab, mixed(200));
    stop(daemon);
}

#[test]
fn the_interface_is_deleted_and_made_again() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &[]);
    lab.gateway.ip(&format!("link del {LAN}")).unwrap();
    let ended = daemon.wait().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("the interface is gone"), "{}", ended.stderr);

    link([(&lab.appliance, "lan0", APPLIANCE_MAC), (&lab.gateway, LAN, LAN_MAC)], 1, 1500).unwrap();
    lab.appliance.ip(&format!("addr add {APPLIANCE}/24 dev lan0")).unwrap();
    lab.appliance.ip(&format!("neigh add 198.18.1.1 lladdr {LAN_MAC} dev lan0")).unwrap();
    lab.appliance.ip("route add default via 198.18.1.1").unwrap();
    lab.gateway.ip(&format!("addr add 198.18.1.1/24 dev {LAN}")).unwrap();
    lab.gateway.ip(&format!("neigh add {APPLIANCE} lladdr {APPLIANCE_MAC} dev {LAN}")).unwrap();
    let daemon = forward(&lab, &[]);
    deliver(&lab, mixed(200));
    stop(daemon);
}

#[test]
fn the_mtu_changes() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &[]);
    let cost = disturb(&lab, WATCH, || {
        for mtu in [2000, 1500, 1800, 1500] {
            lab.gateway.ip(&format!("link set {LAN} mtu {mtu}")).unwrap();
            thread::sleep(Duration::from_millis(50));
        }
    });
    costs_at_most("MTU of the LAN interface changed four times", cost, 20);
    stop(daemon);
}

#[test]
fn the_number_of_queues_changes() {
    let Some(lab) = lab(LabConfig { queues: 2, ..LabConfig::beyond() }) else { return };
    let daemon = forward(&lab, &[]);
    let channels = |rx: &str| {
        // A driver may refuse while sockets are bound, which is fine as well.
        let _ = lab.gateway.output("ethtool", &["-L", LAN, "rx", rx]);
    };
    let cost = disturb(&lab, WATCH, || {
        channels("1");
        thread::sleep(Duration::from_millis(200));
        channels("2");
    });
    costs_at_most("RX queues 2, 1, 2 (`ethtool -L`)", cost, 400);
    deliver(&lab, mixed(200));
    stop(daemon);
}

#[test]
fn somebody_wants_the_xdp_slot() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &[]);
    let cost = disturb(&lab, WATCH, || {
        for word in ["xdp", "xdpdrv"] {
            // A link owns the slot: the kernel refuses.
            assert!(lab.gateway.ip(&format!("link set dev {LAN} {word} off")).is_err(), "{word}");
        }
    });
    costs_at_most("`ip link set xdp off` (refused: EBUSY)", cost, 0);
    stop(daemon);
}

/// The hand-back's own device, where it can be seen.
#[test]
fn the_device_of_the_hand_back_is_deleted() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &["--handback", "veth"]);
    let links = lab.gateway.ip("-o -br link").unwrap();
    let device = links
        .lines()
        .find_map(|line| line.split(['@', ' ']).next().filter(|name| name.starts_with("xdpfrag")));
    let device = device.expect("the veth pair's end");
    let down = disturb(&lab, WATCH, || {
        lab.gateway.ip(&format!("link set {device} down")).unwrap();
        thread::sleep(Duration::from_millis(200));
        lab.gateway.ip(&format!("link set {device} up")).unwrap();
    });
    costs_within("device of `--handback veth` down for 0.2 s", down, UNHARMED, Limit::outage(255));

    let deleted = disturb(&lab, WATCH, || drop(lab.gateway.ip(&format!("link del {device}")).unwrap()));
    report("device of `--handback veth` deleted", deleted);
    // What fits is the kernel's as soon as the worker has noticed.
    assert!(deleted.fits.datagrams <= deleted.allowed(30), "{deleted:?}");
    let ended = daemon.wait().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("hand-back"), "{}", ended.stderr);
}
