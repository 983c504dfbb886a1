//! What the kernel does with the frames that are handed back.

use ipnet::{IpNet, Ipv4Net};

use super::Options;
use crate::control::conntrack;
use crate::control::finding::Finding;
use crate::net::links::{self, Link};
use crate::net::sysctl;

/// Forwarding and connection tracking.
pub(super) fn check(link: &Link, options: &Options, findings: &mut Vec<Finding>) {
    let name = &link.name;
    // Routed is what is no bond's or bridge's any more, and what a VRF has.
    let faces = links::faces(link, &links::all().unwrap_or_default());
    let routed = || faces.iter().filter(|face| face.master.is_none()).map(|face| face.name.as_str());
    // The directory level keeps dots in interface names (eth1.100) as they are.
    let off = |name: &&str| sysctl::number(&format!("net/ipv4/conf/{name}/forwarding")) == Some(0);
    let names: Vec<_> = routed().filter(off).collect();
    if names.is_empty() {
        let names = routed().collect::<Vec<_>>().join(", ");
        findings.push(Finding::ok("forwarding", format!("on for {names}")));
    } else {
        let names = names.join(", ");
        let why = format!("IPv4 forwarding is off on {names}: the kernel drops what is not for this machine");
        findings.push(Finding::warning("forwarding", why).remedy("sysctl -w net.ipv4.ip_forward=1"));
    }
    let everywhere = [IpNet::from(Ipv4Net::default())];
    let scope = if options.scope.is_empty() { &everywhere[..] } else { &options.scope };
    findings.push(match conntrack::Machine::read() {
        // `run` fragments TCP unless it is told otherwise.
        Ok(machine) => machine.assess(link, scope, true).finding(name, options.notrack),
        Err(error) => {
            let why = format!("the kernel does not tell its rules: {error}");
            Finding::note(conntrack::WHAT, why).remedy("nft list ruleset")
        }
    });
}
