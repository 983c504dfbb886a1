//! What is in scope, for the user.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::config::Plan;
use crate::control::tunnels::{Protected, Tunnels};
use crate::ipsec::scope::any;

/// What is in scope, and a warning if that is more than IPsec takes.
pub(super) fn lines(plan: &Plan) -> Vec<String> {
    let scope = words(plan).into_iter().map(|words| format!("scope: {words}"));
    scope.chain(too_wide(plan).map(|warning| format!("warning: {warning}"))).collect()
}

/// What is in scope, in words; the machine is not looked at.
pub fn words(plan: &Plan) -> Vec<String> {
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
        lines.push(format!("{what}, SA MTU {}, {mss}", rule.mtu));
    }
    match &plan.auto {
        Some(auto) if auto.within.is_empty() => {
            lines.push("packets that go into an IPsec tunnel, each with its SA MTU".into());
        }
        Some(auto) => {
            let within: Vec<String> = auto.within.iter().map(ToString::to_string).collect();
            let within = within.join(" or ");
            lines.push(format!("packets to {within} that go into an IPsec tunnel, each with its SA MTU"));
        }
        None => {}
    }
    lines
}

/// A warning if everything is in scope although IPsec takes less.
pub fn too_wide(plan: &Plan) -> Option<String> {
    // No IPsec to be read here: nothing to say.
    let protected = Tunnels::destinations().unwrap_or_default();
    judge(plan, &protected)
}

fn judge(plan: &Plan, protected: &BTreeSet<Protected>) -> Option<String> {
    if plan.auto.is_some() {
        return None;
    }
    let everything = |v4| plan.treatment.scope.iter().any(|(prefix, _)| *prefix == any(v4));
    // A policy for everything takes everything, unless it is an interface's: then routes say what it gets.
    let takes_all = |v4| protected.iter().any(|policy| policy.to == any(v4) && !policy.routed);
    let concerned = protected.iter().filter(|policy| {
        let v4 = policy.to.addr().is_ipv4();
        everything(v4) && !takes_all(v4)
    });
    let (wide, narrow): (Vec<&Protected>, Vec<&Protected>) =
        concerned.partition(|policy| policy.to.prefix_len() == 0);
    let mut flags: Vec<String> = narrow.iter().map(|policy| format!("--dst {}", policy.to)).collect();
    flags.dedup();
    let routed =
        (!wide.is_empty()).then(|| "--dst CIDR for each network that is routed into a tunnel".to_owned());
    let named = (!flags.is_empty()).then(|| flags.join(" "));
    let flags: Vec<_> = named.into_iter().chain(routed).collect();
    (!flags.is_empty()).then(|| {
        format!(
            "packets that go into no tunnel are fragmented and edited, too; to serve only what IPsec encrypts give \
             --mtu auto, or {}",
            flags.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::flags::plan;
    use super::*;

    fn judged(flags: &str, policies: &[(&str, bool)]) -> Option<String> {
        let protected = |(to, routed): &(&str, bool)| Protected { to: to.parse().unwrap(), routed: *routed };
        judge(&plan(flags), &policies.iter().map(protected).collect())
    }

    #[test]
    fn everything_is_too_wide_where_tunnels_take_less() {
        let warning = judged("--mtu 1422", &[("10.1.0.0/16", false), ("10.1.0.0/16", true)]).unwrap();
        assert!(warning.ends_with("--mtu auto, or --dst 10.1.0.0/16"), "{warning}");
        assert_eq!(judged("--mtu 1422", &[]), None);
        assert_eq!(judged("--mtu 1422 --dst 10.1.0.0/16", &[("10.1.0.0/16", false)]), None);
        assert_eq!(judged("--mtu auto", &[("10.1.0.0/16", false)]), None);
    }

    #[test]
    fn so_it_is_where_routes_choose_what_goes_into_the_tunnel() {
        let warning = judged("--mtu 1422", &[("0.0.0.0/0", true), ("10.1.0.0/16", false)]).unwrap();
        assert!(warning.contains("--dst 10.1.0.0/16 and --dst CIDR for each network"), "{warning}");
        assert!(judged("--mtu 1422", &[("0.0.0.0/0", true)]).is_some());
        assert!(judged("--mtu 1422", &[("::/0", true)]).is_some());
        // All traffic goes into this tunnel.
        assert_eq!(judged("--mtu 1422", &[("0.0.0.0/0", false)]), None);
        // IPv6 is not served.
        assert_eq!(judged("--mtu 1422 --dst 0.0.0.0/0", &[("::/0", true)]), None);
    }

    #[test]
    fn the_scope_in_words() {
        assert_eq!(
            words(&plan("--mtu auto")),
            ["packets that go into an IPsec tunnel, each with its SA MTU"]
        );
        assert_eq!(
            words(&plan("--mtu auto --dst 10.0.0.0/8 --dst 10.1.0.0/16=1400")),
            [
                "IPv4 packets to 10.1.0.0/16, SA MTU 1400, MSS 1360",
                "packets to 10.0.0.0/8 that go into an IPsec tunnel, each with its SA MTU"
            ]
        );
    }
}
