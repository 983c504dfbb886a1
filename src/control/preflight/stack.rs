//! What the kernel does with the frames that are handed back.

use crate::control::finding::Finding;
use crate::net::links::Link;
use crate::net::sysctl;

/// Forwarding and connection tracking.
pub(super) fn check(link: &Link, findings: &mut Vec<Finding>) {
    let name = &link.name;
    // The directory level keeps dots in interface names (eth1.100) as they are.
    if sysctl::number(&format!("net/ipv4/conf/{name}/forwarding")) == Some(0) {
        let why = format!("IPv4 forwarding is off on {name}: the kernel drops what is not for this machine");
        findings.push(Finding::warning("forwarding", why).remedy("sysctl -w net.ipv4.ip_forward=1"));
    } else {
        findings.push(Finding::ok("forwarding", format!("on for {name}")));
    }
    match sysctl::number("net/netfilter/nf_conntrack_count") {
        Some(tracked) if tracked > 0 => {
            let why = format!(
                "connection tracking is in use ({tracked} entries): it puts fragments together again before \
                 routing, so a policy-based gateway encrypts the whole packet; the rules that mend it let \
                 fragments pass untracked, which a stateful firewall must then accept"
            );
            findings.push(Finding::warning("conntrack", why).remedy(format!(
                "nft 'add table ip early; add chain ip early pre {{ type filter hook prerouting priority -450; }}; \
                 add rule ip early pre iifname \"{name}\" ip frag-off & 0x3fff != 0 notrack'"
            )));
        }
        _ => findings.push(Finding::ok(
            "conntrack",
            "no connection is tracked at the moment: fragments stay fragments",
        )),
    }
}
