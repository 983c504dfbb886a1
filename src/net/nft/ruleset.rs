//! The rules that IPv4 packets meet, as the kernel lists them.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

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
    /// In the kernel's order.
    pub chains: Vec<Chain>,
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

/// Where a base chain hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// NF_INET_*: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// `filter`, `nat` or `route`.
    pub kind: String,
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
    /// Neither ends the rule nor matters.
    Neutral,
    /// Whatever else: matches or not.
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
    /// 1 if it is about to be encrypted.
    Encrypting,
    /// 1 if it was decrypted.
    Decrypted,
    /// Whatever else.
    Unknown,
}

/// The ruleset in the network namespace of the calling thread. Empty if the kernel has no nftables.
///
/// # Errors
/// Without CAP_NET_ADMIN, or if the ruleset keeps changing.
pub fn read() -> io::Result<Ruleset> {
    let mut connection = Connection::open(NETLINK_NETFILTER)?;
    let mut list = |kind| match connection.dump(Message::new(kind, 0, Vec::new())) {
        // No subsystem of that number (`nfnetlink_rcv_msg`).
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        answer => answer,
    };
    let mut ruleset = Ruleset { chains: list(GET_CHAIN)?.iter().filter_map(chain).collect() };
    for message in list(GET_RULE)? {
        if let Some((family, table, name, rule)) = rule(&message) {
            let of =
                |chain: &&mut Chain| (chain.family, &chain.table, &chain.name) == (family, &table, &name);
            if let Some(chain) = ruleset.chains.iter_mut().find(of) {
                chain.rules.push(rule);
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
    let base =
        attributes.nested(4).and_then(|hook| Some(Base { hook: hook.number(1)?, kind: attributes.text(7)? }));
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

/// Matches and targets of xtables that need connection tracking; `policy` and the rest do not.
const TRACKED: &[&str] = &[
    "conntrack",
    "state",
    "connmark",
    "connbytes",
    "connlimit",
    "connlabel",
    "helper",
    "cluster",
    "CT",
    "CONNMARK",
    "CONNSECMARK",
    "MASQUERADE",
    "SNAT",
    "DNAT",
    "REDIRECT",
    "NETMAP",
    "SYNPROXY",
];

fn expression(name: &str, data: Attributes) -> Expression {
    let known = match name {
        "meta" => meta(data),
        "payload" => payload(data),
        "rt" => rt(data),
        "bitwise" => bitwise(data),
        "cmp" => compare(data),
        "immediate" => verdict(data),
        "lookup" if data.number(3) == Some(0) => Some(Expression::VerdictMap),
        "match" if data.text(1).as_deref() == Some("policy") => policy(data),
        "match" | "target" => {
            data.text(1).filter(|name| TRACKED.contains(&name.as_str())).map(Expression::Tracked)
        }
        "ct" | "nat" | "masq" | "redir" | "connlimit" | "synproxy" => {
            Some(Expression::Tracked(name.to_owned()))
        }
        "reject" => Some(Expression::Final),
        // A flowtable only shortens the way of what is tracked.
        "counter" | "log" | "flow_offload" | "notrack" => Some(Expression::Neutral),
        _ => None,
    };
    known.unwrap_or(Expression::Other)
}

/// Registers 1 to 4 hold four of the 32-bit registers, which count from 8 (`nft_parse_register`).
fn register(number: u32) -> u32 {
    if (1..=4).contains(&number) { 4 * number - 4 } else { number.wrapping_sub(8) }
}

/// NFTA_DATA_VALUE.
fn data_value(data: Attributes, kind: u16) -> Option<Vec<u8>> {
    Some(data.nested(kind)?.get(1)?.to_vec())
}

/// NFTA_META_*; without a destination it sets something.
fn meta(data: Attributes) -> Option<Expression> {
    let Some(to) = data.number(1) else { return Some(Expression::Neutral) };
    let source = match data.number(2)? {
        4 => Source::InIndex,
        5 => Source::OutIndex,
        6 => Source::InName,
        7 => Source::OutName,
        25 => Source::Decrypted,
        _ => Source::Unknown,
    };
    Some(Expression::Load { register: register(to), source })
}

/// NFTA_PAYLOAD_*; without a destination it writes.
fn payload(data: Attributes) -> Option<Expression> {
    let Some(to) = data.number(1) else { return Some(Expression::Neutral) };
    let source = match data.number(2)? {
        1 => Source::Ip { offset: data.number(3)?, len: data.number(4)? },
        _ => Source::Unknown,
    };
    Some(Expression::Load { register: register(to), source })
}

/// NFTA_RT_*; 4 is NFT_RT_XFRM.
fn rt(data: Attributes) -> Option<Expression> {
    let source = if data.number(2)? == 4 { Source::Encrypting } else { Source::Unknown };
    Some(Expression::Load { register: register(data.number(1)?), source })
}

/// NFTA_BITWISE_*, the mask-and-xor operation.
fn bitwise(data: Attributes) -> Option<Expression> {
    if data.number(6).unwrap_or(0) != 0 {
        return Some(Expression::Load { register: register(data.number(2)?), source: Source::Unknown });
    }
    Some(Expression::Mask {
        source: register(data.number(1)?),
        register: register(data.number(2)?),
        mask: data_value(data, 4)?,
        xor: data_value(data, 5)?,
    })
}

/// NFTA_CMP_*, equal and unequal.
fn compare(data: Attributes) -> Option<Expression> {
    let operation = data.number(2)?;
    (operation < 2).then_some(Expression::Compare {
        register: register(data.number(1)?),
        equal: operation == 0,
        value: data_value(data, 3)?,
    })
}

/// NFTA_IMMEDIATE_*, NFTA_DATA_VERDICT and NFTA_VERDICT_*.
fn verdict(data: Attributes) -> Option<Expression> {
    if data.number(1)? != 0 {
        return Some(Expression::Load { register: register(data.number(1)?), source: Source::Unknown });
    }
    let verdict = data.nested(2)?.nested(2)?;
    let chain = verdict.text(2);
    Some(match verdict.number(1)? as i32 {
        // NFT_CONTINUE, NFT_BREAK, NFT_JUMP, NFT_GOTO, NFT_RETURN; the others are those of netfilter.
        -1 => Expression::Neutral,
        -2 => Expression::Other,
        -3 => Expression::Jump(chain?),
        -4 => Expression::Goto(chain?),
        -5 => Expression::Return,
        _ => Expression::Final,
    })
}

/// `struct xt_policy_info`: four elements of 76 bytes, flags, length. Elements ask for certain policies.
fn policy(data: Attributes) -> Option<Expression> {
    let info = data.get(3)?;
    let field = |at: usize| Some(u16::from_ne_bytes([*info.get(at)?, *info.get(at + 1)?]));
    let (flags, elements) = (field(304)?, field(306)?);
    let none = flags & 4 != 0;
    (elements == 0 || none).then_some(Expression::Policy { outbound: flags & 2 != 0, ipsec: !none })
}
