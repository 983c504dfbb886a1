//! What the kernel does with the frames that are handed back.

use ipnet::{IpNet, Ipv4Net};

use super::Options;
use crate::control::conntrack;
use crate::control::finding::Finding;
use crate::net::links::{self, Link};
use crate::net::{addresses, sysctl};

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
    forwarding6(&faces, options, findings);
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

/// IPv6 is in scope unless `--dst` says otherwise, but not everybody has it: silent without a sign that it is wanted.
fn forwarding6(faces: &[Link], options: &Options, findings: &mut Vec<Finding>) {
    // The kernel looks at `all` (`ip6_forward()`), and since 6.17 at `force_forwarding` of the interface.
    let Some(all) = sysctl::number("net/ipv6/conf/all/forwarding") else { return };
    let forced = |face: &Link| {
        sysctl::number(&format!("net/ipv6/conf/{}/force_forwarding", face.name)).is_some_and(|on| on != 0)
    };
    if all != 0 || faces.iter().any(forced) {
        return;
    }
    let asked = options.scope.iter().find(|prefix| matches!(prefix, IpNet::V6(net) if net.prefix_len() > 0));
    let indices: Vec<_> = faces.iter().map(|face| face.index).collect();
    // Who cannot ask for addresses is told so elsewhere.
    let address = || addresses::routed_ipv6(&indices).ok().flatten();
    let wanted = match asked {
        Some(prefix) => format!("{prefix} is in scope"),
        None => match address() {
            Some(address) => format!("this machine has {address} there"),
            None => return,
        },
    };
    let why = format!("{wanted}, but IPv6 forwarding is off: the kernel drops what is not for this machine");
    // What takes its own addresses from advertisements goes on to do so with accept_ra=2 only.
    let remedy = "sysctl -w net.ipv6.conf.all.forwarding=1";
    findings.push(Finding::warning("IPv6 forwarding", why).remedy(remedy));
}
