//! Connection tracking puts fragments together again before routing (`nf_defrag_ipv4`). A policy-based gateway then
//! encrypts the whole packet and fragments the ESP; docs/conntrack.md has what was measured. Where no rule depends
//! on the connection of such fragments, or on ports that they lack, `run` exempts them; elsewhere it says what stands
//! in the way.

mod asks;
mod bits;
mod dependence;
mod exemption;
mod packets;
mod walk;
mod words;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

pub use asks::{Exempt, Silent};
pub use dependence::{Asks, Dependence};
pub use exemption::Exemption;

use crate::config::Notrack;
use crate::net::links::{self, Link};
use crate::net::nft::{Ruleset, Untracked, ruleset};
use crate::net::xfrm;

/// What the findings are about.
pub(super) const WHAT: &str = "conntrack";
/// Rules named in a message.
const NAMED: usize = 3;

/// What there is in this network namespace at one moment: rules, policies and interfaces.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    ruleset: Ruleset,
    legacy: Vec<String>,
    /// A program waits for packets that rules queue.
    queues: bool,
    tracking: bool,
    policies: Vec<xfrm::Policy>,
    links: Vec<Link>,
}

/// What connection tracking does to the fragments that an interface's gateway hands back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assessment {
    /// Connections are tracked in this network namespace.
    pub tracking: bool,
    /// TCP is fragmented, too.
    pub tcp: bool,
    /// Source and destination of what is put together again and then encrypted whole: of the policies without an
    /// xfrm interface, as far as they are in scope.
    pub undone: BTreeSet<(Ipv4Net, Ipv4Net)>,
    /// Rules that such packets, or the answers to them, meet and that need them tracked or whole: some of them, if
    /// they are many.
    pub dependences: BTreeSet<Dependence>,
    /// Tables of iptables-legacy, which nobody but iptables-legacy can read.
    pub legacy: Vec<String>,
    /// A rule of policy routing that asks for more than addresses, in words.
    pub routing_asks: Option<String>,
}

impl Machine {
    /// Looks around, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the kernel does not tell its rules, policies or interfaces.
    pub fn read() -> io::Result<Machine> {
        let ruleset = ruleset::read()?;
        let Silent { legacy, connections, queues } = Silent::read();
        let policies = match xfrm::policies() {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Vec::new(),
            policies => policies?,
        };
        Ok(Machine {
            tracking: connections || walk::tracks(&ruleset) || legacy.iter().any(|table| table == "nat"),
            ruleset,
            legacy,
            queues,
            policies,
            links: links::all()?,
        })
    }

    /// The interface of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// What becomes of packets that come in on `interface` for one of `scope`; `tcp` if TCP is fragmented, too.
    pub fn assess(&self, interface: &Link, scope: &[IpNet], tcp: bool) -> Assessment {
        let mut assessment = Assessment {
            tracking: self.tracking,
            tcp,
            undone: undone(&self.policies, scope),
            dependences: BTreeSet::new(),
            legacy: self.legacy.clone(),
            routing_asks: None,
        };
        if !assessment.matters() {
            return assessment;
        }
        let faces = links::faces(interface, &self.links);
        let ways = packets::ways(&self.ruleset, &faces, &self.links);
        for networks in &assessment.undone {
            for way in &ways {
                for packets in packets::packets(*way, *networks, tcp) {
                    let found = walk::dependences(&self.ruleset, &packets).into_iter();
                    assessment.dependences.extend(found.filter(|one| one.asks != Asks::UserSpace));
                    if assessment.dependences.len() > NAMED {
                        return assessment;
                    }
                }
            }
        }
        assessment
    }

    /// The packets to exempt, per interface that they may come in on.
    fn untracked(&self, interface: &Link, assessment: &Assessment) -> Vec<Untracked> {
        let mut untracked = Vec::new();
        for face in links::faces(interface, &self.links) {
            for (source, destination) in assessment.undone.iter().copied() {
                untracked.push(Untracked { interface: face.index, source, destination, tcp: assessment.tcp });
            }
        }
        untracked
    }
}

/// Policies of a tunnel without an interface: an xfrm interface makes fragments again of what was fragments
/// (`ip_finish_output`, by `frag_max_size`). Fragments match no policy that selects by port, so that what one of these
/// selects has to be put together.
fn undone(policies: &[xfrm::Policy], scope: &[IpNet]) -> BTreeSet<(Ipv4Net, Ipv4Net)> {
    let mut undone = BTreeSet::new();
    let overlap = |one: (IpAddr, u8), other: (IpAddr, u8)| {
        ipv4(one).zip(ipv4(other)).is_some_and(|(one, other)| one.contains(&other) || other.contains(&one))
    };
    let whole = |policy: &xfrm::Policy| {
        let asks = |other: &&xfrm::Policy| other.if_id == 0 && other.asks_for_ports();
        let touched = |other: &xfrm::Policy| overlap(policy.src, other.src) && overlap(policy.dst, other.dst);
        policies.iter().filter(asks).any(touched)
    };
    for policy in policies
        .iter()
        .filter(|policy| policy.if_id == 0 && !policy.templates.is_empty() && !policy.upper && !whole(policy))
    {
        let (Some(source), Some(destination)) = (ipv4(policy.src), ipv4(policy.dst)) else { continue };
        for prefix in scope {
            let IpNet::V4(prefix) = prefix else { continue };
            if prefix.contains(&destination) {
                undone.insert((source, destination));
            } else if destination.contains(prefix) {
                undone.insert((source, *prefix));
            }
        }
    }
    undone
}

fn ipv4((address, len): (IpAddr, u8)) -> Option<Ipv4Net> {
    match address {
        IpAddr::V4(address) => Some(Ipv4Net::new(address, len).ok()?.trunc()),
        IpAddr::V6(_) => None,
    }
}

impl Assessment {
    /// True if fragments are put together and stay so.
    pub fn matters(&self) -> bool {
        self.tracking && !self.undone.is_empty()
    }

    /// True if nothing can go wrong with an exemption.
    pub fn safe(&self) -> bool {
        self.dependences.is_empty() && self.legacy.is_empty() && self.routing_asks.is_none()
    }

    /// True if `run` exempts the fragments.
    pub fn exempts(&self, notrack: Notrack) -> bool {
        match notrack {
            Notrack::On => !self.undone.is_empty(),
            Notrack::Auto => self.matters() && self.safe(),
            Notrack::Off => false,
        }
    }
}
