//! SIGHUP and `xdpfrag reload`: the plan changes under traffic; what cannot change refuses the whole.

use std::net::SocketAddr;

use clap::ValueEnum;

use super::{Running, asked, lock};
use crate::config::{Plan, Treatment};
use crate::control::conntrack::{Exempt, Exemption, Machine};
use crate::control::finding::{Finding, Level};
use crate::control::gateway::Gateway;
use crate::control::publish::Published;
use crate::control::tunnels::{Seen, Tunnels};
use crate::control::{preflight, service};
use crate::observe::request::Outcome;
use crate::packet::Tcp;
use crate::xdp::Variant;

/// Where a plan can be read again.
pub type Source<'a> = &'a dyn Fn() -> Result<Plan, String>;

impl Running {
    /// Takes over what changed at `source`; if that cannot be, says why and goes on as before.
    pub(super) fn reload(&mut self, source: Source<'_>, say: &dyn Fn(&str)) -> Outcome {
        service::reloading();
        let adopted = self.adopt(source, say);
        // Refused, too: a gateway that had the new plan for a moment may have lost them.
        self.follow_machine(say);
        let outcome = match adopted {
            Ok(changes) => {
                let message = if changes.is_empty() { "nothing changed".into() } else { changes.join("; ") };
                say(&format!("reloaded: {message}"));
                Outcome { ok: true, message }
            }
            Err(reason) => {
                say(&format!("warning: not reloaded, all stays as it was: {reason}"));
                Outcome { ok: false, message: format!("refused, all stays as it was: {reason}") }
            }
        };
        service::ready(&self.describe());
        outcome
    }

    /// Whatever can fail without a change comes first: the file, the machine, other XDP programs, the place of the
    /// metrics. Then one gateway after the other.
    fn adopt(&mut self, source: Source<'_>, say: &dyn Fn(&str)) -> Result<Vec<String>, String> {
        let plan = source()?;
        let fixed = needs_restart(&self.plan, &plan);
        if !fixed.is_empty() {
            return Err(format!("{} cannot change while it runs; restart it for that", fixed.join(", ")));
        }
        for interface in &plan.interfaces {
            let too_long = |finding: &Finding| finding.level == Level::Fatal;
            if let Some(finding) = preflight::mtus(interface, &plan).into_iter().find(too_long) {
                return Err(format!("{interface}: {finding}"));
            }
        }
        let notifier =
            |plan: &Plan| asked(plan, &self.notifier).map_err(|error| format!("--notify: {error}"));
        let (notifier, notifier_before) = (notifier(&plan)?, notifier(&self.plan)?);
        let variants =
            lock(&self.gateways).iter().map(|gateway| gateway.variant(&plan)).collect::<Result<_, _>>();
        let variants: Vec<Option<Variant>> = variants.map_err(|error| error.to_string())?;
        let news = self.follower.news_for(&plan).map_err(|error| format!("--mtu auto: {error}"))?;
        let (tunnels, machine) = (Tunnels::read(&plan).ok(), Machine::read());
        let exempt: Vec<Exempt> = self.exemptions.iter().map(Exemption::exempt).collect();
        let seen = |position: usize| {
            let (tunnels, exempt) = (tunnels.as_ref()?, exempt.get(position)?);
            Some(Seen { tunnels, machine: machine.as_ref(), exempt, tap: plan.handback.may_be_tap() })
        };
        self.move_metrics(plan.metrics)?;

        let mut gateways = lock(&self.gateways);
        // The workers can go by any plan, and from one to the other; the program behind GRO is there for one.
        let behind_gro = differs_late(&self.plan, &plan);
        let start_late = |gateways: &mut [Gateway], plan: &Plan| {
            let start = |gateway: &mut Gateway| gateway.start_late(plan, &self.shared, say);
            let mut served = gateways.iter_mut().filter(|gateway| behind_gro && gateway.serves());
            served.try_for_each(start).map_err(|error| error.to_string())
        };
        for gateway in gateways.iter().filter(|_| behind_gro) {
            gateway.stop_late().map_err(|error| error.to_string())?;
        }
        let mut replaced = Vec::new();
        for (position, variant) in variants.into_iter().enumerate() {
            match gateways[position].reload(&plan, notifier.clone(), variant, seen(position).as_ref()) {
                Ok(before) => replaced.push(before),
                Err(error) => {
                    // Those before it took the new plan already.
                    for (position, (gateway, before)) in gateways.iter_mut().zip(replaced).enumerate() {
                        gateway
                            .reload(&self.plan, notifier_before.clone(), before, seen(position).as_ref())
                            .map_err(|again| again.to_string())?;
                    }
                    start_late(&mut gateways, &self.plan)?;
                    drop(gateways);
                    self.move_metrics(self.plan.metrics)?;
                    return Err(error.to_string());
                }
            }
        }
        start_late(&mut gateways, &plan)?;
        if plan.treatment.tcp != self.plan.treatment.tcp {
            let served = gateways.iter().filter(|gateway| gateway.serves());
            served.filter_map(|gateway| gateway.limit(&plan)).for_each(|limit| say(&limit));
        }
        drop(gateways);
        self.follower.change(&plan, news);
        for exemption in &mut self.exemptions {
            exemption.change(plan.notrack, plan.treatment.tcp == Tcp::Fragment);
        }
        let published = self.published.as_ref().filter(|_| plan.metrics != self.plan.metrics);
        published.and_then(Published::describe).iter().for_each(|line| say(line));
        let mut changed = changes(&self.plan.treatment, &plan.treatment);
        changed.extend(switched(&self.plan, &plan));
        self.plan = plan;
        Ok(changed)
    }

    /// Not with the gateways locked: the thread that answers for the old address may wait for them.
    fn move_metrics(&mut self, address: Option<SocketAddr>) -> Result<(), String> {
        match &mut self.published {
            Some(published) if published.metrics != address => {
                published.move_metrics(address).map_err(|error| error.to_string())
            }
            _ => Ok(()),
        }
    }
}

/// The flags whose settings differ and which a reload cannot change: sockets, threads and identifications are made
/// with them.
fn needs_restart(before: &Plan, after: &Plan) -> Vec<&'static str> {
    let differs = [
        ("iface", before.interfaces != after.interfaces),
        ("id-partition", before.id_partition != after.id_partition),
        ("handback", before.handback != after.handback),
        ("queues", before.queues != after.queues),
        ("cores", before.cores != after.cores),
        ("poll", before.poll != after.poll),
        ("mode", before.mode != after.mode),
        ("zero-copy", before.zero_copy != after.zero_copy),
        ("capture", before.capture != after.capture),
    ];
    differs.into_iter().filter_map(|(flag, differs)| differs.then_some(flag)).collect()
}

/// True if the program behind GRO is not there for both plans.
fn differs_late(before: &Plan, after: &Plan) -> bool {
    let by = |plan: &Plan| {
        let treatment = &plan.treatment;
        (plan.redirect, treatment.tcp, treatment.df, plan.force, plan.notify, plan.sticky)
    };
    by(before) != by(after)
}

/// What is set to something else, a line each.
fn switched(before: &Plan, after: &Plan) -> Vec<String> {
    fn name(value: &impl ValueEnum) -> String {
        value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
    let settings = |plan: &Plan| {
        [
            ("df", format!("{:?}", plan.treatment.df).to_lowercase()),
            ("tcp", format!("{:?}", plan.treatment.tcp).to_lowercase()),
            ("force", name(&plan.force)),
            ("notify", if plan.notify { "on" } else { "off" }.into()),
            ("redirect", name(&plan.redirect)),
            ("sticky", format!("{} ms", plan.sticky.as_millis())),
            ("stall", format!("{} ms", plan.stall.as_millis())),
            ("notrack", name(&plan.notrack)),
            ("metrics", plan.metrics.map_or("off".into(), |address| address.to_string())),
        ]
    };
    let pairs = settings(before).into_iter().zip(settings(after));
    let differ = pairs.filter(|((_, before), (_, after))| before != after);
    differ.map(|((flag, before), (_, after))| format!("{flag}: {after} now, was {before}")).collect()
}

/// What is different between two treatments, a line each.
fn changes(before: &Treatment, after: &Treatment) -> Vec<String> {
    let find = |treatment: &Treatment, prefix| {
        treatment.scope.iter().find(|(other, _)| *other == prefix).map(|(_, rule)| *rule)
    };
    let mut lines = Vec::new();
    for (prefix, rule) in &after.scope {
        let mss = rule.mss4.or(rule.mss6).map_or("MSS left alone".into(), |mss| format!("MSS {mss}"));
        match find(before, *prefix) {
            Some(old) if old == *rule => {}
            Some(old) => lines.push(format!("{prefix}: SA MTU {} now, was {}, {mss}", rule.mtu, old.mtu)),
            None => lines.push(format!("{prefix}: in scope now, SA MTU {}, {mss}", rule.mtu)),
        }
    }
    for (prefix, _) in before.scope.iter().filter(|(prefix, _)| find(after, *prefix).is_none()) {
        lines.push(format!("{prefix}: out of scope now"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::flags::plan;
    use super::*;

    #[test]
    fn packets_can_be_treated_otherwise_at_once_and_sockets_and_threads_need_a_restart() {
        let before = plan("--mtu 1422");
        for flags in ["--mtu 1400", "--mtu 1422 --mss off", "--mtu 1422 --dst 10.0.0.0/8=1300", "--mtu auto"]
        {
            assert_eq!(needs_restart(&before, &plan(flags)), [""; 0], "{flags}");
            assert_eq!(switched(&before, &plan(flags)), [""; 0], "{flags}");
        }
        for (flag, value, line) in [
            ("df", "keep", "df: keep now, was oversize"),
            ("tcp", "fragment", "tcp: fragment now, was resegment"),
            ("force", "deaf", "force: deaf now, was always"),
            ("notify", "", "notify: on now, was off"),
            ("redirect", "all", "redirect: all now, was auto"),
            ("notrack", "off", "notrack: off now, was auto"),
            ("sticky", "0", "sticky: 0 ms now, was 200 ms"),
            ("stall", "50", "stall: 50 ms now, was 100 ms"),
            ("metrics", "127.0.0.1:9435", "metrics: 127.0.0.1:9435 now, was off"),
        ] {
            let after = plan(&format!("--mtu 1422 --{flag} {value}"));
            assert_eq!(needs_restart(&before, &after), [""; 0], "{flag}");
            assert_eq!(switched(&before, &after), [line]);
        }
        for (flag, value) in [
            ("iface", "b"),
            ("id-partition", "1/2"),
            ("handback", "veth"),
            ("queues", "0"),
            ("cores", "0"),
            ("poll", "busy"),
            ("mode", "native"),
            ("zero-copy", "off"),
            ("capture", "a.pcapng"),
        ] {
            assert_eq!(needs_restart(&before, &plan(&format!("--mtu 1422 --{flag} {value}"))), [flag]);
            let table = include_str!("../../../docs/operations.md").split("The others need a restart").nth(1);
            let row = |line: &&str| line.starts_with("| `") && line.contains(&format!("`{flag}`"));
            assert!(
                table.unwrap().lines().any(|line| row(&line)),
                "docs/operations.md does not say why: {flag}"
            );
        }
    }

    #[test]
    fn the_program_behind_gro_is_there_for_a_plan() {
        let before = plan("--mtu 1422");
        for (flags, differs) in [
            ("--redirect oversize", true),
            ("--tcp fragment", true),
            ("--force deaf", true),
            ("--notify", true),
            ("--df keep", true),
            ("--sticky 50", true),
            ("--stall 50 --notrack off --dst 10.0.0.0/8=1300", false),
        ] {
            assert_eq!(differs_late(&before, &plan(&format!("--mtu 1422 {flags}"))), differs, "{flags}");
        }
    }

    #[test]
    fn changes_name_prefix_and_mtu() {
        let before = plan("--mtu 1422 --dst 10.0.0.0/8 --dst 192.0.2.0/24").treatment;
        let after = plan("--mtu 1422 --dst 10.0.0.0/8=1400 --dst 198.18.0.0/15").treatment;
        assert_eq!(
            changes(&before, &after),
            [
                "198.18.0.0/15: in scope now, SA MTU 1422, MSS 1382",
                "10.0.0.0/8: SA MTU 1400 now, was 1422, MSS 1360",
                "192.0.2.0/24: out of scope now"
            ]
        );
        assert!(changes(&before, &before).is_empty());
    }
}
