//! Which packets go into which tunnel: from policies, SAs and routes to a table of prefixes.
//!
//! The kernel decides packet by packet (`xfrm_lookup_with_ifid()`): by the out-device of the route and by the
//! first policy, in order of priority, that selects the packet. The table says the same ahead of time. Where the
//! kernel looks at what a table of prefixes has not (ports, marks), a packet is said to go into a tunnel
//! only if it does so in every case.

mod egress;
mod lookup;
mod prefixes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::ways::{Asked, Choice, Circumstances, Rules, Wide, choose};
use crate::packet::Ways;
pub use prefixes::{any, longest, prefixes_around};
use prefixes::{gap, of_family};

/// An SA that packets may leave by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sa {
    /// Security parameters index.
    pub spi: u32,
    /// SA MTU, bytes.
    pub mtu: u32,
}

/// What a policy does with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the packet goes on as it is (a policy without templates).
    Allow,
    /// Drops it.
    Block,
    /// Encrypts it with one of these SAs, of tunnel mode. While there is none the packet is held or dropped.
    Protect(Vec<Sa>),
    /// Something that no packet of a LAN host takes part in, or of which the SA MTU is not known: transport mode,
    /// IPComp, nested tunnels.
    Other,
}

/// A value under a mask: `packet mark & mask == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Value.
    pub value: u32,
    /// Mask; 0 fits every packet.
    pub mask: u32,
}

/// A policy for packets that leave (`struct xfrm_policy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Source prefix.
    pub src: IpNet,
    /// Destination prefix, of the same family.
    pub dst: IpNet,
    /// The lowest number comes first.
    pub priority: u32,
    /// Of those with one priority the oldest comes first.
    pub index: u32,
    /// XFRM interface that it belongs to; 0 for none.
    pub if_id: u32,
    /// Packet mark that it asks for.
    pub mark: Mark,
    /// Out-device that it asks for; 0 for any.
    pub oif: u32,
    /// It selects by protocol, port, ICMP type or user, too.
    pub upper: bool,
    /// IP protocol that it asks for; 0 for any.
    pub protocol: u8,
    /// It asks for what fragments lack: ports, an ICMP type.
    pub ports: bool,
    /// What it does.
    pub action: Action,
}

/// What an out-device does with packets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Device {
    /// Sends them.
    #[default]
    Plain,
    /// An XFRM interface, or a VTI: encrypts them by the policies of its own, and drops the others.
    Tunnel {
        /// Its name.
        name: String,
        /// `if_id` of its policies.
        if_id: u32,
        /// Mark that packets get before they are looked up (VTI).
        mark: Option<u32>,
        /// Index of the interface below, which policies see as the out-device.
        lower: u32,
    },
}

/// Where a route leads; a packet takes one of its hops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Index of the out-device.
    pub oif: u32,
    /// Its name.
    pub name: String,
    /// What it does.
    pub device: Device,
    /// MTU of the route or of the device, bytes.
    pub mtu: u32,
    /// It is that of the route.
    pub mtu_of_route: bool,
    /// The route itself describes a tunnel (`encap`).
    pub encap: bool,
    /// Policies of no interface do not apply there (`disable_xfrm`).
    pub exempt: bool,
}

/// What the user says of a destination prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It is in scope: follow the kernel (`--dst CIDR`).
    Follow,
    /// Packets to it are made to fit this MTU, whatever the kernel does with them (`--dst CIDR=BYTES`).
    Fixed(u16),
}

/// All that the table depends on.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Policies, in any order.
    pub policies: Vec<Policy>,
    /// Destination prefixes within which routing is the same, but for the longer ones among them.
    pub route_destinations: BTreeSet<IpNet>,
    /// The same for sources (policy routing).
    pub route_sources: BTreeSet<IpNet>,
    /// Addresses that no host has which sends or receives forwarded packets: this machine's own.
    pub own: BTreeSet<IpNet>,
    /// Networks on the LAN: where there is a choice, routes are asked for packets from there.
    pub lan: BTreeSet<IpNet>,
    /// What the user says. If somewhere is [`Wish::Follow`], nothing else is followed.
    pub wishes: BTreeMap<IpNet, Wish>,
    /// The kernel's tunnels are followed where the user says nothing.
    pub follow: bool,
    /// What asks for more than addresses before a route is chosen: a clause.
    pub routing_asks: Option<String>,
    /// Packets may carry a mark before they are routed.
    pub marks: bool,
    /// A worker can hand a datagram back for the kernel to cut.
    pub tap: bool,
}

/// Why packets are in the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// A policy.
    Policy,
    /// A route over this XFRM interface or VTI.
    Interface(String),
    /// The user.
    Hand,
}

/// What packets go into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Largest packet that fits each of the SAs, bytes.
    pub mtu: u16,
    /// Why.
    pub via: Via,
    /// SPIs of the SAs; several during a rekey.
    pub spis: BTreeSet<u32>,
    /// By which ways IPv4 packets are made to fit.
    pub ways: Ways,
    /// Why by these, in words; empty for IPv6.
    pub why: String,
    /// What alone is in the way of [`Way::Edit`](crate::packet::Way::Edit).
    pub wide: Option<Wide>,
}

/// By source prefix; `None` passes untouched, and so does what no prefix holds.
pub type Sources = BTreeMap<IpNet, Option<Tunnel>>;

/// By destination prefix. The longest prefix that holds the destination, and of its sources the longest that holds
/// the source, says what happens; what none holds passes untouched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(pub BTreeMap<IpNet, Sources>);

impl Table {
    /// The tunnel of packets between two addresses.
    pub fn tunnel(&self, source: IpAddr, destination: IpAddr) -> Option<&Tunnel> {
        let sources = longest(&self.0, destination)?;
        longest(sources, source)?.as_ref()
    }
}

/// What the table is made with beside the [`Facts`].
pub trait Lookups {
    /// Why the kernel does not answer.
    type Error;

    /// The hops of packets from one address to another, none for no route; asked once for each pair of prefixes that may
    /// differ.
    ///
    /// # Errors
    /// If the kernel does not answer.
    fn route(&mut self, source: IpAddr, destination: IpAddr) -> Result<Vec<Hop>, Self::Error>;

    /// What the firewall makes of IPv4 packets between two prefixes; `encrypted` if a policy of no interface encrypts them
    /// for sure.
    fn rules(&mut self, source: IpNet, destination: IpNet, encrypted: bool) -> Rules;
}

/// Makes the table.
///
/// # Errors
/// The first that [`Lookups::route`] returns.
pub fn compile<L: Lookups>(facts: &Facts, lookups: &mut L) -> Result<Table, L::Error> {
    let mut policies: Vec<&Policy> = facts.policies.iter().collect();
    policies.sort_by_key(|policy| (policy.priority, policy.index));
    let mut table = Table::default();
    for family in [any(true), any(false)] {
        let mut destinations = BTreeSet::from([family]);
        destinations.extend(of_family(family, policies.iter().map(|policy| &policy.dst)));
        destinations.extend(of_family(family, &facts.route_destinations));
        destinations.extend(of_family(family, facts.wishes.keys()));
        // Wider ones first, so that a longer one can be left out where it says the same.
        let mut in_order: Vec<IpNet> = destinations.iter().copied().collect();
        in_order.sort_by_key(IpNet::prefix_len);
        for prefix in in_order {
            let Some(destination) = gap(prefix, &destinations, &facts.own) else { continue };
            let sources = match facts.wish(prefix) {
                None => Sources::new(),
                // Nothing is cut for IPv6, whatever its way.
                Some(Wish::Fixed(mtu)) if !family.addr().is_ipv4() => {
                    Sources::from([(family, Some(Tunnel::by_hand(mtu)))])
                }
                Some(wish) => {
                    let covering: Vec<_> =
                        policies.iter().filter(|policy| policy.dst.contains(&prefix)).copied().collect();
                    sources(prefix, destination, &covering, facts, wish, lookups)?
                }
            };
            let around = longest(&table.0, destination);
            let named = matches!(facts.wishes.get(&prefix), Some(Wish::Fixed(_)));
            if named || sources != around.cloned().unwrap_or_default() {
                table.0.insert(prefix, sources);
            }
        }
    }
    Ok(table)
}

impl Tunnel {
    fn by_hand(mtu: u16) -> Tunnel {
        let (spis, why) = (BTreeSet::new(), String::new());
        Tunnel { mtu, via: Via::Hand, spis, ways: Ways::default(), why, wide: None }
    }
}

impl Default for Hop {
    /// A device that does nothing with packets, and of which no more is known.
    fn default() -> Hop {
        Hop {
            oif: 0,
            name: String::new(),
            device: Device::Plain,
            mtu: u32::MAX,
            mtu_of_route: false,
            encap: false,
            exempt: false,
        }
    }
}

impl Facts {
    /// What the user says of packets to `prefix`; `None` if they are out of scope.
    fn wish(&self, prefix: IpNet) -> Option<Wish> {
        let said = self.wishes.iter().filter(|(wide, _)| wide.contains(&prefix));
        match said.max_by_key(|(wide, _)| wide.prefix_len()) {
            Some((_, wish)) => Some(*wish),
            None => {
                let all = self.follow && !self.wishes.values().any(|wish| *wish == Wish::Follow);
                all.then_some(Wish::Follow)
            }
        }
    }
}

/// What holds for each source, to `destination` in `to`, which all of `policies` select.
fn sources<L: Lookups>(
    to: IpNet,
    destination: IpAddr,
    policies: &[&Policy],
    facts: &Facts,
    wish: Wish,
    lookups: &mut L,
) -> Result<Sources, L::Error> {
    let family = any(to.addr().is_ipv4());
    let mut prefixes = BTreeSet::from([family]);
    prefixes.extend(policies.iter().map(|policy| policy.src));
    prefixes.extend(of_family(family, &facts.route_sources));
    let mut in_order: Vec<IpNet> = prefixes.iter().copied().collect();
    in_order.sort_by_key(IpNet::prefix_len);
    let mut sources = Sources::new();
    for prefix in in_order {
        let on_lan =
            facts.lan.iter().filter(|net| prefix.contains(*net) && **net != prefix).find_map(|net| {
                // A network in a longer prefix than this one stands for that.
                let longer =
                    |other: &&IpNet| prefix.contains(*other) && **other != prefix && other.contains(net);
                prefixes.iter().find(longer).is_none().then(|| gap(*net, &prefixes, &facts.own))?
            });
        let Some(source) = on_lan.or_else(|| gap(prefix, &prefixes, &facts.own)) else { continue };
        let selecting: Vec<_> =
            policies.iter().filter(|policy| policy.src.contains(&prefix)).copied().collect();
        let hops = lookups.route(source, destination)?;
        let goal = lookup::tunnel(&selecting, &hops);
        let always = goal.as_ref().is_some_and(|goal| goal.always);
        let tunnel = match wish {
            Wish::Fixed(mtu) => Some(Tunnel::by_hand(mtu)),
            Wish::Follow => {
                goal.map(|lookup::Goal { mtu, via, spis, .. }| Tunnel { via, spis, ..Tunnel::by_hand(mtu) })
            }
        };
        let tunnel = tunnel.map(|tunnel| match family.addr().is_ipv4() {
            true => tunnel.choose(&selecting, &hops, facts, || lookups.rules(prefix, to, always)),
            false => tunnel,
        });
        if tunnel.as_ref() != longest(&sources, source).and_then(Option::as_ref) {
            sources.insert(prefix, tunnel);
        }
    }
    Ok(sources)
}

impl Tunnel {
    /// With the ways of packets that all of `policies` select by address.
    fn choose(
        self,
        policies: &[&Policy],
        hops: &[Hop],
        facts: &Facts,
        rules: impl FnOnce() -> Rules,
    ) -> Tunnel {
        let edit = match facts.routing_asks {
            None => egress::edit(policies, hops, self.mtu, facts.marks),
            // They may take another route than the one that is known.
            Some(_) => Err(None),
        };
        let (edit, wide) = match edit {
            Ok(why) => (Some(why), None),
            Err(wide) => (None, wide),
        };
        let routing = facts.routing_asks.clone().map_or_else(Asked::default, Asked::both);
        let seen = Circumstances {
            rules: if edit.is_some() { Rules::default() } else { rules() },
            edit,
            asked: egress::asked_ahead(policies).or(routing),
            asked_behind: egress::asked_behind(policies, hops, facts.routing_asks.is_none()),
            tap: facts.tap,
        };
        let Choice { ways, why } = choose(&seen);
        Tunnel { ways, why, wide, ..self }
    }
}

#[cfg(test)]
mod tests;
