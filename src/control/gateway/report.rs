//! What a gateway says of itself.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::Gateway;
use crate::observe::snapshot::{DeafSnapshot, InterfaceSnapshot, RouteSnapshot};
use crate::packet::{Edit, Late, Reason};
use crate::worker::Worker;
use crate::worker::clock::monotonic_ns;
use crate::xdp::DeafHost;

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

    /// State and counters at this moment.
    pub fn snapshot(&self) -> InterfaceSnapshot {
        // Reading a map of our own fails only if the kernel is out of memory: zeros then.
        let counters = self.program.counters().unwrap_or_default();
        let egress = self.clamp.counters().unwrap_or_default();
        InterfaceSnapshot {
            name: self.name().to_owned(),
            mode: self.mode.label().to_owned(),
            handback: self.handback.to_owned(),
            routes: self
                .treatment
                .scope
                .iter()
                .map(|(prefix, rule)| RouteSnapshot {
                    prefix: prefix.to_string(),
                    mtu: rule.mtu,
                    mss4: rule.mss4.filter(|_| matches!(prefix, IpNet::V4(_))),
                    mss6: rule.mss6.filter(|_| matches!(prefix, IpNet::V6(_))),
                })
                .collect(),
            deaf: self.deaf(),
            xdp: Reason::ALL.iter().map(|r| (r.label().to_owned(), counters.reason(*r))).collect(),
            xdp_edits: Edit::ALL.iter().map(|e| (e.label().to_owned(), counters.edit(*e))).collect(),
            late: self.late_counters(),
            egress_mss: egress.edit(Edit::Mss),
            workers: self.workers.iter().map(Worker::snapshot).collect(),
        }
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
