//! What is in scope, as the kernel's tunnels (`--mtu auto`), its routes and its rules have it, and by which ways.

mod advice;
mod facts;
mod routing;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::conntrack::{self, Exempt};
use crate::config::values::Mss;
use crate::config::{Auto, Plan, Scope, Treatment, validate};
use crate::ipsec::scope::{self, Hop, Table, Tunnel, Via, Wish};
use crate::ipsec::ways::{Asked, Rules, Tracking};
use crate::net::links::Link;
use crate::packet::Rule;
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
    /// Reads what `plan` depends on, in the network namespace of the calling thread. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// If the kernel refuses (EPROTONOSUPPORT: it has no XFRM, and `plan` says `--mtu auto`).
    pub fn read(plan: &Plan) -> io::Result<Tunnels> {
        let auto = plan.auto.is_some();
        let kernel = Kernel::read(!auto)?;
        let by_hand = plan.treatment.scope.iter().map(|(_, rule)| rule.mtu).max();
        let routing = Routing::read(&kernel, auto, by_hand)?;
        Ok(Tunnels { kernel, routing })
    }

    /// A rule of policy routing that asks for more than addresses: a clause.
    pub fn routing_asks(&self) -> Option<String> {
        self.routing.asks()
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
        let policies = Kernel::read(false)?.policies().into_iter();
        let protected = policies.filter(|policy| matches!(&policy.action, scope::Action::Protect(_)));
        let routed = |policy: &scope::Policy| policy.if_id != 0 || policy.mark.mask != 0;
        Ok(protected.map(|policy| Protected { to: policy.dst, routed: routed(&policy) }).collect())
    }
}

/// The machine at one moment: all that decides what packets of a LAN interface go into, and by which ways.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Tunnels, routes and interfaces.
    pub tunnels: &'a Tunnels,
    /// Rules; or why they are not known.
    pub machine: Result<&'a conntrack::Machine, &'a io::Error>,
    /// What is exempt from connection tracking.
    pub exempt: &'a Exempt,
    /// A worker can hand a datagram back for the kernel to cut.
    pub tap: bool,
}

impl Seen<'_> {
    /// The scope of what `lan` receives. No rule for what goes into the kernel's tunnels has an MTU above `longest` bytes.
    ///
    /// # Errors
    /// If the kernel does not answer for a route, or there are more prefixes than the maps can take.
    pub fn scope(
        &self,
        lan: &Link,
        auto: Option<&Auto>,
        by_hand: &Treatment,
        longest: u16,
    ) -> io::Result<Found> {
        let Tunnels { kernel, routing } = self.tunnels;
        let within = auto.iter().flat_map(|auto| &auto.within);
        let mut wishes: BTreeMap<IpNet, Wish> = within.map(|prefix| (*prefix, Wish::Follow)).collect();
        wishes.extend(by_hand.scope.iter().map(|(prefix, rule)| (*prefix, Wish::Fixed(rule.mtu))));
        let mut facts = scope::Facts {
            policies: kernel.policies(),
            wishes,
            follow: auto.is_some(),
            routing_asks: routing.asks(),
            marks: self.machine.map_or(true, conntrack::Machine::marks),
            tap: self.tap,
            ..scope::Facts::default()
        };
        routing.add_to(&mut facts, lan);
        let table = scope::compile(&facts, &mut Lookups { seen: self, lan })?;
        let rule = |prefix: IpNet, tunnel: &Tunnel| {
            // The longest prefix is the first.
            let given =
                by_hand.scope.iter().find(|(wide, _)| tunnel.via == Via::Hand && wide.contains(&prefix));
            let mss = auto.map_or(Mss::Off, |auto| auto.mss);
            let rule = given.map(|(_, rule)| *rule);
            let rule = rule.unwrap_or_else(|| validate::rule(prefix, tunnel.mtu.min(longest), mss));
            Rule { ways: tunnel.ways, ..rule }
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
        let room = (layout::MAX_ROUTES - kernel.local.len().min(layout::MAX_ROUTES)) / 2;
        if rows > room {
            let message = format!("{rows} prefixes, of which the maps take {room}: restrict them with --dst");
            return Err(io::Error::other(message));
        }
        Ok(Found { table, scope })
    }
}

/// Asks the kernel for packets of one LAN interface.
struct Lookups<'a> {
    seen: &'a Seen<'a>,
    lan: &'a Link,
}

impl scope::Lookups for Lookups<'_> {
    type Error = io::Error;

    fn route(&mut self, source: IpAddr, destination: IpAddr) -> io::Result<Vec<Hop>> {
        self.seen.tunnels.routing.hops(self.lan, source, destination)
    }

    fn rules(&mut self, source: IpNet, destination: IpNet, encrypted: bool) -> Rules {
        match (self.seen.machine, source, destination) {
            (Ok(machine), IpNet::V4(source), IpNet::V4(destination)) => {
                machine.rules(self.lan, (source, destination), encrypted, self.seen.exempt)
            }
            (Err(error), ..) => Rules {
                asked: Asked::both(format!("the rules of the firewall cannot be read ({error})")),
                tracking: Tracking::Possible,
                queue: Some("one of them may queue packets to user space".to_owned()),
            },
            _ => Rules::default(),
        }
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

/// One line for each prefix for which something else holds than before, and one for its ways.
pub fn changes(before: &Table, now: &Table) -> Vec<String> {
    let (rows_before, rows_now) = (rows(before), rows(now));
    let mut lines = Vec::new();
    for (pair, tunnel) in &rows_now {
        let was = rows_before.get(pair).copied();
        let of = |tunnel: &&Tunnel| (tunnel.mtu, tunnel.via.clone(), tunnel.spis.clone());
        if tunnel.via != Via::Hand && was.as_ref().map(of) != Some(of(tunnel)) {
            let was = was.filter(|was| was.mtu != tunnel.mtu).map(|was| format!(", was {}", was.mtu));
            lines.push(format!(
                "auto: {}: SA MTU {} ({}{})",
                pair_of(pair),
                tunnel.mtu,
                why(tunnel),
                was.unwrap_or_default()
            ));
        }
        lines.extend(way(pair, tunnel, within(before, pair)));
    }
    for (pair, was) in rows_before.iter().filter(|(pair, _)| !rows_now.contains_key(*pair)) {
        match within(now, pair) {
            Some(tunnel) => lines.extend(way(pair, tunnel, Some(was))),
            None if was.via == Via::Hand => {}
            None => lines.push(format!(
                "auto: {}: no tunnel any more, passes untouched (SA MTU was {})",
                pair_of(pair),
                was.mtu
            )),
        }
    }
    lines
}

/// What holds for packets between two prefixes.
fn within<'a>(table: &'a Table, (destination, source): &(IpNet, IpNet)) -> Option<&'a Tunnel> {
    table.tunnel(source.network(), destination.network())
}

/// The ways of packets between two prefixes, if they were others before.
fn way(pair: &(IpNet, IpNet), tunnel: &Tunnel, was: Option<&Tunnel>) -> Option<String> {
    let was = was.map(|was| was.ways);
    // Nothing is cut for IPv6.
    if tunnel.why.is_empty() || was == Some(tunnel.ways) {
        return None;
    }
    let was = was.map(|was| format!(", was {was}")).unwrap_or_default();
    Some(format!("way to {}: {}{was}: {}", pair_of(pair), tunnel.ways, tunnel.why))
}

/// What is in scope, by destination and source.
fn rows(table: &Table) -> BTreeMap<(IpNet, IpNet), &Tunnel> {
    let rows = table.0.iter().flat_map(|(destination, sources)| {
        sources.iter().filter_map(|(source, tunnel)| Some(((*destination, *source), tunnel.as_ref()?)))
    });
    rows.collect()
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
    use crate::packet::Ways;

    fn tunnel_of(table: &Table) -> &Tunnel {
        table.0.values().flat_map(BTreeMap::values).flatten().next().unwrap()
    }

    #[test]
    fn a_change_is_one_line() {
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let table = |rows: &[(&str, &str, u16, &[u32])]| {
            let mut table = Table::default();
            for (to, from, mtu, spis) in rows {
                let spis = spis.iter().copied().collect();
                let (via, why) = (Via::Policy, "nobody asks".to_owned());
                let tunnel = Tunnel { mtu: *mtu, via, spis, ways: Ways::default(), why, wide: None };
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
                "auto: 10.1.0.0/16 from 10.2.0.0/16: SA MTU 1438 (SPI 0x00000001)",
                "way to 10.1.0.0/16 from 10.2.0.0/16: fragments: nobody asks",
                "auto: 10.3.0.0/16: SA MTU 1400 (SPI 0x00000005)",
                "way to 10.3.0.0/16: fragments: nobody asks"
            ]
        );
        let new = table(&[("10.1.0.0/16", "10.2.0.0/16", 1422, &[1, 2])]);
        assert_eq!(
            changes(&old, &new),
            [
                "auto: 10.1.0.0/16 from 10.2.0.0/16: SA MTU 1422 (SPI 0x00000001, 0x00000002, was 1438)",
                "auto: 10.3.0.0/16: no tunnel any more, passes untouched (SA MTU was 1400)"
            ]
        );
        assert!(changes(&new, &new).is_empty());
        let mut other = new.clone();
        for tunnel in other.0.values_mut().flat_map(BTreeMap::values_mut).flatten() {
            (tunnel.ways, tunnel.why) = (Ways::EDIT, "xfrm0 has MTU 1422".to_owned());
        }
        let line = "way to 10.1.0.0/16 from 10.2.0.0/16: edit, was fragments: xfrm0 has MTU 1422";
        assert_eq!(changes(&new, &other), [line]);
        // What is served by hand with one way around another: it comes with the way, and goes with it.
        let by_hand = |rows: &[(&str, Ways)]| {
            let mut table = Table::default();
            for (to, ways) in rows {
                let tunnel = Tunnel { via: Via::Hand, ways: *ways, ..tunnel_of(&new).clone() };
                table.0.insert(net(to), BTreeMap::from([(net("0.0.0.0/0"), Some(tunnel))]));
            }
            table
        };
        let all = ("0.0.0.0/0", Ways::FRAGMENTS);
        let (one, two) = (by_hand(&[all]), by_hand(&[all, ("10.1.0.0/16", Ways::EDIT)]));
        assert_eq!(changes(&none, &one), ["way to 0.0.0.0/0: fragments: nobody asks"]);
        assert_eq!(changes(&one, &two), ["way to 10.1.0.0/16: edit, was fragments: nobody asks"]);
        assert_eq!(changes(&two, &one), ["way to 10.1.0.0/16: fragments, was edit: nobody asks"]);
    }
}
