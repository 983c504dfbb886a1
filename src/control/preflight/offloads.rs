//! Offloads that hide from XDP what was on the wire.

use super::{Options, virtio};
use crate::control::finding::Finding;
use crate::net::Ethtool;
use crate::net::ethtool::Features;
use crate::net::links::{self, Link};

/// Offloads of `link`, of which `queues` queues are served.
pub(super) fn check(link: &Link, options: &Options, queues: u32, findings: &mut Vec<Finding>) {
    let name = &link.name;
    let features = match Ethtool::open().and_then(|mut ethtool| ethtool.features(name)) {
        Ok(features) => features,
        Err(error) => {
            let why = format!("the kernel does not tell the offloads of {name}: {error}");
            findings.push(Finding::note("offloads", why).remedy(format!("ethtool -k {name}")));
            return;
        }
    };
    let before = findings.len();
    match link.driver().as_deref() {
        Some(virtio::DRIVER) => virtio::offloads(name, &features, options, findings),
        _ => merging(name, &features, findings),
    }
    // That of a veth goes on with an XDP program.
    if !features.has("rx-gro") && !link.is("veth") {
        let why = "GRO is off: with --redirect late nothing would be merged, and every segment cut by itself";
        findings.push(Finding::note("offloads", why).remedy(format!("ethtool -K {name} gro on")));
    }
    vlan(link, &features, findings);
    if link.is("veth") {
        veth_checksums(link, findings);
    }
    if queues > 1 && link.kind.is_none() {
        let why = "packets that arrive as fragments carry no ports: where the NIC spreads UDP by ports, they \
                   may come in on another queue than the rest of their flow and overtake it";
        findings.push(Finding::note("RSS", why).remedy(format!("ethtool -N {name} rx-flow-hash udp4 sd")));
    }
    if findings.len() == before {
        findings.push(Finding::ok("offloads", "none that stands in the way"));
    }
}

/// LRO and GRO in hardware make one long frame of several before XDP sees them.
fn merging(name: &str, features: &Features, findings: &mut Vec<Finding>) {
    for (feature, flag, title) in [("rx-lro", "lro", "LRO"), ("rx-gro-hw", "rx-gro-hw", "GRO in hardware")] {
        if features.has(feature) {
            let why = format!("{title} is on: merged frames, longer than the MTU of {name}, pass untreated");
            findings.push(Finding::warning("offloads", why).remedy(format!("ethtool -K {name} {flag} off")));
        }
    }
}

/// A VLAN tag that was taken off the frame is lost when the frame goes through AF_XDP.
fn vlan(link: &Link, features: &Features, findings: &mut Vec<Finding>) {
    if !features.has("rx-vlan-hw-parse") {
        return;
    }
    let vlans: Vec<_> = links::faces(link, &links::all().unwrap_or_default())
        .into_iter()
        .filter(|face| face.is("vlan") && face.index != link.index)
        .map(|vlan| vlan.name)
        .collect();
    if vlans.is_empty() {
        return;
    }
    let (why, command) = (
        format!(
            "{} strips VLAN tags, so redirected frames for {} would lose theirs",
            link.name,
            vlans.join(", ")
        ),
        match link.is("veth") {
            // A veth has no hardware: the tag is missing because the other end did not write it.
            true => on_peer(link, "txvlan off"),
            false => format!("ethtool -K {} rxvlan off", link.name),
        },
    );
    findings.push(Finding::warning("offloads", why).remedy(command));
}

/// The sender behind a veth leaves checksums to hardware that is not there.
fn veth_checksums(link: &Link, findings: &mut Vec<Finding>) {
    let features = peer(link).and_then(|name| Ethtool::open().ok()?.features(&name).ok());
    if features.is_some_and(|features| !features.has("tx-checksum-ip-generic")) {
        return;
    }
    let why = "a sender on this machine may leave checksums unfinished (CHECKSUM_PARTIAL): they are finished \
               in software, which costs time";
    findings.push(Finding::note("offloads", why).remedy(on_peer(link, "tx off")));
}

/// Name of a veth's other end, if it is in this namespace.
pub(super) fn peer(link: &Link) -> Option<String> {
    let index = link.lower.filter(|_| !link.lower_elsewhere)?;
    Some(links::all().ok()?.into_iter().find(|other| other.index == index)?.name)
}

fn on_peer(link: &Link, change: &str) -> String {
    match peer(link) {
        Some(peer) => format!("ethtool -K {peer} {change}"),
        None => format!("ethtool -K PEER {change}  # where {} has its other end, PEER", link.name),
    }
}
