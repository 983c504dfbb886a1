//! eth1 as part of something else: the port of a bridge, the member of a bond, the parent of a VLAN. The kernel routes
//! what comes in on the other; xdpfrag runs on eth1. Debian's kernels have all of them (`make vm-test`), in a VM whose
//! CPU is emulated: hence the slow flow, and the patience with a worker.

use std::time::Duration;

use xdpfrag::lab::topology::{APPLIANCE_MAC, LAN_MAC};
use xdpfrag::lab::traffic::tcp::Direction;
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{APPLIANCE, FAR, Lab, LabConfig, Namespace};

use crate::support::{PORT, carry, forward, lab, mixed, received, skip, stop};

/// Makes the gateway's device `name` of or over eth1 with `commands` of ip(8), and moves the address to it; false if
/// this kernel has no such device.
fn routes_on(lab: &Lab, name: &str, commands: &[&str]) -> bool {
    for command in commands {
        match lab.gateway.ip(command) {
            Err(error) if format!("{error:#}").contains("Unknown device type") => {
                skip(&format!("this kernel has none: ip {command}"));
                return false;
            }
            done => done.unwrap(),
        };
    }
    lab.gateway.ip("addr flush dev eth1").unwrap();
    neighbour(&lab.gateway, name, "198.18.1.1", &APPLIANCE.to_string(), APPLIANCE_MAC);
    true
}

fn neighbour(here: &Namespace, name: &str, address: &str, other: &str, mac: &str) {
    here.ip(&format!("link set {name} up")).unwrap();
    here.ip(&format!("addr add {address}/24 dev {name}")).unwrap();
    here.ip(&format!("neigh replace {other} lladdr {mac} dev {name}")).unwrap();
}

/// Everything arrives, in fragments that fit, through a worker.
fn serves(lab: &Lab, handback: &str) {
    // In fragments TCP shows that the worker's frames are taken for eth1's.
    let flags = ["--tcp", "fragment", "--handback", handback, "--stall", "10000"];
    let daemon = forward(lab, &flags);
    let sizes = mixed(600);
    let flow = Flow { rate: 500, quiet: Duration::from_secs(3), ..Flow::new((FAR, PORT), sizes) };
    let tally = flow.run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.complete() && tally.reordered == 0, "{handback}: {tally:?}");
    for direction in [Direction::Upload, Direction::Download] {
        let report = carry(lab, direction);
        assert!(report.complete(), "{handback}, {direction:?}: {report:?}");
    }
    let far = lab.far_wire.seen().unwrap();
    assert!(far.largest() <= 1422 && far.fragments > 1000, "{handback}: {far:?}");
    let interface = stop(daemon);
    assert!(received(&interface) > 1000, "{handback}: {interface:?}");
    // The SYN of the upload and the SYN-ACK of the download leave by eth1.
    assert!(interface.egress_mss > 0, "{handback}: {interface:?}");
}

#[test]
fn the_port_of_a_bridge() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    if !routes_on(&lab, "br0", &["link add br0 type bridge", "link set eth1 master br0"]) {
        return;
    }
    for handback in ["inject", "veth"] {
        serves(&lab, handback);
    }
}

#[test]
fn the_member_of_a_bond() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let commands = [
        "link add bond0 type bond mode active-backup",
        "link set eth1 down",
        "link set eth1 master bond0",
        "link set eth1 up",
    ];
    if !routes_on(&lab, "bond0", &commands) {
        return;
    }
    for handback in ["inject", "veth"] {
        serves(&lab, handback);
    }
}

#[test]
fn the_parent_of_a_vlan() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    if !routes_on(&lab, "eth1.7", &["link add link eth1 name eth1.7 type vlan id 7"]) {
        return;
    }
    lab.appliance.ip("link add link lan0 name lan0.7 type vlan id 7").unwrap();
    lab.appliance.ip("addr flush dev lan0").unwrap();
    neighbour(&lab.appliance, "lan0.7", &APPLIANCE.to_string(), "198.18.1.1", LAN_MAC);
    lab.appliance.ip("route add default via 198.18.1.1").unwrap();
    for handback in ["inject", "veth"] {
        serves(&lab, handback);
    }
}
