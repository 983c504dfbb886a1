//! What the flags mean together.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::plan::{Mode, Plan, Redirect, Treatment};
use super::raw::{RunArgs, TreatmentArgs};
use super::values::{Destination, Mss};
use crate::packet::{Rule, Tcp, mss};

/// Hosts take no smaller path MTU (RFC 8200 section 5), and neither does the kernel in front of an
/// ESP tunnel (`xfrm6_tunnel_check_size()`).
pub const IPV6_MIN_MTU: u16 = 1280;

/// Flags that are right one by one, but not together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The same interface twice.
    #[error("--iface {0} is given twice; give each interface once")]
    DuplicateInterface(String),
    /// The same prefix twice.
    #[error("--dst {0} is given twice; give each prefix once, with one MTU")]
    DuplicatePrefix(IpNet),
    /// Frames would go round for ever.
    #[error(
        "--redirect all does not go with --mode generic: in generic mode the XDP program would see every frame \
         that was handed back again; use --redirect oversize"
    )]
    RedirectAllGeneric,
    /// Fragments are not the kernel's to make.
    #[error(
        "--redirect late has the kernel cut TCP into segments; it goes with --tcp resegment only: add that"
    )]
    LateFragment,
    /// XDP behind GRO.
    #[error(
        "--redirect late does not go with --mode generic: generic XDP runs behind GRO and would have it undone; \
         use --redirect oversize"
    )]
    LateGeneric,
}

/// The plan for `run`.
pub fn plan(args: &RunArgs) -> Result<Plan, ConfigError> {
    for (position, name) in args.iface.iter().enumerate() {
        if args.iface[..position].contains(name) {
            return Err(ConfigError::DuplicateInterface(name.clone()));
        }
    }
    if args.redirect == Redirect::All && args.mode == Mode::Generic {
        return Err(ConfigError::RedirectAllGeneric);
    }
    let treatment = treatment(&args.treatment)?;
    if args.redirect == Redirect::Late && treatment.tcp != Tcp::Resegment {
        return Err(ConfigError::LateFragment);
    }
    if args.redirect == Redirect::Late && args.mode == Mode::Generic {
        return Err(ConfigError::LateGeneric);
    }
    let raised = destinations(&args.treatment).into_iter().filter(|(prefix, mtu)| raised(*prefix, *mtu));
    Ok(Plan {
        warnings: raised.map(|(prefix, mtu)| too_narrow(prefix, mtu)).collect(),
        interfaces: args.iface.clone(),
        treatment,
        force: args.force,
        notify: args.notify,
        id_partition: args.id_partition,
        redirect: args.redirect,
        handback: args.handback,
        queues: args.queues.listed(),
        cores: args.cores.as_ref().map(|list| list.0.iter().map(|core| *core as usize).collect()),
        poll: args.poll,
        mode: args.mode,
        zero_copy: args.zero_copy,
        sticky: Duration::from_millis(args.sticky.into()),
        stall: Duration::from_millis(args.stall.into()),
    })
}

/// The treatment for `run` and `replay`. For IPv6 an SA MTU below [`IPV6_MIN_MTU`] becomes that.
pub fn treatment(args: &TreatmentArgs) -> Result<Treatment, ConfigError> {
    let mut scope: Vec<(IpNet, Rule)> = Vec::new();
    for (prefix, mtu) in destinations(args) {
        if scope.iter().any(|(other, _)| *other == prefix) {
            return Err(ConfigError::DuplicatePrefix(prefix));
        }
        let mtu = if raised(prefix, mtu) { IPV6_MIN_MTU } else { mtu };
        let rule = Rule {
            mtu,
            mss4: mss_limit(args.mss, mss::mss4_for(mtu)),
            mss6: mss_limit(args.mss, mss::mss6_for(mtu)),
        };
        scope.push((prefix, rule));
    }
    scope.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
    Ok(Treatment { scope, df: args.df.into(), tcp: args.tcp.into() })
}

/// The prefixes in scope, each with the SA MTU that was written for it.
fn destinations(args: &TreatmentArgs) -> Vec<(IpNet, u16)> {
    if args.dst.is_empty() {
        return vec![(Ipv4Net::default().into(), args.mtu), (Ipv6Net::default().into(), args.mtu)];
    }
    args.dst.iter().map(|Destination { prefix, mtu }| (*prefix, mtu.unwrap_or(args.mtu))).collect()
}

fn raised(prefix: IpNet, mtu: u16) -> bool {
    matches!(prefix, IpNet::V6(_)) && mtu < IPV6_MIN_MTU
}

fn too_narrow(prefix: IpNet, mtu: u16) -> String {
    format!(
        "IPv6 to {prefix}: SA MTU {mtu} is below {IPV6_MIN_MTU}, which every IPv6 link must carry (RFC 8200 section 5); \
         {IPV6_MIN_MTU} is used, and the kernel fragments the longer ESP packets"
    )
}

fn mss_limit(mss: Mss, fitting: u16) -> Option<u16> {
    match mss {
        Mss::Auto => Some(fitting),
        Mss::Limit(limit) => Some(limit.min(fitting)),
        Mss::Off => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use clap::Parser;

    use super::*;
    use crate::config::Force;
    use crate::packet::ident::Partition;

    #[derive(Parser)]
    struct Run {
        #[command(flatten)]
        args: RunArgs,
    }

    fn planned(flags: &str) -> Result<Plan, ConfigError> {
        plan(&Run::try_parse_from(format!("run {flags}").split_whitespace()).unwrap().args)
    }

    #[test]
    fn the_longest_prefix_wins() {
        let scope =
            planned("--iface a --mtu 1422 --dst 10.0.0.0/8 --dst 10.1.0.0/16=1400 --dst 0.0.0.0/0=1300")
                .unwrap()
                .treatment;
        let mtu = |address: &str| scope.rule(address.parse::<IpAddr>().unwrap()).unwrap().mtu;
        assert_eq!([mtu("10.1.2.3"), mtu("10.2.0.1"), mtu("192.0.2.1")], [1400, 1422, 1300]);
    }

    #[test]
    fn the_mss_follows_the_mtu_of_its_prefix() {
        let mss4 = |flags: &str| planned(&format!("--iface a {flags}")).unwrap().treatment.scope[0].1.mss4;
        assert_eq!(mss4("--mtu 1422"), Some(1382));
        assert_eq!(mss4("--mtu 1422 --mss 1400"), Some(1382));
        assert_eq!(mss4("--mtu 1422 --mss 1000"), Some(1000));
        assert_eq!(mss4("--mtu 1422 --dst 10.0.0.0/8=1300"), Some(1260));
        assert_eq!(mss4("--mtu 68"), Some(536));
        assert_eq!(mss4("--mtu 1422 --mss off"), None);
    }

    #[test]
    fn ipv6_keeps_to_its_least_mtu() {
        let narrow = planned("--iface a --mtu 1200").unwrap();
        let rule = |address: &str| narrow.treatment.rule(address.parse::<IpAddr>().unwrap());
        assert_eq!(rule("198.18.0.2").unwrap().mtu, 1200);
        let six = rule("2001:db8::2").unwrap();
        assert_eq!((six.mtu, six.mss6), (1280, Some(1220)));
        assert_eq!(rule("fe80::2"), None, "link-local is in no tunnel");
        assert_eq!(narrow.warnings.len(), 1);
        assert!(narrow.warnings[0].contains("::/0") && narrow.warnings[0].contains("1200"));
        let apart = planned("--iface a --mtu 1200 --dst 10.0.0.0/8 --dst 2001:db8::/32=1400").unwrap();
        assert_eq!(apart.treatment.scope[0].1.mss6, Some(1340));
        assert!(apart.warnings.is_empty());
    }

    #[test]
    fn policies() {
        let flags = "--force deaf --tcp resegment --notify --id-partition 2/2";
        let plan = planned(&format!("--iface a --mtu 1422 {flags}")).unwrap();
        assert_eq!((plan.force, plan.treatment.tcp), (Force::Deaf, Tcp::Resegment));
        assert_eq!((plan.notify, Some(plan.id_partition)), (true, Partition::new(2, 2)));
    }

    #[test]
    fn duplicates_are_refused() {
        assert_eq!(
            planned("--iface a --iface a --mtu 1422"),
            Err(ConfigError::DuplicateInterface("a".into()))
        );
        let twice = planned("--iface a --mtu 1422 --dst 10.0.0.0/8 --dst 10.0.0.0/8=1400");
        assert_eq!(twice, Err(ConfigError::DuplicatePrefix("10.0.0.0/8".parse().unwrap())));
    }

    #[test]
    fn what_would_go_round_for_ever_is_refused() {
        let flags = "--iface a --mtu 1422 --redirect all --mode";
        assert_eq!(planned(&format!("{flags} generic")), Err(ConfigError::RedirectAllGeneric));
        assert!(planned(&format!("{flags} auto")).is_ok());
    }

    #[test]
    fn late_needs_segments_and_native_xdp() {
        let flags = "--iface a --mtu 1422 --redirect late";
        assert_eq!(planned(flags), Err(ConfigError::LateFragment));
        assert_eq!(
            planned(&format!("{flags} --tcp resegment --mode generic")),
            Err(ConfigError::LateGeneric)
        );
        assert!(planned(&format!("{flags} --tcp resegment")).is_ok());
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let plan = planned("--iface a --mtu 1422").unwrap();
        let scope: Vec<_> = plan.treatment.scope.iter().map(|(prefix, _)| prefix.to_string()).collect();
        assert_eq!(scope, ["0.0.0.0/0", "::/0"]);
        assert_eq!((plan.force, plan.treatment.tcp), (Force::Always, Tcp::Fragment));
        assert_eq!((plan.notify, plan.id_partition), (false, Partition::WHOLE));
        assert!(plan.warnings.is_empty());
        assert_eq!((plan.queues, plan.cores), (None, None));
        assert_eq!((plan.sticky, plan.stall), (Duration::from_millis(200), Duration::from_millis(100)));
    }
}
