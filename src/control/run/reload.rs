//! SIGHUP and `xdpfrag reload`: the scope changes under traffic; what cannot change refuses the whole.

use std::sync::Arc;

use super::{RunError, Running, lock};
use crate::config::{Plan, Scope, Treatment};
use crate::control::finding::{Finding, Level};
use crate::control::follow::Follower;
use crate::control::gateway::{Gateway, GatewayError};
use crate::control::{preflight, service};
use crate::observe::request::Outcome;

/// Where a plan can be read again.
pub type Source<'a> = &'a dyn Fn() -> Result<Plan, String>;

impl Running {
    /// Takes over what changed at `source`; if that cannot be, says why and goes on as before.
    pub(super) fn reload(&mut self, source: Source<'_>, say: &dyn Fn(&str)) -> Result<Outcome, RunError> {
        service::reloading();
        let outcome = match self.adopt(source) {
            Ok(changes) => {
                if self.plan.auto.is_some() {
                    self.follow_tunnels(say)?;
                }
                self.follow_rules(say);
                let message = if changes.is_empty() { "nothing changed".into() } else { changes.join("; ") };
                say(&format!("reloaded: {message}"));
                Outcome { ok: true, message }
            }
            Err(reason) => {
                say(&format!("warning: not reloaded, all stays as it was: {reason}"));
                Outcome { ok: false, message: format!("refused, all stays as it was: {reason}") }
            }
        };
        let served: Vec<_> = lock(&self.gateways).iter().map(Gateway::describe).collect();
        service::ready(&format!("forwarding on {}", served.join(", ")));
        Ok(outcome)
    }

    fn adopt(&mut self, source: Source<'_>) -> Result<Vec<String>, String> {
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
        if plan.auto.is_some() != self.plan.auto.is_some() {
            self.follower = Follower::start(&plan).map_err(|error| format!("--mtu auto: {error}"))?;
        }
        let mut gateways = lock(&self.gateways);
        for position in 0..gateways.len() {
            if let Err(error) = gateways[position].reload(&plan) {
                // Those before it took the new plan already.
                for gateway in &mut gateways[..position] {
                    gateway.reload(&self.plan).map_err(|again| again.to_string())?;
                }
                return Err(error.to_string());
            }
        }
        drop(gateways);
        let changed = changes(&self.plan.treatment, &plan.treatment);
        self.plan = plan;
        Ok(changed)
    }
}

/// The flags whose settings differ and which a reload cannot change: they are built into the XDP program, the
/// sockets or the workers.
fn needs_restart(before: &Plan, after: &Plan) -> Vec<&'static str> {
    let differs = [
        ("iface", before.interfaces != after.interfaces),
        ("df", before.treatment.df != after.treatment.df),
        ("tcp", before.treatment.tcp != after.treatment.tcp),
        ("force", before.force != after.force),
        ("notify", before.notify != after.notify),
        ("id-partition", before.id_partition != after.id_partition),
        ("redirect", before.redirect != after.redirect),
        ("handback", before.handback != after.handback),
        ("queues", before.queues != after.queues),
        ("cores", before.cores != after.cores),
        ("poll", before.poll != after.poll),
        ("mode", before.mode != after.mode),
        ("zero-copy", before.zero_copy != after.zero_copy),
        ("notrack", before.notrack != after.notrack),
        ("sticky", before.sticky != after.sticky),
        ("stall", before.stall != after.stall),
        ("metrics", before.metrics != after.metrics),
        ("capture", before.capture != after.capture),
    ];
    differs.into_iter().filter_map(|(flag, differs)| differs.then_some(flag)).collect()
}

impl Gateway {
    /// Serves the scope of `plan` from now on: prefixes, SA MTUs and MSS limits. Frames go on meanwhile, each under
    /// the old rule or the new one.
    ///
    /// # Errors
    /// If a map is full or the clamp cannot be attached. The settings are those of before then.
    pub fn reload(&mut self, plan: &Plan) -> Result<(), GatewayError> {
        let treatment = Arc::new(plan.treatment.clone());
        let before = self.scope_now();
        // The tunnels of `--mtu auto` come with the next look at them; until then those of before stay.
        let next = match (&plan.auto, &self.auto) {
            (Some(_), Some(_)) => before.clone(),
            _ => Scope::from(&*treatment),
        };
        if let Err(error) = self.apply(next).and_then(|()| self.attach_clamp(plan)) {
            // What fitted before fits again.
            self.apply(before)?;
            return Err(error);
        }
        self.treatment = treatment;
        self.auto = plan.auto.clone();
        Ok(())
    }
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
    use clap::Parser;

    use super::*;
    use crate::config::{self, RunArgs};

    #[derive(Parser)]
    struct Run {
        #[command(flatten)]
        args: RunArgs,
    }

    fn plan(flags: &str) -> Plan {
        let args = Run::try_parse_from(format!("run --iface a {flags}").split_whitespace()).unwrap().args;
        config::plan(&args).unwrap()
    }

    #[test]
    fn scope_changes_at_once_and_the_rest_needs_a_restart() {
        let before = plan("--mtu 1422");
        for flags in ["--mtu 1400", "--mtu 1422 --mss off", "--mtu 1422 --dst 10.0.0.0/8=1300", "--mtu auto"]
        {
            assert_eq!(needs_restart(&before, &plan(flags)), [""; 0], "{flags}");
        }
        for (flag, value) in [
            ("iface", "b"),
            ("df", "keep"),
            ("tcp", "resegment"),
            ("force", "deaf"),
            ("notify", ""),
            ("id-partition", "1/2"),
            ("redirect", "all"),
            ("handback", "veth"),
            ("queues", "0"),
            ("cores", "0"),
            ("poll", "busy"),
            ("mode", "native"),
            ("zero-copy", "off"),
            ("notrack", "off"),
            ("sticky", "0"),
            ("stall", "50"),
            ("metrics", "127.0.0.1:9435"),
            ("capture", "a.pcapng"),
        ] {
            assert_eq!(needs_restart(&before, &plan(&format!("--mtu 1422 --{flag} {value}"))), [flag]);
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
