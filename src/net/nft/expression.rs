//! What the steps of a rule do, out of the attributes that the kernel lists.

use super::message::Attributes;
use super::ruleset::{Expression, Source};

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

/// Matches of xtables that look behind the IP header, or may.
const PORTS: &[&str] = &[
    "ah",
    "bpf",
    "dccp",
    "ecn",
    "esp",
    "hashlimit",
    "icmp",
    "ipcomp",
    "l2tp",
    "multiport",
    "osf",
    "sctp",
    "set",
    "socket",
    "string",
    "tcp",
    "tcpmss",
    "u32",
    "udp",
    "udplite",
];

/// Targets of xtables that go on and change nothing, or only the options of a SYN, which is no fragment.
const NEUTRAL: &[&str] = &["LOG", "NFLOG", "TCPMSS", "TRACE"];

/// Targets of xtables that queue packets to user space.
const QUEUE: &[&str] = &["NFQUEUE", "QUEUE"];

/// One of `name` (NFTA_EXPR_NAME).
pub(super) fn expression(name: &str, data: Attributes) -> Expression {
    let known = match name {
        "meta" => meta(data),
        "payload" => payload(data),
        "rt" => rt(data),
        "bitwise" => bitwise(data),
        "cmp" if data.number(2).is_some_and(|operation| operation < 2) => compare(data),
        "immediate" => verdict(data),
        "lookup" if data.number(3) == Some(0) => Some(Expression::VerdictMap),
        "match" if data.text(1).as_deref() == Some("policy") => {
            Some(policy(data).unwrap_or(Expression::Condition))
        }
        "match" | "target" => data.text(1).map(|extension| xtables(name, extension)),
        "ct" | "nat" | "masq" | "redir" | "connlimit" | "synproxy" => {
            Some(Expression::Tracked(name.to_owned()))
        }
        "objref" => Some(object(data)),
        "exthdr" => Some(extension_header(data)),
        "socket" | "osf" | "inner" => Some(Expression::Ports(name.to_owned())),
        "queue" => Some(Expression::Queue),
        "reject" => Some(Expression::Final),
        // A flowtable only shortens the way of what is tracked.
        "counter" | "log" | "flow_offload" | "notrack" => Some(Expression::Neutral),
        "lookup" | "cmp" | "range" | "byteorder" | "hash" | "numgen" | "fib" | "xfrm" | "tunnel"
        | "limit" | "quota" | "last" => Some(Expression::Condition),
        _ => None,
    };
    known.unwrap_or(Expression::Other)
}

fn xtables(kind: &str, extension: String) -> Expression {
    let one_of = |names: &[&str]| names.contains(&extension.as_str());
    match kind {
        _ if one_of(TRACKED) => Expression::Tracked(extension),
        "match" if one_of(PORTS) => Expression::Ports(extension),
        "match" => Expression::Condition,
        _ if one_of(NEUTRAL) => Expression::Neutral,
        _ if one_of(QUEUE) => Expression::Queue,
        _ => Expression::Other,
    }
}

/// NFTA_OBJREF_* and NFT_OBJECT_*; which objects a map has is not known.
fn object(data: Attributes) -> Expression {
    match data.number(1) {
        Some(1) => Expression::Neutral,
        // Quota and limit.
        Some(2 | 4) => Expression::Condition,
        // Tunnel and security mark.
        Some(6 | 8) => Expression::Set,
        // Helper, timeout and expectation of a connection, synproxy, and what comes.
        _ => Expression::Tracked("objref".to_owned()),
    }
}

/// NFTA_EXTHDR_*; without a destination it writes an option of TCP. Options of IPv4 are in every fragment or do not
/// matter; those of TCP, SCTP and DCCP are behind the header.
fn extension_header(data: Attributes) -> Expression {
    match (data.number(1), data.number(6)) {
        (None, _) => Expression::Neutral,
        (Some(_), None | Some(0 | 2)) => Expression::Condition,
        (Some(to), _) => Expression::Load { register: register(to), source: Source::Transport },
    }
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
    let Some(to) = data.number(1) else {
        // NFT_META_NFTRACE
        let traces = data.number(2) == Some(12);
        return Some(if traces { Expression::Neutral } else { Expression::Set });
    };
    let source = match data.number(2)? {
        4 => Source::InIndex,
        5 => Source::OutIndex,
        6 => Source::InName,
        7 => Source::OutName,
        15 => Source::Family,
        16 => Source::Protocol,
        25 => Source::Decrypted,
        _ => Source::Unknown,
    };
    Some(Expression::Load { register: register(to), source })
}

/// NFTA_PAYLOAD_*; without a destination it writes.
fn payload(data: Attributes) -> Option<Expression> {
    let Some(to) = data.number(1) else { return Some(Expression::Set) };
    // NFT_PAYLOAD_*: headers of layers 2, 3 and 4, and behind them.
    let source = match data.number(2)? {
        0 => Source::Unknown,
        1 => Source::Ip { offset: data.number(3)?, len: data.number(4)? },
        _ => Source::Transport,
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
    Some(Expression::Compare {
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
        -2 => Expression::Condition,
        -3 => Expression::Jump(chain?),
        -4 => Expression::Goto(chain?),
        -5 => Expression::Return,
        _ => Expression::Final,
    })
}

/// `struct xt_policy_info`: four elements of 76 bytes, flags, length. Without XT_POLICY_MATCH_STRICT the first element
/// counts; iptables writes an empty one if only IPsec is asked for. What asks for certain policies is a condition.
fn policy(data: Attributes) -> Option<Expression> {
    let info = data.get(3)?;
    let field = |at: usize| Some(u16::from_ne_bytes([*info.get(at)?, *info.get(at + 1)?]));
    let (flags, elements) = (field(304)?, field(306)?);
    let (outbound, none, strict) = (flags & 2 != 0, flags & 4 != 0, flags & 8 != 0);
    // `match` of the element: addresses, SPI, protocol, mode, request ID.
    let any = !strict && elements > 0 && *info.get(74)? == 0;
    (none || any).then_some(Expression::Policy { outbound, ipsec: !none })
}

#[cfg(test)]
mod tests {
    use super::super::message::{Message, number, text};
    use super::*;
    use netlink_packet_core::DefaultNla;

    /// `-m policy` as iptables 1.8.9 writes it, with the `match` byte of the first element.
    fn policy_match(flags: u16, elements: u16, asked: u8) -> Expression {
        let mut info = vec![0; 308];
        info[74] = asked;
        info[304..306].copy_from_slice(&flags.to_ne_bytes());
        info[306..].copy_from_slice(&elements.to_ne_bytes());
        parsed("match", vec![text(1, "policy"), number(2, 0), DefaultNla::new(3, info)])
    }

    fn parsed(name: &str, data: Vec<DefaultNla>) -> Expression {
        expression(name, Attributes(&Message::new(0, 0, data).attributes))
    }

    #[test]
    fn the_policy_match_of_iptables_is_read() {
        let policy = |outbound, ipsec| Expression::Policy { outbound, ipsec };
        // --dir out --pol ipsec, --dir in --pol ipsec, --dir out --pol none
        assert_eq!(policy_match(2, 1, 0), policy(true, true));
        assert_eq!(policy_match(1, 1, 0), policy(false, true));
        assert_eq!(policy_match(2 | 4, 0, 0), policy(true, false));
        // --proto esp, --strict, and what the kernel never matches.
        assert_eq!(policy_match(2, 1, 8), Expression::Condition);
        assert_eq!(policy_match(2 | 8, 1, 0), Expression::Condition);
        assert_eq!(policy_match(2, 0, 0), Expression::Condition);
    }

    #[test]
    fn extensions_of_xtables_are_known_by_name() {
        let named = |kind: &str, name: &str| parsed(kind, vec![text(1, name)]);
        assert_eq!(named("match", "conntrack"), Expression::Tracked("conntrack".into()));
        assert_eq!(named("target", "MASQUERADE"), Expression::Tracked("MASQUERADE".into()));
        for name in ["tcp", "udp", "multiport", "sctp", "dccp", "icmp"] {
            assert_eq!(named("match", name), Expression::Ports(name.into()));
        }
        assert_eq!(named("match", "limit"), Expression::Condition);
        assert_eq!(named("target", "TCPMSS"), Expression::Neutral);
        assert_eq!(named("target", "NFQUEUE"), Expression::Queue);
        assert_eq!(named("target", "MARK"), Expression::Other);
        assert_eq!(parsed("unheard of", vec![]), Expression::Other);
    }
}
