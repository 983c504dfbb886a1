//! Which packets go into which tunnel: from policies, SAs and routes to a table of prefixes.
//!
//! The kernel decides packet by packet (`xfrm_lookup_with_ifid()`): by the out-device of the route and by the
//! first policy, in order of priority, that selects the packet. The table says the same ahead of time. Where the
//! kernel looks at what a table of prefixes has not (ports, marks), a packet is said to go into a tunnel
//! only if it does so in every case.

mod prefixes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

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
    /// What it does.
    pub action: Action,
}

/// What an out-device does with packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// Sends them.
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
    /// What it does.
    pub device: Device,
    /// MTU of the route or of the device, bytes.
    pub mtu: u32,
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

/// Makes the table. `route` tells the hops of packets from one address to another, none for no route; it is asked once
/// for each pair of prefixes that may differ.
///
/// # Errors
/// The first that `route` returns.
pub fn compile<E>(
    facts: &Facts,
    mut route: impl FnMut(IpAddr, IpAddr) -> Result<Vec<Hop>, E>,
) -> Result<Table, E> {
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
                Some(Wish::Fixed(mtu)) => {
                    let tunnel = Tunnel { mtu, via: Via::Hand, spis: BTreeSet::new() };
                    Sources::from([(family, Some(tunnel))])
                }
                Some(Wish::Follow) => {
                    let covering: Vec<_> =
                        policies.iter().filter(|policy| policy.dst.contains(&prefix)).copied().collect();
                    sources(family, &covering, facts, |source| route(source, destination))?
                }
            };
            let around = longest(&table.0, destination);
            if sources != around.cloned().unwrap_or_default() {
                table.0.insert(prefix, sources);
            }
        }
    }
    Ok(table)
}

impl Facts {
    /// What the user says of packets to `prefix`; `None` if they are out of scope.
    fn wish(&self, prefix: IpNet) -> Option<Wish> {
        let said = self.wishes.iter().filter(|(wide, _)| wide.contains(&prefix));
        match said.max_by_key(|(wide, _)| wide.prefix_len()) {
            Some((_, wish)) => Some(*wish),
            None => (!self.wishes.values().any(|wish| *wish == Wish::Follow)).then_some(Wish::Follow),
        }
    }
}

/// What holds for each source, to a destination that all of `policies` select.
fn sources<E>(
    family: IpNet,
    policies: &[&Policy],
    facts: &Facts,
    mut route: impl FnMut(IpAddr) -> Result<Vec<Hop>, E>,
) -> Result<Sources, E> {
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
        let tunnel = tunnel(&selecting, &route(source)?);
        if tunnel.as_ref() != longest(&sources, source).and_then(Option::as_ref) {
            sources.insert(prefix, tunnel);
        }
    }
    Ok(sources)
}

/// The tunnel of packets that all of `policies` select by address; `None` unless it is one in every case.
fn tunnel(policies: &[&Policy], hops: &[Hop]) -> Option<Tunnel> {
    let mut found: Option<Tunnel> = None;
    for hop in hops {
        let encrypted = match hop.exempt {
            true => vec![Outcome::Unchanged],
            false => lookup(policies, 0, None, hop.oif),
        };
        for outcome in encrypted {
            match outcome {
                Outcome::Encrypted(sas) => add(&mut found, sas, hop.mtu, &Via::Policy)?,
                Outcome::Lost => return None,
                Outcome::Unchanged => {
                    let Device::Tunnel { name, if_id, mark, lower } = &hop.device else { return None };
                    for outcome in lookup(policies, *if_id, *mark, *lower) {
                        let Outcome::Encrypted(sas) = outcome else { return None };
                        add(&mut found, sas, hop.mtu, &Via::Interface(name.clone()))?;
                    }
                }
            }
        }
    }
    found
}

/// What may become of a packet at one lookup.
enum Outcome<'a> {
    /// It leaves by one of these SAs.
    Encrypted(&'a [Sa]),
    /// It goes on as it is.
    Unchanged,
    /// It is dropped, held, or otherwise not to be touched.
    Lost,
}

/// `xfrm_policy_lookup_bytype()` for packets of which marks (unless `mark` says) and ports are not known.
fn lookup<'a>(policies: &[&'a Policy], if_id: u32, mark: Option<u32>, oif: u32) -> Vec<Outcome<'a>> {
    let mut outcomes = Vec::new();
    for policy in policies {
        let Mark { value, mask } = policy.mark;
        let selected = match mark {
            Some(mark) => mark & mask == value,
            None => mask != 0 || value == 0,
        };
        if policy.if_id != if_id || !selected || (policy.oif != 0 && policy.oif != oif) {
            continue;
        }
        outcomes.push(match &policy.action {
            Action::Allow => Outcome::Unchanged,
            Action::Protect(sas) if !sas.is_empty() => Outcome::Encrypted(sas),
            Action::Protect(_) | Action::Block | Action::Other => Outcome::Lost,
        });
        if !policy.upper && (mask == 0 || mark.is_some()) {
            return outcomes;
        }
    }
    outcomes.push(Outcome::Unchanged);
    outcomes
}

/// Adds SAs to a tunnel, whose MTU is then the least of all and of the way to them. `None` if nothing fits.
fn add(tunnel: &mut Option<Tunnel>, sas: &[Sa], route_mtu: u32, via: &Via) -> Option<()> {
    let mtu = sas.iter().map(|sa| sa.mtu).fold(route_mtu, u32::min).min(u16::MAX.into());
    let mtu = u16::try_from(mtu).ok().filter(|mtu| *mtu > 0)?;
    let spis = sas.iter().map(|sa| sa.spi);
    match tunnel {
        None => *tunnel = Some(Tunnel { mtu, via: via.clone(), spis: spis.collect() }),
        Some(tunnel) => {
            tunnel.mtu = tunnel.mtu.min(mtu);
            tunnel.spis.extend(spis);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests;
