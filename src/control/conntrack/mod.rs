//! Connection tracking puts fragments together again before routing (`nf_defrag_ipv4`). A policy-based gateway then
//! encrypts the whole packet and fragments the ESP; docs/conntrack.md has what was measured. Where no rule depends
//! on the connection of such fragments, `run` exempts them; elsewhere it says what stands in the way.

mod bits;
mod exemption;
mod walk;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

pub use exemption::Exemption;
pub use walk::Dependence;

use super::finding::Finding;
use crate::config::Choice;
use crate::net::links::{self, Link};
use crate::net::nft::{Untracked, ruleset};
use crate::net::{sysctl, xfrm};
use walk::Packets;

/// What the findings are about.
pub(super) const WHAT: &str = "conntrack";
/// Rules named in a message.
const NAMED: usize = 3;

/// What connection tracking does to the fragments that an interface's gateway hands back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assessment {
    /// Connections are tracked in this network namespace.
    pub tracking: bool,
    /// Source and destination of what is put together again and then encrypted whole: of the policies without an
    /// xfrm interface, as far as they are in scope.
    pub undone: BTreeSet<(Ipv4Net, Ipv4Net)>,
    /// Rules that such packets, or the answers to them, meet and that ask for their connection: some of them, if
    /// they are many.
    pub dependences: BTreeSet<Dependence>,
    /// Tables of iptables-legacy, which nobody but iptables-legacy can read.
    pub legacy: Vec<String>,
}

/// Looks at this network namespace, for packets that come in on `interface` for one of `scope`.
///
/// # Errors
/// If the kernel does not tell its rules or policies.
pub fn assess(interface: &Link, scope: &[IpNet]) -> io::Result<Assessment> {
    let ruleset = ruleset::read()?;
    let legacy = legacy_tables();
    let tracked = sysctl::number("net/netfilter/nf_conntrack_count").is_some_and(|tracked| tracked > 0);
    let mut assessment = Assessment {
        tracking: tracked || walk::tracks(&ruleset) || legacy.iter().any(|table| table == "nat"),
        undone: undone(scope)?,
        dependences: BTreeSet::new(),
        legacy,
    };
    let links = links::all()?;
    for (source, destination) in &assessment.undone {
        for here in links::faces(interface, &links) {
            // Which of the others leads to the tunnel's peer is up to routes: try each.
            for there in links.iter().filter(|link| link.index != here.index) {
                let to = Packets {
                    from: (&here.name, here.index),
                    to: (&there.name, there.index),
                    source: *source,
                    destination: *destination,
                    encrypted: true,
                };
                let back = Packets {
                    from: to.to,
                    to: to.from,
                    source: *destination,
                    destination: *source,
                    encrypted: false,
                };
                for packets in [to, back] {
                    if assessment.dependences.len() <= NAMED {
                        assessment.dependences.append(&mut walk::dependences(&ruleset, &packets));
                    }
                }
            }
        }
    }
    Ok(assessment)
}

/// Policies of a tunnel without an interface: an xfrm interface makes fragments again of what was fragments
/// (`ip_finish_output`, by `frag_max_size`). What selects by port cannot be told by fragments.
fn undone(scope: &[IpNet]) -> io::Result<BTreeSet<(Ipv4Net, Ipv4Net)>> {
    let policies = match xfrm::policies() {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Vec::new(),
        policies => policies?,
    };
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
    Ok(undone)
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
    pub fn exempts(&self, notrack: Choice) -> bool {
        match notrack {
            Choice::On => !self.undone.is_empty(),
            Choice::Auto => self.matters() && self.safe(),
            Choice::Off => false,
        }
    }

    /// The packets to exempt, per interface that they may come in on.
    ///
    /// # Errors
    /// If the kernel does not tell its interfaces.
    fn untracked(&self, interface: &Link, tcp: bool) -> io::Result<Vec<Untracked>> {
        let mut untracked = Vec::new();
        for face in links::faces(interface, &links::all()?) {
            for (source, destination) in self.undone.iter().copied() {
                untracked.push(Untracked { interface: face.index, source, destination, tcp });
            }
        }
        Ok(untracked)
    }

    /// For `check` and the log.
    pub fn finding(&self, interface: &str, notrack: Choice) -> Finding {
        if !self.tracking {
            return Finding::ok(WHAT, "no connections are tracked: fragments stay fragments");
        }
        if self.undone.is_empty() {
            let why = "in use; fragments are put together for the rules and, on the way into an xfrm interface, made \
                       again (no policy without one has IPv4 networks of the scope)";
            return Finding::ok(WHAT, why);
        }
        let networks = self.networks();
        if self.exempts(notrack) {
            let why = format!(
                "would put fragments {networks} together again: they are exempt while `run` runs (table ip {})",
                exemption::table(interface)
            );
            return match self.safe() {
                true => Finding::ok(WHAT, why),
                false => Finding::note(WHAT, format!("{why}, as asked, although {}", self.obstacles())),
            };
        }
        let undone = format!(
            "puts fragments {networks} together again, so that the kernel encrypts whole packets and fragments the ESP"
        );
        let why = match self.safe() {
            true => format!("{undone}; --notrack off"),
            false => format!(
                "{undone}; they cannot be exempt, because {}: see docs/conntrack.md",
                self.obstacles()
            ),
        };
        Finding::warning(WHAT, why).remedy(self.remedy())
    }

    fn networks(&self) -> String {
        let pairs = self.undone.iter().map(|(source, destination)| format!("from {source} to {destination}"));
        pairs.collect::<Vec<_>>().join(", ")
    }

    /// What depends on connections.
    fn obstacles(&self) -> String {
        let mut obstacles: Vec<_> = self.dependences.iter().take(NAMED).map(ToString::to_string).collect();
        if self.dependences.len() > NAMED {
            obstacles.push("others".to_owned());
        }
        if !self.legacy.is_empty() {
            obstacles.push(format!("the tables of iptables-legacy ({}), unread,", self.legacy.join(", ")));
        }
        format!("{} may ask for their connection", obstacles.join(", "))
    }

    /// If only the translation of source addresses is in the way: take tunnels out of it. Else TCP at least.
    fn remedy(&self) -> String {
        match self.dependences.first() {
            Some(first)
                if self.legacy.is_empty() && self.dependences.iter().all(|one| one.of_one_chain(first)) =>
            {
                let Dependence { family, table, chain, .. } = first;
                match chain.as_str() {
                    "POSTROUTING" => {
                        "iptables -t nat -I POSTROUTING -m policy --dir out --pol ipsec -j ACCEPT".to_owned()
                    }
                    _ => format!("nft insert rule {family} {table} {chain} rt ipsec exists accept"),
                }
            }
            _ => "xdpfrag run ... --tcp resegment  # for TCP; for UDP, an xfrm interface".to_owned(),
        }
    }
}
