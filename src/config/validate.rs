//! What the flags mean together.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::plan::{Auto, HandbackChoice, Mode, Plan, Redirect, Treatment};
use super::raw::{RunArgs, TreatmentArgs};
use super::values::{Destination, Mss, Mtu};
use crate::packet::{Rule, mss};

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
    /// There is no kernel to ask.
    #[error(
        "--mtu auto is for `run`, which follows the tunnels of this machine; for a capture give the SA MTU in bytes, \
         such as --mtu 1422 (`xdpfrag mtu` shows it)"
    )]
    AutoOffline,
    /// XDP behind GRO.
    #[error(
        "--redirect late does not go with --mode generic: generic XDP runs behind GRO and would have it undone; \
         use --redirect oversize"
    )]
    LateGeneric,
    /// Packets would go round for ever.
    #[error(
        "--handback tap does not go with --mode generic: in generic mode the XDP program would see every packet that \
         was handed back again, before the kernel has cut it; use --handback inject"
    )]
    TapGeneric,
}

impl ConfigError {
    /// True if `--flag=value` is one of those that do not go together.
    pub(super) fn concerns(&self, flag: &str, value: &str) -> bool {
        match self {
            ConfigError::DuplicateInterface(name) => flag == "iface" && value == name,
            ConfigError::DuplicatePrefix(prefix) => {
                flag == "dst"
                    && value.parse().is_ok_and(|destination: Destination| destination.prefix == *prefix)
            }
            ConfigError::RedirectAllGeneric | ConfigError::LateGeneric => flag == "redirect",
            ConfigError::TapGeneric => flag == "handback",
            ConfigError::AutoOffline => flag == "mtu",
        }
    }
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
    let auto = auto(&args.treatment);
    let written = destinations(&args.treatment);
    let treatment = written_treatment(&args.treatment)?;
    if args.redirect == Redirect::Late && args.mode == Mode::Generic {
        return Err(ConfigError::LateGeneric);
    }
    if args.handback == HandbackChoice::Tap && args.mode == Mode::Generic {
        return Err(ConfigError::TapGeneric);
    }
    let raised = written.into_iter().filter(|(prefix, mtu)| raised(*prefix, *mtu));
    Ok(Plan {
        warnings: raised.map(|(prefix, mtu)| too_narrow(prefix, mtu)).collect(),
        interfaces: args.iface.clone(),
        treatment,
        auto,
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
        notrack: args.notrack,
        sticky: Duration::from_millis(args.sticky.into()),
        stall: Duration::from_millis(args.stall.into()),
        metrics: args.metrics,
        capture: args.capture.clone(),
        replace: args.replace,
    })
}

/// The treatment for `replay`. For IPv6 an SA MTU below [`IPV6_MIN_MTU`] becomes that.
pub fn treatment(args: &TreatmentArgs) -> Result<Treatment, ConfigError> {
    match args.mtu {
        Mtu::Auto => Err(ConfigError::AutoOffline),
        Mtu::Bytes(_) => written_treatment(args),
    }
}

/// The prefixes whose SA MTU is written, and what happens to packets.
fn written_treatment(args: &TreatmentArgs) -> Result<Treatment, ConfigError> {
    for (position, Destination { prefix, .. }) in args.dst.iter().enumerate() {
        if args.dst[..position].iter().any(|other| other.prefix == *prefix) {
            return Err(ConfigError::DuplicatePrefix(*prefix));
        }
    }
    let written = destinations(args).into_iter();
    let mut scope: Vec<_> = written.map(|(prefix, mtu)| (prefix, rule(prefix, mtu, args.mss))).collect();
    scope.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
    Ok(Treatment { scope, df: args.df.into(), tcp: args.tcp.into() })
}

/// What holds for packets to `prefix` through an SA MTU of `mtu` bytes, which for IPv6 is [`IPV6_MIN_MTU`] at least.
pub fn rule(prefix: IpNet, mtu: u16, mss: Mss) -> Rule {
    let mtu = if raised(prefix, mtu) { IPV6_MIN_MTU } else { mtu };
    Rule::new(mtu, mss_limit(mss, mss::mss4_for(mtu)), mss_limit(mss, mss::mss6_for(mtu)))
}

/// The prefixes in scope whose SA MTU is written, each with it.
fn destinations(args: &TreatmentArgs) -> Vec<(IpNet, u16)> {
    let written = |mtu: Option<u16>| -> Vec<(IpNet, u16)> {
        args.dst.iter().filter_map(|dst| Some((dst.prefix, dst.mtu.or(mtu)?))).collect()
    };
    match args.mtu {
        Mtu::Auto => written(None),
        Mtu::Bytes(mtu) if args.dst.is_empty() => {
            vec![(Ipv4Net::default().into(), mtu), (Ipv6Net::default().into(), mtu)]
        }
        Mtu::Bytes(mtu) => written(Some(mtu)),
    }
}

fn auto(args: &TreatmentArgs) -> Option<Auto> {
    let within = args.dst.iter().filter(|dst| dst.mtu.is_none()).map(|dst| dst.prefix);
    (args.mtu == Mtu::Auto).then(|| Auto { within: within.collect(), mss: args.mss })
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
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use clap::Parser;

    use super::*;
    use crate::config::{Force, Scope};
    use crate::packet::ident::Partition;
    use crate::packet::{Df, Tcp};

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

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
        let plan =
            planned("--iface a --mtu 1422 --dst 10.0.0.0/8 --dst 10.1.0.0/16=1400 --dst 0.0.0.0/0=1300");
        let scope = Scope::from(&plan.unwrap().treatment);
        let mtu = |address: &str| scope.rule(ANY, address.parse().unwrap()).unwrap().mtu;
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
        let scope = Scope::from(&narrow.treatment);
        let rule = |to: &str| -> Option<Rule> {
            let to: IpAddr = to.parse().unwrap();
            scope.rule(if to.is_ipv4() { ANY } else { Ipv6Addr::LOCALHOST.into() }, to)
        };
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
    fn auto_is_restricted_and_overridden_by_destinations() {
        let auto = |flags: &str| {
            let plan = planned(&format!("--iface a --mtu auto {flags}")).unwrap();
            let text = |nets: Vec<IpNet>| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let fixed: Vec<_> = plan.treatment.scope.iter().map(|(p, r)| format!("{p}={}", r.mtu)).collect();
            (text(plan.auto.unwrap().within), fixed.join(" "))
        };
        assert_eq!(auto(""), (String::new(), String::new()));
        assert_eq!(auto("--dst 10.0.0.0/8"), ("10.0.0.0/8".into(), String::new()));
        assert_eq!(
            auto("--dst 10.0.0.0/8 --dst 10.1.0.0/16=1400"),
            ("10.0.0.0/8".into(), "10.1.0.0/16=1400".into())
        );
        let twice = planned("--iface a --mtu auto --dst 10.0.0.0/8 --dst 10.0.0.0/8=1400");
        assert_eq!(twice, Err(ConfigError::DuplicatePrefix("10.0.0.0/8".parse().unwrap())));
        assert_eq!(planned("--iface a --mtu 1422").unwrap().auto, None);
    }

    #[test]
    fn policies() {
        let flags = "--force deaf --tcp fragment --df clear --notify --id-partition 2/2";
        let plan = planned(&format!("--iface a --mtu 1422 {flags}")).unwrap();
        assert_eq!((plan.force, plan.treatment.tcp), (Force::Deaf, Tcp::Fragment));
        assert_eq!(plan.treatment.df, Df::Clear);
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
    fn tap_needs_native_xdp() {
        let flags = "--iface a --mtu 1422 --handback tap";
        assert_eq!(planned(&format!("{flags} --mode generic")), Err(ConfigError::TapGeneric));
        assert!(planned(flags).is_ok());
    }

    #[test]
    fn late_needs_native_xdp() {
        let flags = "--iface a --mtu 1422 --redirect late";
        assert_eq!(planned(&format!("{flags} --mode generic")), Err(ConfigError::LateGeneric));
        assert!(planned(flags).is_ok());
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let plan = planned("--iface a --mtu 1422").unwrap();
        let scope: Vec<_> = plan.treatment.scope.iter().map(|(prefix, _)| prefix.to_string()).collect();
        assert_eq!(scope, ["0.0.0.0/0", "::/0"]);
        assert_eq!((plan.force, plan.treatment.tcp), (Force::Always, Tcp::Resegment));
        assert_eq!(plan.treatment.df, Df::Oversize);
        assert_eq!((plan.notify, plan.id_partition), (false, Partition::WHOLE));
        assert!(plan.warnings.is_empty());
        assert_eq!((plan.queues, plan.cores), (None, None));
        assert_eq!((plan.sticky, plan.stall), (Duration::from_millis(200), Duration::from_millis(100)));
    }
}
