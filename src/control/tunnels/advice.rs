//! Tunnels that `--mtu auto` cannot serve, and what to do about them.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::facts::{Kernel, net};
use super::routing::Routing;
use crate::net::links::Tunnel;
use crate::net::xfrm::Policy;

/// One line for each; those whose destination is in `served` by hand are left out.
pub(super) fn advice(kernel: &Kernel, routing: &Routing, served: &BTreeSet<IpNet>) -> Vec<String> {
    let mut lines = Vec::new();
    for policy in &kernel.policies {
        let (Some(src), Some(dst)) = (net(policy.src), net(policy.dst)) else { continue };
        if policy.templates.is_empty() || served.iter().any(|wide| wide.contains(&dst)) {
            continue;
        }
        let Some(why) = why_not(kernel, policy, src) else { continue };
        let remedy = match sa_mtu(kernel, policy) {
            Some(mtu) => format!(
                "if all packets to {dst} should be served, give --dst {dst}={mtu}: none that somebody asks for its ports \
                 is cut before he has seen it"
            ),
            None => "its packets are left to the kernel".into(),
        };
        lines.push(format!("the IPsec policy from {src} to {dst} {why}; {remedy}"));
    }
    for link in kernel.links.values().filter(|link| link.tunnel == Some(Tunnel::External)) {
        lines.push(format!(
            "{} takes its if_id from each route, which is not followed: give --dst PREFIX=BYTES for what it leads to",
            link.name
        ));
    }
    if routing.rules.iter().any(|rule| rule.more) && !routing.special.is_empty() {
        lines.push(
            "a rule of policy routing (ip rule) asks for marks, protocols, ports or TOS: routes are looked up for \
             packets that have none"
                .into(),
        );
    }
    lines
}

/// What fits each SA of a policy, bytes. Of nested tunnels one SA's MTU is the path MTU of the next: no number is better
/// than a wrong one.
fn sa_mtu(kernel: &Kernel, policy: &Policy) -> Option<u32> {
    let sized: Option<Vec<u32>> =
        kernel.used_by(policy).map(|(_, sized)| Some(sized.as_ref().ok()?.mtu)).collect();
    sized.filter(|_| policy.templates.len() == 1)?.into_iter().min()
}

/// Why packets of a policy that encrypts are not served, if they are not.
fn why_not(kernel: &Kernel, policy: &Policy, src: IpNet) -> Option<String> {
    let unknown = kernel.used_by(policy).find_map(|(sa, sized)| Some((sa.spi, sized.as_ref().err()?)));
    let mut in_use = kernel.used_by(policy).peekable();
    // Transport mode is for packets of this machine's own.
    if !policy.templates.iter().any(|template| template.tunnel()) || in_use.peek().is_none() {
        return None;
    }
    if policy.templates.len() > 1 {
        return Some("is for IPComp or nested tunnels, whose SA MTU is not known".into());
    }
    if let Some((spi, why)) = unknown {
        return Some(format!("uses SPI {spi:#010x}, whose SA MTU is not known ({why})"));
    }
    let vti = kernel.links.values().any(|link| link.tunnel == Some(Tunnel::Mark(policy.mark.0)));
    if policy.upper || (policy.mark.1 != 0 && !vti) {
        return Some("asks for a protocol, ports or a mark, which a table of prefixes cannot tell".into());
    }
    let own = src.prefix_len() == src.max_prefix_len() && kernel.local.contains(&src.addr());
    own.then(|| {
        "is for packets of this machine's own; LAN hosts that are masqueraded behind it are not seen".into()
    })
}
