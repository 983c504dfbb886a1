//! Connection tracking puts fragments together again before routing (`nf_defrag_ipv4`). A policy-based gateway then
//! encrypts the whole packet and fragments the ESP; docs/conntrack.md has what was measured. Where no rule depends
//! on the connection of such fragments, or on ports that they lack, `run` exempts them; elsewhere it says what stands
//! in the way.

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

pub use dependence::{Asks, Dependence};
pub use exemption::Exemption;

use crate::config::Notrack;
use crate::net::links::{self, Link};
use crate::net::nft::{Ruleset, Untracked, ruleset};
use crate::net::{sysctl, xfrm};

/// What the findings are about.
pub(super) const WHAT: &str = "conntrack";
/// Rules named in a message.
const NAMED: usize = 3;

/// What there is in this network namespace at one moment: rules, policies and interfaces.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    ruleset: Ruleset,
    legacy: Vec<String>,
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
}

impl Machine {
    /// Looks around, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the kernel does not tell its rules, policies or interfaces.
    pub fn read() -> io::Result<Machine> {
        let ruleset = ruleset::read()?;
        let legacy = legacy_tables();
        let tracked = sysctl::number("net/netfilter/nf_conntrack_count").is_some_and(|tracked| tracked > 0);
        let policies = match xfrm::policies() {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Vec::new(),
            policies => policies?,
        };
        Ok(Machine {
            tracking: tracked || walk::tracks(&ruleset) || legacy.iter().any(|table| table == "nat"),
            ruleset,
            legacy,
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
        };
        if !assessment.matters() {
            return assessment;
        }
        let faces = links::faces(interface, &self.links);
        let ways = packets::ways(&self.ruleset, &faces, &self.links);
        for networks in &assessment.undone {
            for way in &ways {
                for packets in packets::packets(*way, *networks, tcp) {
                    assessment.dependences.append(&mut walk::dependences(&self.ruleset, &packets));
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
/// (`ip_finish_output`, by `frag_max_size`). What selects by port cannot be told by fragments.
fn undone(policies: &[xfrm::Policy], scope: &[IpNet]) -> BTreeSet<(Ipv4Net, Ipv4Net)> {
    let mut undone = BTreeSet::new();
    for policy in
        policies.iter().filter(|policy| policy.if_id == 0 && !policy.templates.is_empty() && !policy.upper)
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

fn legacy_tables() -> Vec<String> {
    let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

impl Assessment {
    /// True if fragments are put together and stay so.
    pub fn matters(&self) -> bool {
        self.tracking && !self.undone.is_empty()
    }

    /// True if nothing can go wrong with an exemption.
    pub fn safe(&self) -> bool {
        self.dependences.is_empty() && self.legacy.is_empty()
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
