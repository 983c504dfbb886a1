//! The rules that IPv4 packets meet, as the kernel lists them.

use std::io;
use std::ops::Range;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::expression::expression;
use super::message::{Attributes, INET, IPV4, Message};
use crate::net::netlink::Connection;

/// NFT_MSG_* of `linux/netfilter/nf_tables.h`.
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;

/// Chains of the families `ip` and `inet`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// By family, table and name.
    chains: Vec<Chain>,
}

impl Ruleset {
    /// Of chains in any order.
    pub fn new(mut chains: Vec<Chain>) -> Ruleset {
        chains.sort_by(|one, other| one.key().cmp(&other.key()));
        Ruleset { chains }
    }

    /// All of them; those of a table stand together.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// Position of a chain.
    pub fn find(&self, family: &str, table: &str, name: &str) -> Option<usize> {
        self.chains.binary_search_by(|chain| chain.key().cmp(&(family, table, name))).ok()
    }

    /// Positions of the chains in the table of `chain`.
    pub fn table(&self, chain: &Chain) -> Range<usize> {
        let place = |other: &Chain| (other.family, &other.table).cmp(&(chain.family, &chain.table));
        self.chains.partition_point(|other| place(other).is_lt())
            ..self.chains.partition_point(|other| place(other).is_le())
    }
}

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// `ip` or `inet`.
    pub family: &'static str,
    /// Table that it is in.
    pub table: String,
    /// Name.
    pub name: String,
    /// Where packets enter it; `None` if only by a jump.
    pub base: Option<Base>,
    /// In order.
    pub rules: Vec<Rule>,
}

impl Chain {
    fn key(&self) -> (&str, &str, &str) {
        (self.family, &self.table, &self.name)
    }
}

/// Where a base chain hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// NF_INET_*: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// The lowest number comes first.
    pub priority: i32,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its number, as `nft -a list ruleset` shows it.
    pub handle: u64,
    /// What it does, in order.
    pub expressions: Vec<Expression>,
}

/// One step of a rule, as far as it matters to whom connection tracking matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Puts something of the packet into a register.
    Load {
        /// Number of 32 bits.
        register: u32,
        /// What.
        source: Source,
    },
    /// register = register & mask ^ xor.
    Mask {
        /// From.
        source: u32,
        /// To.
        register: u32,
        /// And.
        mask: Vec<u8>,
        /// Then.
        xor: Vec<u8>,
    },
    /// Goes on only if a register is (or is not) `value`.
    Compare {
        /// Number of 32 bits.
        register: u32,
        /// Or unequal.
        equal: bool,
        /// With.
        value: Vec<u8>,
    },
    /// iptables' `-m policy`: goes on if the packet is (or is not) of an IPsec policy.
    Policy {
        /// About to be encrypted, or decrypted already.
        outbound: bool,
        /// Or not.
        ipsec: bool,
    },
    /// Ends the walk through this hook's chain.
    Final,
    /// Back to where the chain was called.
    Return,
    /// Another chain, and back.
    Jump(String),
    /// Another chain, and not back.
    Goto(String),
    /// A verdict out of a map: any chain of the table.
    VerdictMap,
    /// Reads or makes state of connection tracking, its name as `nft` or iptables knows it.
    Tracked(String),
    /// Asks for ports or another part of the transport header, which only the first fragment has; its name as iptables
    /// knows it.
    Ports(String),
    /// Queues packets to user space.
    Queue,
    /// Neither ends the rule nor matters.
    Neutral,
    /// Changes the packet or its mark, and goes on.
    Set,
    /// A condition: matches or not, and does nothing else.
    Condition,
    /// Whatever else: matches or not, and may do something.
    Other,
}

/// What can be loaded into a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Name of the interface that the packet came in on.
    InName,
    /// Name of the interface that it leaves by.
    OutName,
    /// Index of the interface that it came in on.
    InIndex,
    /// Index of the interface that it leaves by.
    OutIndex,
    /// Bytes of the IPv4 header.
    Ip {
        /// First.
        offset: u32,
        /// How many.
        len: u32,
    },
    /// Number of the IPv4 header's protocol.
    Protocol,
    /// NFPROTO_IPV4.
    Family,
    /// Bytes behind the IPv4 header.
    Transport,
    /// 1 if it is about to be encrypted.
    Encrypting,
    /// 1 if it was decrypted.
    Decrypted,
    /// Whatever else.
    Unknown,
}

impl Source {
    /// Name or index of an interface.
    pub fn is_interface(self) -> bool {
        matches!(self, Source::InName | Source::OutName | Source::InIndex | Source::OutIndex)
    }
}

/// The ruleset in the network namespace of the calling thread. Empty if the kernel has no nftables.
///
/// # Errors
/// Without CAP_NET_ADMIN, or if the ruleset keeps changing.
pub fn read() -> io::Result<Ruleset> {
    let mut connection = match Connection::open(NETLINK_NETFILTER) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Ruleset::default()),
        connection => connection?,
    };
    let mut list = |kind| match connection.dump(Message::new(kind, 0, Vec::new())) {
        // No subsystem of that number (`nfnetlink_rcv_msg`).
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        answer => answer,
    };
    let mut ruleset = Ruleset::new(list(GET_CHAIN)?.iter().filter_map(chain).collect());
    for message in list(GET_RULE)? {
        if let Some((family, table, name, rule)) = rule(&message) {
            // One that came between the two lists is news, and looked at again.
            if let Some(at) = ruleset.find(family, &table, &name) {
                ruleset.chains[at].rules.push(rule);
            }
        }
    }
    Ok(ruleset)
}

fn family(message: &Message) -> Option<&'static str> {
    match message.family {
        IPV4 => Some("ip"),
        INET => Some("inet"),
        _ => None,
    }
}

/// NFTA_CHAIN_* and NFTA_HOOK_*.
fn chain(message: &Message) -> Option<Chain> {
    let attributes = Attributes(&message.attributes);
    let base = attributes.nested(4).and_then(|hook| {
        let priority = hook.number(2)? as i32;
        Some(Base { hook: hook.number(1)?, kind: attributes.text(7)?, priority })
    });
    (message.kind() == Some(NEW_CHAIN)).then_some(Chain {
        family: family(message)?,
        table: attributes.text(1)?,
        name: attributes.text(3)?,
        base,
        rules: Vec::new(),
    })
}

/// NFTA_RULE_*, NFTA_LIST_ELEM and NFTA_EXPR_*.
fn rule(message: &Message) -> Option<(&'static str, String, String, Rule)> {
    let attributes = Attributes(&message.attributes);
    if message.kind() != Some(NEW_RULE) {
        return None;
    }
    let expression = |(_, element)| {
        let element = Attributes(element);
        expression(&element.text(1).unwrap_or_default(), element.nested(2).unwrap_or(Attributes(&[])))
    };
    let expressions = attributes.nested(4).map(|list| list.iter().map(expression).collect());
    let rule = Rule { handle: attributes.handle(3)?, expressions: expressions.unwrap_or_default() };
    Some((family(message)?, attributes.text(1)?, attributes.text(2)?, rule))
}
