//! What the flags mean together.

use std::time::Duration;

use ipnet::Ipv4Net;

use super::plan::{Mode, Plan, Redirect, Treatment};
use super::raw::{RunArgs, TreatmentArgs};
use super::values::{Destination, Mss};
use crate::packet::{Rule, mss};

/// Flags that are right one by one, but not together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The same interface twice.
    #[error("--iface {0} is given twice; give each interface once")]
    DuplicateInterface(String),
    /// The same prefix twice.
    #[error("--dst {0} is given twice; give each prefix once, with one MTU")]
    DuplicatePrefix(Ipv4Net),
    /// Frames would go round for ever.
    #[error(
        "--redirect all does not go with --mode generic: in generic mode the XDP program would see every frame \
         that was handed back again; use --redirect oversize"
    )]
    RedirectAllGeneric,
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
    Ok(Plan {
        interfaces: args.iface.clone(),
        treatment: treatment(&args.treatment)?,
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

/// The treatment for `run` and `replay`.
pub fn treatment(args: &TreatmentArgs) -> Result<Treatment, ConfigError> {
    let everything = [Destination { prefix: Ipv4Net::default(), mtu: None }];
    let destinations = if args.dst.is_empty() { &everything[..] } else { &args.dst };
    let mut scope: Vec<(Ipv4Net, Rule)> = Vec::with_capacity(destinations.len());
    for Destination { prefix, mtu } in destinations {
        if scope.iter().any(|(other, _)| other == prefix) {
            return Err(ConfigError::DuplicatePrefix(*prefix));
        }
        let mtu = mtu.unwrap_or(args.mtu);
        let rule = Rule {
            mtu,
            mss4: mss_limit(args.mss, mss::mss4_for(mtu)),
            mss6: mss_limit(args.mss, mss::mss6_for(mtu)),
        };
        scope.push((*prefix, rule));
    }
    scope.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
    Ok(Treatment { scope, df: args.df.into(), tcp: args.tcp.into() })
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
    use clap::Parser;

    use super::*;

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
        let mtu = |address: &str| scope.rule(address.parse().unwrap()).unwrap().mtu;
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
    fn defaults_are_those_of_the_help() {
        let plan = planned("--iface a --mtu 1422").unwrap();
        assert_eq!(plan.treatment.scope.len(), 1);
        assert_eq!((plan.queues, plan.cores), (None, None));
        assert_eq!((plan.sticky, plan.stall), (Duration::from_millis(200), Duration::from_millis(100)));
    }
}
