//! Which rules make something of a connection for certain packets: a walk through the ruleset that never takes a
//! rule for harmless because it does not understand it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::bits::Bits;
use crate::net::nft::Ruleset;
use crate::net::nft::ruleset::{Chain, Expression, Rule, Source};

/// NF_INET_PRE_ROUTING, NF_INET_FORWARD and NF_INET_POST_ROUTING: the hooks of a forwarded packet.
const HOOKS: [u32; 3] = [0, 2, POSTROUTING];
const POSTROUTING: u32 = 4;
/// Calls that may be open at a time (NFT_JUMP_STACK_SIZE).
const DEPTH: usize = 16;

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
    /// True if they are about to be encrypted, false if they have been decrypted.
    pub(super) encrypted: bool,
}

/// A rule that depends on connection tracking.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependence {
    /// `ip` or `inet`.
    pub family: &'static str,
    /// Table and chain.
    pub table: String,
    /// Chain in it.
    pub chain: String,
    /// As `nft -a list ruleset` shows it.
    pub handle: u64,
    /// `ct`, `masq`, ...
    pub what: String,
    /// True if it translates addresses.
    pub translates: bool,
    /// True in a base chain of the postrouting hook.
    pub after_routing: bool,
}

impl Dependence {
    /// Both translate source addresses in the same chain.
    pub(super) fn of_one_chain(&self, other: &Dependence) -> bool {
        let place = |one: &Dependence| (one.translates, one.family, one.table.clone(), one.chain.clone());
        self.translates && self.after_routing && place(self) == place(other)
    }
}

impl std::fmt::Display for Dependence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Dependence { family, table, chain, handle, what, .. } = self;
        write!(f, "`{what}` in table {family} {table}, chain {chain}, handle {handle}")
    }
}

/// The rules that depend on connection tracking and that any of `packets` may meet.
pub(super) fn dependences(ruleset: &Ruleset, packets: &Packets) -> BTreeSet<Dependence> {
    let mut walk = Walk { ruleset, packets, found: BTreeSet::new() };
    for chain in &ruleset.chains {
        if chain.base.as_ref().is_some_and(|base| HOOKS.contains(&base.hook)) {
            walk.chain(chain, 0);
        }
    }
    walk.found
}

/// True if a rule anywhere makes the kernel track connections.
pub(super) fn tracks(ruleset: &Ruleset) -> bool {
    let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    rules.flat_map(|rule| &rule.expressions).any(|expression| matches!(expression, Expression::Tracked(_)))
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    packets: &'a Packets<'a>,
    found: BTreeSet<Dependence>,
}

impl<'a> Walk<'a> {
    /// True if none of the packets goes on behind the chain.
    fn chain(&mut self, chain: &'a Chain, depth: usize) -> bool {
        for rule in &chain.rules {
            match self.rule(chain, rule, depth) {
                Then::Next => {}
                Then::Back => return false,
                Then::End => return true,
            }
        }
        false
    }

    fn rule(&mut self, chain: &'a Chain, rule: &'a Rule, depth: usize) -> Then {
        let mut registers: BTreeMap<u32, Bits> = BTreeMap::new();
        // Whether all of the packets get this far in the rule.
        let mut all = true;
        for expression in &rule.expressions {
            let matches = match expression {
                Expression::Load { register, source } => {
                    registers.insert(*register, self.packets.load(*source));
                    continue;
                }
                Expression::Mask { source, register, mask, xor } => {
                    let bits = registers.get(source).map(|bits| bits.masked(mask, xor));
                    registers.insert(*register, bits.unwrap_or_else(|| Bits::unknown(0)));
                    continue;
                }
                Expression::Compare { register, equal, value } => {
                    registers.get(register).and_then(|bits| bits.start_with(value)).map(|same| same == *equal)
                }
                Expression::Policy { outbound, ipsec } => {
                    Some((*outbound == self.packets.encrypted) == *ipsec)
                }
                Expression::Tracked(what) => {
                    self.found.insert(Dependence::new(chain, rule, what));
                    None
                }
                Expression::VerdictMap => {
                    let called = self
                        .ruleset
                        .chains
                        .iter()
                        .filter(|other| other.base.is_none() && same_table(other, chain));
                    for other in called {
                        self.call(chain, &other.name, depth);
                    }
                    None
                }
                Expression::Jump(name) => {
                    if self.call(chain, name, depth) && all {
                        return Then::End;
                    }
                    continue;
                }
                Expression::Goto(name) => match (self.call(chain, name, depth), all) {
                    (true, true) => return Then::End,
                    (false, true) => return Then::Back,
                    _ => continue,
                },
                Expression::Final if all => return Then::End,
                Expression::Return if all => return Then::Back,
                Expression::Final | Expression::Return => return Then::Next,
                Expression::Neutral => continue,
                Expression::Other => None,
            };
            match matches {
                Some(false) => return Then::Next,
                Some(true) => {}
                None => all = false,
            }
        }
        Then::Next
    }

    /// Another chain of the same table.
    fn call(&mut self, from: &Chain, name: &str, depth: usize) -> bool {
        let ruleset = self.ruleset;
        let called = ruleset.chains.iter().find(|chain| same_table(chain, from) && chain.name == name);
        called.is_some_and(|chain| depth < DEPTH && self.chain(chain, depth + 1))
    }
}

fn same_table(one: &Chain, other: &Chain) -> bool {
    (one.family, &one.table) == (other.family, &other.table)
}

/// What comes after a rule.
enum Then {
    Next,
    Back,
    End,
}

impl Packets<'_> {
    fn load(&self, source: Source) -> Bits {
        let flag = |set: bool| Bits::of(&[set.into()]);
        match source {
            Source::InName => Bits::name(self.from.0, IFNAMSIZ),
            Source::OutName => Bits::name(self.to.0, IFNAMSIZ),
            Source::InIndex => Bits::of(&self.from.1.to_ne_bytes()),
            Source::OutIndex => Bits::of(&self.to.1.to_ne_bytes()),
            Source::Ip { offset, len } => {
                let [source, destination] = [self.source, self.destination].map(Bits::address);
                Bits::concat(&[Bits::unknown(12), source, destination]).slice(offset as usize, len as usize)
            }
            Source::Encrypting => flag(self.encrypted),
            Source::Decrypted => flag(!self.encrypted),
            Source::Unknown => Bits::unknown(0),
        }
    }
}

impl Dependence {
    fn new(chain: &Chain, rule: &Rule, what: &str) -> Dependence {
        Dependence {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            handle: rule.handle,
            what: what.to_owned(),
            translates: TRANSLATE.contains(&what),
            after_routing: chain.base.as_ref().is_some_and(|base| base.hook == POSTROUTING),
        }
    }
}

/// Expressions and targets that translate addresses.
const TRANSLATE: [&str; 8] = ["nat", "masq", "redir", "MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP"];
