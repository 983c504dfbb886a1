//! What a gateway says of itself.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::Gateway;
use crate::control::tunnels::pair_of;
use crate::ipsec::scope::Via;
use crate::observe::snapshot::{DeafSnapshot, InterfaceSnapshot, RouteSnapshot, WaysSnapshot};
use crate::packet::{Edit, Late, Reason, Rule};
use crate::worker::Worker;
use crate::worker::clock::monotonic_ns;
use crate::xdp::DeafHost;

/// Without a sign of life for so long a worker hangs: it beats every 250 ms at the latest.
const HUNG: Duration = Duration::from_secs(20);

impl Gateway {
    /// One line: how the interface is served.
    pub fn describe(&self) -> String {
        let zero_copy = self.workers.iter().any(|worker| worker.snapshot().zero_copy);
        format!(
            "{} ({} XDP{}, {} queue{}, hand-back {})",
            self.name(),
            self.mode.label(),
            if zero_copy { ", zero-copy" } else { "" },
            self.workers.len(),
            if self.workers.len() == 1 { "" } else { "s" },
            self.handback
        )
    }

    /// True if every worker that has not ended shows signs of life. One that has ended is passed by.
    pub fn beats(&self) -> bool {
        let now = monotonic_ns();
        self.workers.iter().filter(|worker| worker.alive()).all(|worker| {
            let last = self.program.heartbeats().of(worker.queue()).map_or(0, |heartbeat| heartbeat.last());
            now.saturating_sub(last) <= HUNG.as_nanos() as u64
        })
    }

    /// State and counters at this moment.
    pub fn snapshot(&self) -> InterfaceSnapshot {
        // Reading a map of our own fails only if the kernel is out of memory: zeros then.
        let counters = self.program.counters().unwrap_or_default();
        let egress = self.clamp.counters().unwrap_or_default();
        InterfaceSnapshot {
            name: self.name().to_owned(),
            mode: self.mode.label().to_owned(),
            handback: self.handback.to_owned(),
            routes: self.routes(),
            exceptions: self.exceptions(),
            auto: self.auto.is_some(),
            deaf: self.deaf(),
            xdp: Reason::ALL.iter().map(|r| (r.label().to_owned(), counters.reason(*r))).collect(),
            xdp_edits: Edit::ALL.iter().map(|e| (e.label().to_owned(), counters.edit(*e))).collect(),
            late: self.late_counters(),
            egress_mss: egress.edit(Edit::Mss),
            workers: self.workers.iter().map(Worker::snapshot).collect(),
        }
    }

    fn routes(&self) -> Vec<RouteSnapshot> {
        let scope = self.applied.scope();
        let pairs = scope
            .0
            .iter()
            .rev()
            .flat_map(|(to, from)| from.iter().rev().map(move |(from, rule)| (to, from, rule)));
        let route = |(prefix, source, rule): (&IpNet, &IpNet, &Option<Rule>)| {
            let rule = (*rule)?;
            let tunnel = self.found.table.0.get(prefix).and_then(|sources| sources.get(source)?.as_ref());
            Some(RouteSnapshot {
                prefix: prefix.to_string(),
                source: (source.prefix_len() > 0).then(|| source.to_string()),
                mtu: rule.mtu,
                mss4: rule.mss4.filter(|_| matches!(prefix, IpNet::V4(_))),
                mss6: rule.mss6.filter(|_| matches!(prefix, IpNet::V6(_))),
                via: tunnel.and_then(|tunnel| match &tunnel.via {
                    Via::Policy => Some("policy".into()),
                    Via::Interface(name) => Some(name.clone()),
                    Via::Hand => self.auto.as_ref().map(|_| "--dst".into()),
                }),
                ways: matches!(prefix, IpNet::V4(_)).then(|| WaysSnapshot {
                    udp: rule.ways.udp.label().to_owned(),
                    other: rule.ways.other.label().to_owned(),
                    why: tunnel.map(|tunnel| tunnel.why.clone()).unwrap_or_default(),
                }),
                spis: tunnel.iter().flat_map(|t| &t.spis).map(|spi| format!("{spi:#010x}")).collect(),
            })
        };
        pairs.filter_map(route).collect()
    }

    /// What passes untouched inside of wider prefixes that do not.
    fn exceptions(&self) -> Vec<String> {
        let scope = self.applied.scope();
        let mut exceptions = Vec::new();
        for (destination, sources) in &scope.0 {
            if sources.is_empty() {
                exceptions.push(destination.to_string());
            }
            let untouched = sources.iter().filter(|(_, rule)| rule.is_none());
            exceptions.extend(untouched.map(|(source, _)| pair_of(&(*destination, *source))));
        }
        exceptions
    }

    fn late_counters(&self) -> BTreeMap<String, u64> {
        let Some(program) = &self.late else { return BTreeMap::new() };
        let counters = program.counters().unwrap_or_default();
        Late::ALL.iter().zip(counters).map(|(late, count)| (late.label().to_owned(), count)).collect()
    }

    /// The deaf hosts, the busiest first.
    fn deaf(&self) -> Vec<DeafSnapshot> {
        let now = monotonic_ns();
        let mut hosts = self.program.deaf_hosts().unwrap_or_default();
        hosts.sort_by_key(|host| (Reverse(host.frames), host.address));
        let seconds = |ns: u64| now.saturating_sub(ns) as f64 / 1e9;
        let snapshot = |host: &DeafHost| DeafSnapshot {
            address: host.address.to_string(),
            since_s: seconds(host.since_ns),
            last_s: seconds(host.last_ns),
            frames: host.frames,
        };
        hosts.iter().map(snapshot).collect()
    }
}
