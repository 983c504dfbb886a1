//! The packets that an exemption changes something for.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::bits::Bits;
use crate::net::links::Link;
use crate::net::nft::Ruleset;
use crate::net::nft::ruleset::{Expression, Source};

/// Bytes of an interface name in a register.
const IFNAMSIZ: usize = 16;

/// Packets on their way into an IPsec tunnel, or out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packets<'a> {
    /// Name and index of the interface they come in on.
    pub(super) from: (&'a str, u32),
    /// The one they leave by.
    pub(super) to: (&'a str, u32),
    pub(super) source: Ipv4Net,
    pub(super) destination: Ipv4Net,
    pub(super) part: Part,
    pub(super) protocol: Protocol,
    /// A policy without an interface encrypts them, or did so at the other end; else that is not known.
    pub(super) ipsec: bool,
}

/// Of which protocols packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Any,
    Only(u8),
    AllBut(u8),
}

/// What of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// First fragments: they have the transport header.
    First,
    /// The other fragments.
    Later,
    /// Packets that have been decrypted, whole or not: answers to fragments.
    Answer,
}

impl Packets<'_> {
    /// Whether they are about to be encrypted (`outbound`), or have been decrypted.
    pub(super) fn of_ipsec(&self, outbound: bool) -> Option<bool> {
        match (outbound, self.part != Part::Answer) {
            (true, true) | (false, false) => self.ipsec.then_some(true),
            _ => Some(false),
        }
    }

    /// True if they have no transport header.
    pub(super) fn lack_ports(&self) -> bool {
        self.part == Part::Later
    }

    /// What is known of `source`.
    pub(super) fn load(&self, source: Source) -> Bits {
        let flag = |set: Option<bool>| set.map_or(Bits::unknown(1), |set| Bits::of(&[set.into()]));
        match source {
            Source::InName => Bits::name(self.from.0, IFNAMSIZ),
            Source::OutName => Bits::name(self.to.0, IFNAMSIZ),
            Source::InIndex => Bits::of(&self.from.1.to_ne_bytes()),
            Source::OutIndex => Bits::of(&self.to.1.to_ne_bytes()),
            Source::Ip { offset, len } => self.header().slice(offset as usize, len as usize),
            Source::Protocol => self.protocol(),
            Source::Family => Bits::of(&[libc::AF_INET as u8]),
            Source::Encrypting => flag(self.of_ipsec(true)),
            Source::Decrypted => flag(self.of_ipsec(false)),
            Source::Transport | Source::Unknown => Bits::unknown(0),
        }
    }

    fn header(&self) -> Bits {
        let [source, destination] = [self.source, self.destination].map(Bits::address);
        // Flags and offset: of a first fragment MF is set and the offset is zero.
        let fragment = match self.part {
            Part::Whole => Bits::partly(&[0, 0], &[0x3f, 0xff]),
            Part::First => Bits::partly(&[0x20, 0], &[0x3f, 0xff]),
            Part::Later => Bits::other_than(&[0, 0], &[0x1f, 0xff]),
            Part::Answer => Bits::unknown(2),
        };
        let [before, ttl, checksum] = [6, 1, 2].map(Bits::unknown);
        Bits::concat(&[before, fragment, ttl, self.protocol(), checksum, source, destination])
    }

    fn protocol(&self) -> Bits {
        match self.protocol {
            Protocol::Any => Bits::unknown(1),
            Protocol::Only(number) => Bits::of(&[number]),
            Protocol::AllBut(number) => Bits::other_than(&[number], &[0xff]),
        }
    }
}

/// Ways through the gateway, from a face of `interface` to another interface; which leads to the tunnel's peer is up to
/// routes, so that each counts. Of those that no rule tells apart it is one.
pub(super) fn ways<'a>(ruleset: &Ruleset, faces: &'a [Link], links: &'a [Link]) -> Vec<(&'a Link, &'a Link)> {
    let kinds = kinds(ruleset, faces.iter().chain(links));
    let mut known = BTreeSet::new();
    let mut ways = Vec::new();
    for here in faces {
        for there in links.iter().filter(|link| link.index != here.index) {
            if known.insert((kinds[&here.index], kinds[&there.index])) {
                ways.push((here, there));
            }
        }
    }
    ways
}

/// A number for each index of `links`, the same for those that all comparisons of the ruleset take for the same.
fn kinds<'a>(ruleset: &Ruleset, links: impl Iterator<Item = &'a Link>) -> BTreeMap<u32, usize> {
    let expressions =
        ruleset.chains().iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.expressions);
    let values: BTreeSet<&[u8]> = expressions
        .filter_map(|expression| match expression {
            Expression::Compare { value, .. } => Some(&value[..]),
            _ => None,
        })
        .collect();
    let mut kinds: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    let mut of = BTreeMap::new();
    for link in links {
        let forms = [Bits::name(&link.name, IFNAMSIZ), Bits::of(&link.index.to_ne_bytes())];
        // Two bits for each value.
        let told = values.iter().map(|value| {
            let [name, index] =
                forms.each_ref().map(|form| usize::from(form.start_with(value) == Some(true)));
            name << 1 | index
        });
        let next = kinds.len();
        of.insert(link.index, *kinds.entry(told.collect()).or_insert(next));
    }
    of
}

/// The two directions of a way, in three parts.
pub(super) fn packets<'a>(
    (here, there): (&'a Link, &'a Link),
    (source, destination): (Ipv4Net, Ipv4Net),
    tcp: bool,
) -> [Packets<'a>; 3] {
    let [here, there] = [here, there].map(|link| (link.name.as_str(), link.index));
    let protocol = if tcp { Protocol::Any } else { Protocol::AllBut(libc::IPPROTO_TCP as u8) };
    let first =
        Packets { from: here, to: there, source, destination, part: Part::First, protocol, ipsec: true };
    let (source, destination) = (destination, source);
    let answer = Packets { from: there, to: here, source, destination, part: Part::Answer, ..first };
    [first, Packets { part: Part::Later, ..first }, answer]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::nft::ruleset::{Chain, Rule};

    fn links(count: u32) -> Vec<Link> {
        let link = |index| Link { name: format!("eth1.{index}"), index, ..Link::default() };
        (1..=count).map(link).collect()
    }

    fn comparing(values: &[&[u8]]) -> Ruleset {
        let compare = |value: &&[u8]| Expression::Compare { register: 0, equal: true, value: value.to_vec() };
        let rule = Rule { handle: 1, expressions: values.iter().map(compare).collect() };
        let (table, name) = ("t".to_owned(), "c".to_owned());
        Ruleset::new(vec![Chain { family: "ip", table, name, base: None, rules: vec![rule] }])
    }

    #[test]
    fn interfaces_that_no_rule_tells_apart_are_one() {
        let links = links(500);
        assert_eq!(ways(&comparing(&[]), &links, &links).len(), 1);
        // By name, by the start of a name, by index: each with the others both ways, and the others among themselves.
        for value in [&b"eth1.7\0"[..], b"eth1.77", &7u32.to_ne_bytes()] {
            let told = ways(&comparing(&[value]), &links, &links);
            assert_eq!(told.len(), 3, "{value:?}");
        }
        let (one, two) = (7u32.to_ne_bytes(), 8u32.to_ne_bytes());
        let told = ways(&comparing(&[&one, &two]), &links, &links);
        assert_eq!(told.len(), 7);
        assert!(told.iter().all(|(here, there)| here.index != there.index));
    }
}
