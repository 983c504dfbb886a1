//! What is in scope, for the user.

use ipnet::IpNet;

use crate::config::Plan;
use crate::control::tunnels::Tunnels;
use crate::ipsec::scope::any;

/// What is in scope, in words.
pub(super) fn lines(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for (prefix, rule) in &plan.treatment.scope {
        let (family, mss) = match prefix {
            IpNet::V4(_) => ("IPv4", rule.mss4),
            IpNet::V6(_) => ("IPv6", rule.mss6),
        };
        let mss = mss.map_or("MSS left alone".into(), |mss| format!("MSS {mss}"));
        let what = match prefix.prefix_len() {
            0 => format!("all {family} packets that are forwarded"),
            _ => format!("{family} packets to {prefix}"),
        };
        lines.push(format!("scope: {what}, SA MTU {}, {mss}", rule.mtu));
    }
    match &plan.auto {
        Some(auto) if auto.within.is_empty() => {
            lines.push("scope: packets that go into an IPsec tunnel, each with its SA MTU".into());
        }
        Some(auto) => {
            let within: Vec<String> = auto.within.iter().map(ToString::to_string).collect();
            let within = within.join(" or ");
            lines.push(format!(
                "scope: packets to {within} that go into an IPsec tunnel, each with its SA MTU"
            ));
        }
        None => lines.extend(too_wide(plan)),
    }
    lines
}

/// A warning if everything is in scope although IPsec policies take less.
fn too_wide(plan: &Plan) -> Option<String> {
    let everything = |v4| plan.treatment.scope.iter().any(|(prefix, _)| *prefix == any(v4));
    // No IPsec to be read here: nothing to say.
    let tunnels = Tunnels::destinations().unwrap_or_default();
    let narrower = tunnels.iter().filter(|to| everything(to.addr().is_ipv4()) && to.prefix_len() > 0);
    let flags: Vec<String> = narrower.map(|to| format!("--dst {to}")).collect();
    let wide = tunnels.iter().any(|to| to.prefix_len() == 0);
    (!flags.is_empty() && !wide).then(|| {
        format!(
            "warning: packets that go into no tunnel are fragmented and edited, too; to serve only what IPsec policies \
             encrypt give --mtu auto, or {}",
            flags.join(" ")
        )
    })
}
