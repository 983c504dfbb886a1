//! Routes, as far as they decide which packets go into which tunnel.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::facts::Kernel;
use crate::ipsec::scope::{Device, Facts, Hop, longest, prefixes_around};
use crate::net::links::{Link, Tunnel};
use crate::net::{route, sysctl};

/// With `--mtu N` the kernel is asked for packets inside so many routes, at most: a default route that leads to a device
/// with a small MTU may have a full table inside.
const MOST_BY_HAND: usize = 2048;

/// The routes and rules of policy routing that matter.
#[derive(Debug, Default)]
pub(super) struct Routing {
    links: std::collections::BTreeMap<u32, Link>,
    routes: Vec<route::Route>,
    pub(super) rules: Vec<route::Rule>,
    own: BTreeSet<IpNet>,
    /// Prefixes of routes that lead into a tunnel, or have something else to them: the kernel is asked for what is
    /// inside, and only for that.
    pub(super) special: BTreeSet<IpNet>,
    /// Interfaces where packets are not encrypted by policies of no interface.
    exempt: BTreeSet<u32>,
}

impl Routing {
    /// Reads them, of a machine where packets are made to fit `by_hand` bytes at most; nothing if no packet can go into any
    /// tunnel.
    pub(super) fn read(kernel: &Kernel, auto: bool, by_hand: Option<u16>) -> io::Result<Routing> {
        let own = kernel.local.iter().map(|address| IpNet::from(*address)).collect();
        let mut routing = Routing { links: kernel.links.clone(), own, ..Routing::default() };
        let sas = kernel.sas.iter().filter_map(|(_, sa)| sa.as_ref().ok()).map(|sa| sa.mtu);
        let sas = sas.filter(|_| auto).chain(by_hand.map(u32::from));
        let Some(largest) = sas.max() else { return Ok(routing) };
        let everywhere = sysctl::number("net/ipv4/conf/all/disable_xfrm") == Some(1);
        let exempt = kernel.links.values().filter(|link| {
            everywhere || sysctl::number(&format!("net/ipv4/conf/{}/disable_xfrm", link.name)) == Some(1)
        });
        routing.exempt = exempt.map(|link| link.index).collect();
        routing.routes = route::all()?;
        routing.rules = route::rules()?;
        let by_device = kernel.policies.iter().any(|policy| policy.oif != 0);
        let special = |hop: &route::Hop| {
            by_device
                || hop.mtu.is_some()
                || routing.exempt.contains(&hop.oif)
                || kernel.links.get(&hop.oif).is_some_and(|link| link.tunnel.is_some() || link.mtu <= largest)
        };
        let routes = routing.routes.iter().filter(|route| !route.local && route.hops.iter().any(&special));
        routing.special = routes.map(|route| route.destination).collect();
        let inside = |route: &&route::Route| !route.local && routing.is_special(route.destination);
        if !auto && routing.routes.iter().filter(inside).count() > MOST_BY_HAND {
            routing.special.clear();
        }
        Ok(routing)
    }

    fn is_special(&self, prefix: IpNet) -> bool {
        prefixes_around(prefix).any(|prefix| self.special.contains(&prefix))
    }

    /// What asks for more than addresses before a route of IPv4 is chosen: a clause.
    pub(super) fn asks(&self) -> Option<String> {
        let asks = self.rules.iter().any(|rule| rule.v4 && rule.more);
        asks.then(|| {
            "a rule of policy routing (ip rule) asks for a mark, a protocol, ports or TOS".to_owned()
        })
    }

    /// Where routing may differ, of what `lan` receives.
    pub(super) fn add_to(&self, facts: &mut Facts, lan: &Link) {
        facts.own = self.own.clone();
        if self.special.is_empty() {
            return;
        }
        for route in self.routes.iter().filter(|route| !route.local) {
            if self.is_special(route.destination) {
                facts.route_destinations.insert(route.destination);
                facts.route_sources.extend(route.source);
            }
        }
        for rule in &self.rules {
            facts.route_destinations.extend(rule.destination);
            facts.route_sources.extend(rule.source);
        }
        // Host routes of the local table: addresses that no LAN host has, network and broadcast addresses among them.
        let hosts = self.routes.iter().filter(|route| route.local).map(|route| route.destination);
        facts.own.extend(hosts.filter(|net| net.prefix_len() == net.max_prefix_len()));
        facts.lan = self.lan_routes(lan).map(|(prefix, _)| prefix).collect();
    }

    /// The hops of packets from one address, behind `lan`, to another.
    pub(super) fn hops(&self, lan: &Link, source: IpAddr, destination: IpAddr) -> io::Result<Vec<Hop>> {
        if !self.is_special(destination.into()) {
            return Ok(vec![Hop::default()]);
        }
        let behind = self.lan_routes(lan).collect();
        let iif = longest(&behind, source).copied().or(lan.master).unwrap_or(lan.index);
        let Some(route) = route::forward(iif, source, destination)? else { return Ok(Vec::new()) };
        let hop = |hop: &route::Hop| self.hop(hop, route.encap, destination.is_ipv4());
        Ok(route.hops.iter().map(hop).collect())
    }

    fn hop(&self, hop: &route::Hop, encap: bool, v4: bool) -> Hop {
        let link = self.links.get(&hop.oif);
        let device = match link.map(|link| (link, link.tunnel)) {
            Some((link, Some(tunnel))) if !encap && tunnel != Tunnel::External => Device::Tunnel {
                name: link.name.clone(),
                if_id: if let Tunnel::IfId(id) = tunnel { id } else { 0 },
                mark: if let Tunnel::Mark(mark) = tunnel { Some(mark) } else { None },
                lower: link.lower.unwrap_or(0),
            },
            _ => Device::Plain,
        };
        Hop {
            oif: hop.oif,
            name: link.map(|link| link.name.clone()).unwrap_or_default(),
            device,
            mtu: hop.mtu.or(link.map(|link| link.mtu)).unwrap_or(u32::MAX),
            mtu_of_route: hop.mtu.is_some(),
            encap,
            exempt: v4 && self.exempt.contains(&hop.oif),
        }
    }

    /// The networks behind `lan`, its VLANs and its bridge, each with the interface that receives from it.
    fn lan_routes(&self, lan: &Link) -> impl Iterator<Item = (IpNet, u32)> {
        let mut behind = BTreeSet::from([lan.index]);
        behind.extend(lan.master);
        // A VLAN may be on a VLAN.
        for _ in 0..2 {
            let on_top = self.links.values().filter(|link| link.is("vlan"));
            let on_top: Vec<u32> = on_top
                .filter(|link| link.lower.is_some_and(|lower| behind.contains(&lower)))
                .map(|link| link.index)
                .collect();
            behind.extend(on_top);
        }
        self.routes.iter().filter(|route| !route.local).filter_map(move |route| {
            let oif = route.hops.iter().map(|hop| hop.oif).find(|oif| behind.contains(oif))?;
            (route.destination.prefix_len() > 0).then_some((route.destination, oif))
        })
    }
}
