//! What the kernel does with the frames that are handed back.

use ipnet::{IpNet, Ipv4Net};

use super::Options;
use crate::control::conntrack;
use crate::control::finding::Finding;
use crate::net::links::Link;
use crate::net::sysctl;

/// Forwarding and connection tracking.
pub(super) fn check(link: &Link, options: &Options, findings: &mut Vec<Finding>) {
    let name = &link.name;
    // The directory level keeps dots in interface names (eth1.100) as they are.
    if sysctl::number(&format!("net/ipv4/conf/{name}/forwarding")) == Some(0) {
        let why = format!("IPv4 forwarding is off on {name}: the kernel drops what is not for this machine");
        findings.push(Finding::warning("forwarding", why).remedy("sysctl -w net.ipv4.ip_forward=1"));
    } else {
        findings.push(Finding::ok("forwarding", format!("on for {name}")));
    }
    let everywhere = [IpNet::from(Ipv4Net::default())];
    let scope = if options.scope.is_empty() { &everywhere[..] } else { &options.scope };
    findings.push(match conntrack::assess(link, scope) {
        Ok(assessment) => assessment.finding(name, options.notrack),
        Err(error) => {
            let why = format!("the kernel does not tell its rules: {error}");
            Finding::note(conntrack::WHAT, why).remedy("nft list ruleset")
        }
    });
}
