//! What the rules make of the packets between two prefixes: whether fragments would miss one of them.

use std::collections::BTreeSet;
use std::fs;

use ipnet::Ipv4Net;

use super::packets::{self, Packets, Part, Protocol};
use super::{Asks, Machine, exemption, walk};
use crate::ipsec::ways::{Asked, Rules, Tracking};
use crate::net::links::{self, Link};

/// IPPROTO_UDP.
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// Source and destination of fragments that are exempt from connection tracking.
pub type Exempt = BTreeSet<(Ipv4Net, Ipv4Net)>;

impl Machine {
    /// What packets meet that come in on `interface`, from `source` to `destination`; `encrypted` if a policy without an
    /// interface encrypts them for sure, `exempt` what is exempt now.
    pub fn rules(
        &self,
        interface: &Link,
        (source, destination): (Ipv4Net, Ipv4Net),
        encrypted: bool,
        exempt: &Exempt,
    ) -> Rules {
        let mut rules = Rules {
            asked: Asked::default(),
            tracking: self.tracking((source, destination), exempt),
            queue: self.queue_unread().map(str::to_owned),
        };
        if !self.legacy.is_empty() {
            let tables = self.legacy.join(", ");
            rules.asked = Asked::both(format!("the tables of iptables-legacy ({tables}) cannot be read"));
        }
        if !walk::asks(&self.ruleset) {
            return rules;
        }
        let faces = links::faces(interface, &self.links);
        for (here, there) in packets::ways(&self.ruleset, &faces, &self.links) {
            let first = |part, protocol, asks| {
                let [from, to] = [here, there].map(|link| (link.name.as_str(), link.index));
                let packets = Packets { from, to, source, destination, part, protocol, ipsec: encrypted };
                walk::dependences(&self.ruleset, &packets).into_iter().find(|found| found.asks == asks)
            };
            let asked =
                |protocol| Some(format!("{} asks for ports", first(Part::Later, protocol, Asks::Ports)?));
            rules.asked.udp = rules.asked.udp.or_else(|| asked(Protocol::Only(UDP)));
            // TCP among them: a SYN, or what is signed.
            rules.asked.other = rules.asked.other.or_else(|| asked(Protocol::AllBut(UDP)));
            let queued = || {
                let rule = first(Part::Whole, Protocol::Only(UDP), Asks::UserSpace)?;
                Some(format!("{rule} queues packets to user space"))
            };
            rules.queue = rules.queue.or_else(queued);
        }
        rules
    }

    /// True if a rule may give packets a mark.
    pub fn marks(&self) -> bool {
        !self.legacy.is_empty() || walk::marks(&self.ruleset)
    }

    fn tracking(&self, packets: (Ipv4Net, Ipv4Net), exempt: &Exempt) -> Tracking {
        let inside = |wide: &(Ipv4Net, Ipv4Net)| wide.0.contains(&packets.0) && wide.1.contains(&packets.1);
        let overlap = |one: &Ipv4Net, other: &Ipv4Net| one.contains(other) || other.contains(one);
        let touched =
            |pair: &(Ipv4Net, Ipv4Net)| overlap(&pair.0, &packets.0) && overlap(&pair.1, &packets.1);
        match () {
            () if !self.tracking => Tracking::None,
            () if exempt.iter().any(inside) => Tracking::Exempt,
            () if exempt.iter().any(touched) => Tracking::Possible,
            () if walk::surely_tracks(&self.ruleset, exemption::is_ours) => Tracking::Certain,
            () => Tracking::Possible,
        }
    }

    /// Rules of iptables-legacy may queue, where a program waits for packets.
    fn queue_unread(&self) -> Option<&'static str> {
        (self.queues && !self.legacy.is_empty())
            .then_some("a rule of iptables-legacy may queue packets to user space")
    }
}

/// What decides as well, and of which the kernel sends no news: tables of iptables-legacy, connections, programs that
/// wait for packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Silent {
    pub(super) legacy: Vec<String>,
    pub(super) connections: bool,
    pub(super) queues: bool,
}

impl Silent {
    /// True if something may be otherwise than `before`. The last connection may go and come: that changes nothing.
    pub fn differs(&self, before: &Silent) -> bool {
        let of = |silent: &Silent| (silent.legacy.clone(), silent.queues);
        of(self) != of(before) || (self.connections && !before.connections)
    }

    /// As it is in the network namespace of the calling thread.
    pub fn read() -> Silent {
        let text =
            |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        Silent {
            legacy: text("ip_tables_names").lines().map(str::to_owned).collect(),
            connections: crate::net::sysctl::number("net/netfilter/nf_conntrack_count")
                .is_some_and(|tracked| tracked > 0),
            queues: !text("netfilter/nfnetlink_queue").trim().is_empty(),
        }
    }
}
