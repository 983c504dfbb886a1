//! A rule that an exemption would change something for.

use crate::net::nft::ruleset::{Chain, Rule};

/// NF_INET_FORWARD and NF_INET_POST_ROUTING.
pub(super) const FORWARD: u32 = 2;
pub(super) const POSTROUTING: u32 = 4;

/// A rule that needs packets tracked, or whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependence {
    /// What for.
    pub asks: Asks,
    /// `ip` or `inet`.
    pub family: &'static str,
    /// Table and chain.
    pub table: String,
    /// Chain in it.
    pub chain: String,
    /// As `nft -a list ruleset` shows it.
    pub handle: u64,
    /// `ct`, `masq`, `ports`, ...
    pub what: String,
    /// NF_INET_*, where the chain is a base chain.
    pub hook: Option<u32>,
}

/// What a rule asks of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asks {
    /// The state of their connection.
    Connection,
    /// That their addresses can be translated.
    Translation,
    /// Ports or another part of the transport header, which only the first fragment has.
    Ports,
    /// The judgement of a program in user space.
    UserSpace,
}

/// Expressions and targets that translate addresses.
const TRANSLATE: [&str; 8] = ["nat", "masq", "redir", "MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP"];

impl Asks {
    /// What an expression or target needs that depends on connection tracking.
    pub(super) fn of(what: &str) -> Asks {
        if TRANSLATE.contains(&what) { Asks::Translation } else { Asks::Connection }
    }
}

impl Dependence {
    pub(super) fn new(chain: &Chain, rule: &Rule, what: &str, asks: Asks) -> Dependence {
        Dependence {
            asks,
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            handle: rule.handle,
            what: what.to_owned(),
            hook: chain.base.as_ref().map(|base| base.hook),
        }
    }

    /// Both ask for the same in the same chain.
    pub(super) fn like(&self, other: &Dependence) -> bool {
        let place = |one: &Dependence| (one.asks, one.family, one.table.clone(), one.chain.clone());
        place(self) == place(other)
    }
}

impl std::fmt::Display for Dependence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Dependence { family, table, chain, handle, what, .. } = self;
        write!(f, "`{what}` in table {family} {table}, chain {chain}, handle {handle}")
    }
}
