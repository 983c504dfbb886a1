//! Which rules make something of a connection, or of ports, for certain packets: a walk through the ruleset that never
//! takes a rule for harmless because it does not understand it.

use std::collections::{BTreeMap, BTreeSet};

use super::bits::Bits;
use super::dependence::{Asks, Dependence};
use super::packets::Packets;
use crate::net::nft::Ruleset;
use crate::net::nft::ruleset::{Chain, Expression, Rule, Source};

/// NF_INET_PRE_ROUTING, NF_INET_FORWARD and NF_INET_POST_ROUTING: the hooks of a forwarded packet.
const HOOKS: [u32; 3] = [0, 2, 4];
/// NF_IP_PRI_CONNTRACK_DEFRAG.
const DEFRAGMENTS: i32 = -400;

/// The rules that depend on connection tracking and that any of `packets` may meet.
pub(super) fn dependences(ruleset: &Ruleset, packets: &Packets) -> BTreeSet<Dependence> {
    let mut walk = Walk {
        ruleset,
        packets,
        found: BTreeSet::new(),
        chains: vec![State::New; ruleset.chains().len()],
        mapped: BTreeSet::new(),
    };
    let mut entered: Vec<_> = hooked(ruleset).collect();
    let mut tables = BTreeSet::new();
    while let Some(chain) = entered.pop() {
        walk.chain(chain);
        // What verdict maps name is not read: it may be any chain of their tables.
        for table in std::mem::take(&mut walk.mapped) {
            if tables.insert(table) {
                let called = ruleset.table(&ruleset.chains()[table]);
                entered.extend(called.filter(|at| ruleset.chains()[*at].base.is_none()));
            }
        }
    }
    walk.found
}

/// Positions of the base chains that forwarded packets meet.
fn hooked(ruleset: &Ruleset) -> impl Iterator<Item = usize> {
    let hooked = |chain: &Chain| chain.base.as_ref().is_some_and(|base| HOOKS.contains(&base.hook));
    (0..ruleset.chains().len()).filter(move |at| hooked(&ruleset.chains()[*at]))
}

/// True if a rule anywhere asks for connections, or may do so.
pub(super) fn tracks(ruleset: &Ruleset) -> bool {
    any(ruleset, |expression| matches!(expression, Expression::Tracked(_)))
}

/// True if a rule anywhere makes the kernel track connections, so that every packet is put together before any chain sees
/// it: none comes before that, but for those of tables that `ours` knows.
pub(super) fn surely_tracks(ruleset: &Ruleset, ours: impl Fn(&str) -> bool) -> bool {
    let first = |chain: &Chain| {
        chain.base.as_ref().is_some_and(|base| base.hook == 0 && base.priority <= DEFRAGMENTS)
    };
    let mut before = ruleset.chains().iter().filter(|chain| !ours(&chain.table));
    any(ruleset, |expression| matches!(expression, Expression::Tracked(what) if certain(what)))
        && !before.any(first)
}

/// True if a rule with this cannot be without tracking: an object may be none of connection tracking, and `CT` may be
/// there to prevent it.
fn certain(what: &str) -> bool {
    !["objref", "CT"].contains(&what)
}

/// True if a rule asks for ports or queues packets: without one nothing needs a walk.
pub(super) fn asks(ruleset: &Ruleset) -> bool {
    any(ruleset, |expression| {
        matches!(
            expression,
            Expression::Ports(_) | Expression::Queue | Expression::Load { source: Source::Transport, .. }
        )
    })
}

/// True if a rule may give packets a mark.
pub(super) fn marks(ruleset: &Ruleset) -> bool {
    any(ruleset, |expression| matches!(expression, Expression::Set | Expression::Other))
}

fn any(ruleset: &Ruleset, is: impl Fn(&Expression) -> bool) -> bool {
    let rules = ruleset.chains().iter().flat_map(|chain| &chain.rules);
    rules.flat_map(|rule| &rule.expressions).any(is)
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    packets: &'a Packets<'a>,
    found: BTreeSet<Dependence>,
    /// What is known of each chain: for the same packets it is the same, whoever calls it.
    chains: Vec<State>,
    /// First chains of the tables of which a verdict map may have called any chain.
    mapped: BTreeSet<usize>,
}

#[derive(Clone, Copy)]
enum State {
    New,
    /// Walked through at the moment. The kernel has no loops; what was read while it changed may.
    Open,
    /// True if none of the packets goes on behind the chain.
    Walked(bool),
}

impl<'a> Walk<'a> {
    /// True if none of the packets goes on behind the chain.
    fn chain(&mut self, at: usize) -> bool {
        match self.chains[at] {
            State::New => {}
            State::Open => return false,
            State::Walked(ends) => return ends,
        }
        self.chains[at] = State::Open;
        let ends = self.rules(&self.ruleset.chains()[at]);
        self.chains[at] = State::Walked(ends);
        ends
    }

    fn rules(&mut self, chain: &'a Chain) -> bool {
        for rule in &chain.rules {
            match self.rule(chain, rule) {
                Then::Next => {}
                Then::Back => return false,
                Then::End => return true,
            }
        }
        false
    }

    fn rule(&mut self, chain: &'a Chain, rule: &'a Rule) -> Then {
        let mut registers: BTreeMap<u32, (Source, Bits)> = BTreeMap::new();
        // Whether all of the packets get this far in the rule.
        let mut all = true;
        // What the rule has asked for that fragments but the first lack; it matters if the rule then does something.
        let mut ports: Option<&str> = None;
        for expression in &rule.expressions {
            if let (Some(what), true) = (ports, acts(expression)) {
                self.found.insert(Dependence::new(chain, rule, what, Asks::Ports));
                ports = None;
            }
            let matches = match expression {
                Expression::Load { register, source } => {
                    registers.insert(*register, (*source, self.packets.load(*source)));
                    if *source != Source::Transport {
                        continue;
                    }
                    ports = self.packets.lack_ports().then_some("ports");
                    None
                }
                Expression::Ports(what) => {
                    ports = self.packets.lack_ports().then_some(what);
                    None
                }
                Expression::Mask { source, register, mask, xor } => {
                    let masked = match registers.get(source) {
                        // Interfaces are told apart by comparison alone: see `kinds`.
                        Some((from, bits)) if !from.is_interface() => (*from, bits.masked(mask, xor)),
                        _ => (Source::Unknown, Bits::unknown(0)),
                    };
                    registers.insert(*register, masked);
                    continue;
                }
                Expression::Compare { register, equal, value } => {
                    let same = registers.get(register).and_then(|(_, bits)| bits.start_with(value));
                    same.map(|same| same == *equal)
                }
                Expression::Policy { outbound, ipsec } => {
                    self.packets.of_ipsec(*outbound).map(|of_ipsec| of_ipsec == *ipsec)
                }
                Expression::Queue => {
                    self.found.insert(Dependence::new(chain, rule, "queue", Asks::UserSpace));
                    None
                }
                Expression::Tracked(what) => {
                    self.found.insert(Dependence::new(chain, rule, what, Asks::of(what)));
                    // One reason is enough.
                    ports = None;
                    registers.clear();
                    None
                }
                Expression::VerdictMap => {
                    self.mapped.insert(self.ruleset.table(chain).start);
                    None
                }
                Expression::Jump(name) => {
                    if self.call(chain, name) && all {
                        return Then::End;
                    }
                    continue;
                }
                Expression::Goto(name) => match (self.call(chain, name), all) {
                    (true, true) => return Then::End,
                    (false, true) => return Then::Back,
                    _ => continue,
                },
                Expression::Final if all => return Then::End,
                Expression::Return if all => return Then::Back,
                Expression::Final | Expression::Return => return Then::Next,
                Expression::Neutral | Expression::Set => continue,
                Expression::Condition | Expression::Other => {
                    // It may have put something into any register.
                    registers.clear();
                    None
                }
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
    fn call(&mut self, from: &Chain, name: &str) -> bool {
        self.ruleset.find(from.family, &from.table, name).is_some_and(|called| self.chain(called))
    }
}

/// What comes after a rule.
enum Then {
    Next,
    Back,
    End,
}

/// Whether it makes a difference that a packet gets as far as this in a rule.
fn acts(expression: &Expression) -> bool {
    match expression {
        Expression::Final
        | Expression::Return
        | Expression::Jump(_)
        | Expression::Goto(_)
        | Expression::VerdictMap
        | Expression::Set
        | Expression::Queue
        | Expression::Other => true,
        Expression::Tracked(what) => !certain(what),
        Expression::Load { .. }
        | Expression::Mask { .. }
        | Expression::Compare { .. }
        | Expression::Policy { .. }
        // Found as such.
        | Expression::Ports(_)
        | Expression::Neutral
        | Expression::Condition => false,
    }
}
