//! `--mtu auto`: the kernel's tunnels as a scope.

mod advice;
mod facts;
mod routing;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use ipnet::IpNet;

use crate::config::{Auto, Scope, Treatment, validate};
use crate::ipsec::scope::{self, Table, Tunnel, Via, Wish};
use crate::net::links::Link;
use crate::xdp::layout;
use facts::Kernel;
use routing::Routing;

/// What the tunnels of this machine make of the scope of one LAN interface.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Which packets go into which tunnel.
    pub table: Table,
    /// The rules for them.
    pub scope: Scope,
}

/// The kernel's tunnels at one moment.
#[derive(Debug)]
pub struct Tunnels {
    kernel: Kernel,
    routing: Routing,
}

impl Tunnels {
    /// Reads them, in the network namespace of the calling thread. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// If the kernel refuses (EPROTONOSUPPORT: it has no XFRM).
    pub fn read() -> io::Result<Tunnels> {
        let kernel = Kernel::read()?;
        let routing = Routing::read(&kernel)?;
        Ok(Tunnels { kernel, routing })
    }

    /// The scope of what `lan` receives. No rule has an MTU above `longest` bytes.
    ///
    /// # Errors
    /// If the kernel does not answer for a route, or there are more prefixes than the maps can take.
    pub fn scope(&self, lan: &Link, auto: &Auto, by_hand: &Treatment, longest: u16) -> io::Result<Found> {
        let mut wishes: BTreeMap<IpNet, Wish> =
            auto.within.iter().map(|prefix| (*prefix, Wish::Follow)).collect();
        wishes.extend(by_hand.scope.iter().map(|(prefix, rule)| (*prefix, Wish::Fixed(rule.mtu))));
        let mut facts = scope::Facts { policies: self.kernel.policies(), wishes, ..scope::Facts::default() };
        self.routing.add_to(&mut facts, lan);
        let table =
            scope::compile(&facts, |source, destination| self.routing.hops(lan, source, destination))?;
        let rule = |prefix: IpNet, tunnel: &Tunnel| {
            let given = by_hand.scope.iter().find(|(other, _)| tunnel.via == Via::Hand && *other == prefix);
            let rule = given.map(|(_, rule)| *rule);
            rule.unwrap_or_else(|| validate::rule(prefix, tunnel.mtu.min(longest), auto.mss))
        };
        let entry = |(destination, sources): (&IpNet, &scope::Sources)| {
            let sources = sources
                .iter()
                .map(|(source, tunnel)| (*source, tunnel.as_ref().map(|tunnel| rule(*destination, tunnel))));
            (*destination, sources.collect())
        };
        let scope = Scope(table.0.iter().map(entry).collect());
        // Addresses of this machine share the maps, and a change needs room for old and new.
        let rows = scope.0.values().map(|sources| sources.len().max(1)).sum::<usize>();
        let room = (layout::MAX_ROUTES - self.kernel.local.len().min(layout::MAX_ROUTES)) / 2;
        if rows > room {
            let message = format!("{rows} prefixes, of which the maps take {room}: restrict them with --dst");
            return Err(io::Error::other(message));
        }
        Ok(Found { table, scope })
    }

    /// What the user should know of tunnels that cannot be served, a line each.
    pub fn advice(&self, by_hand: &Treatment) -> Vec<String> {
        let served: BTreeSet<IpNet> = by_hand.scope.iter().map(|(prefix, _)| *prefix).collect();
        advice::advice(&self.kernel, &self.routing, &served)
    }

    /// Where the policies that encrypt lead.
    ///
    /// # Errors
    /// As [`read`](Tunnels::read).
    pub fn destinations() -> io::Result<BTreeSet<Protected>> {
        let policies = Kernel::read()?.policies().into_iter();
        let protected = policies.filter(|policy| matches!(&policy.action, scope::Action::Protect(_)));
        let routed = |policy: &scope::Policy| policy.if_id != 0 || policy.mark.mask != 0;
        Ok(protected.map(|policy| Protected { to: policy.dst, routed: routed(&policy) }).collect())
    }
}

/// What a policy encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protected {
    /// Its destination prefix.
    pub to: IpNet,
    /// Only packets that are routed into an XFRM interface or a VTI, or that are marked.
    pub routed: bool,
}

/// One line for each prefix for which something else holds than before.
pub fn changes(before: &Table, now: &Table) -> Vec<String> {
    let rows = |table: &Table| -> BTreeMap<(IpNet, IpNet), Tunnel> {
        let rows = table.0.iter().flat_map(|(destination, sources)| {
            sources.iter().filter_map(|(source, tunnel)| Some(((*destination, *source), tunnel.clone()?)))
        });
        rows.collect()
    };
    let (before, now) = (rows(before), rows(now));
    let mut lines = Vec::new();
    for (pair, tunnel) in &now {
        let was = before.get(pair);
        if was == Some(tunnel) || tunnel.via == Via::Hand {
            continue;
        }
        let was = was.filter(|was| was.mtu != tunnel.mtu).map(|was| format!(", was {}", was.mtu));
        lines.push(format!(
            "{}: SA MTU {} ({}{})",
            pair_of(pair),
            tunnel.mtu,
            why(tunnel),
            was.unwrap_or_default()
        ));
    }
    for (pair, was) in before.iter().filter(|(pair, was)| !now.contains_key(*pair) && was.via != Via::Hand) {
        lines.push(format!(
            "{}: no tunnel any more, passes untouched (SA MTU was {})",
            pair_of(pair),
            was.mtu
        ));
    }
    lines
}

/// What says so: the interface if there is one, and the SAs.
fn why(tunnel: &Tunnel) -> String {
    let spis: Vec<String> = tunnel.spis.iter().map(|spi| format!("{spi:#010x}")).collect();
    let spis = format!("SPI {}", spis.join(", "));
    match &tunnel.via {
        Via::Interface(name) => format!("{name}, {spis}"),
        Via::Policy => spis,
        Via::Hand => "by hand".into(),
    }
}

/// `10.1.0.0/16 from 10.2.0.0/16`, without a source that is everything.
pub fn pair_of((destination, source): &(IpNet, IpNet)) -> String {
    match source.prefix_len() {
        0 => destination.to_string(),
        _ => format!("{destination} from {source}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line() {
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let table = |rows: &[(&str, &str, u16, &[u32])]| {
            let mut table = Table::default();
            for (to, from, mtu, spis) in rows {
                let tunnel = Tunnel { mtu: *mtu, via: Via::Policy, spis: spis.iter().copied().collect() };
                table.0.entry(net(to)).or_default().insert(net(from), Some(tunnel));
            }
            table
        };
        let none = Table::default();
        let old =
            table(&[("10.1.0.0/16", "10.2.0.0/16", 1438, &[1]), ("10.3.0.0/16", "0.0.0.0/0", 1400, &[5])]);
        assert_eq!(
            changes(&none, &old),
            [
                "10.1.0.0/16 from 10.2.0.0/16: SA MTU 1438 (SPI 0x00000001)",
                "10.3.0.0/16: SA MTU 1400 (SPI 0x00000005)"
            ]
        );
        let new = table(&[("10.1.0.0/16", "10.2.0.0/16", 1422, &[1, 2])]);
        assert_eq!(
            changes(&old, &new),
            [
                "10.1.0.0/16 from 10.2.0.0/16: SA MTU 1422 (SPI 0x00000001, 0x00000002, was 1438)",
                "10.3.0.0/16: no tunnel any more, passes untouched (SA MTU was 1400)"
            ]
        );
        assert!(changes(&new, &new).is_empty());
    }
}
