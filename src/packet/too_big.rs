//! What a host is told whose packet is too big: ICMP destination unreachable, fragmentation
//! needed (RFC 792, RFC 1191) and ICMPv6 packet too big (RFC 4443 section 3.2).

use super::ipv4::{ICMP, Ipv4Packet};
use super::ipv6::Ipv6Packet;
use super::parse::Packet;
use super::{checksum, ipv4, ipv6};

/// Length of the header of either message, bytes.
const HEADER_LEN: usize = 8;
/// Longest ICMP message, bytes: in a datagram of 576 (RFC 1812 section 4.3.2.3).
const MAX_LEN_IPV4: usize = 576 - ipv4::HEADER_LEN;
/// Longest ICMPv6 message, bytes: in a packet of the minimum MTU (RFC 4443 section 2.4 c).
const MAX_LEN_IPV6: usize = 1280 - ipv6::HEADER_LEN;

/// Longest message, bytes.
pub const MAX_LEN: usize = MAX_LEN_IPV6;

/// ICMP errors: unreachable, source quench, redirect, time exceeded, parameter problem.
const ICMP_ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
const ICMPV6: u8 = 58;
/// ICMPv6 types below this are errors (RFC 4443 section 2.1).
const ICMPV6_INFORMATIONAL: u8 = 128;
const ICMPV6_REDIRECT: u8 = 137;

/// True if the source of `packet` may be sent a message about it (RFC 1812 section 4.3.2.7,
/// RFC 4443 section 2.4 e).
///
/// Not for a packet without DF, whose sender lets it be fragmented; nor for a wrong header
/// checksum, an ICMP error, a group destination, a fragment other than the first, or a source
/// that is not one host (RFC 1812 section 5.3.7).
pub fn may_notify(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::V4(packet) => may_notify_ipv4(packet),
        Packet::V6(packet) => may_notify_ipv6(packet),
    }
}

fn may_notify_ipv4(packet: &Ipv4Packet<'_>) -> bool {
    let sum = checksum::add(checksum::sum(packet.header()), checksum::sum(packet.options()));
    let error =
        packet.protocol() == ICMP && packet.payload().first().is_none_or(|kind| ICMP_ERRORS.contains(kind));
    let group = packet.destination().is_multicast() || packet.destination().is_broadcast();
    // Network 0, loopback; multicast, reserved and broadcast.
    let one_host = !matches!(packet.source().octets()[0], 0 | 127 | 224..);
    packet.df() && packet.offset() == 0 && sum == 0xffff && !error && !group && one_host
}

fn may_notify_ipv6(packet: &Ipv6Packet<'_>) -> bool {
    let Some(upper) = packet.upper_layer() else { return false };
    let error = upper.protocol == ICMPV6
        && packet
            .payload()
            .get(upper.extensions)
            .is_none_or(|kind| *kind < ICMPV6_INFORMATIONAL || *kind == ICMPV6_REDIRECT);
    let source = packet.source();
    let one_host = !source.is_unspecified() && !source.is_loopback() && !source.is_multicast();
    !error && !packet.destination().is_multicast() && one_host
}

/// Writes the ICMP or ICMPv6 message that says that `packet` is longer than `mtu` bytes, and
/// returns its length. It quotes as much of the packet as is allowed and as `out` has room for.
///
/// The ICMPv6 checksum is left 0: it covers the source address, which the kernel chooses, and
/// the kernel fills it in (RFC 3542 section 3.1).
pub fn write(packet: &Packet<'_>, mtu: u16, out: &mut [u8]) -> usize {
    let (kind_code, max_len, parts) = match packet {
        Packet::V4(packet) => {
            ([3, 4], MAX_LEN_IPV4, [packet.header().as_slice(), packet.options(), packet.payload()])
        }
        Packet::V6(packet) => ([2, 0], MAX_LEN_IPV6, [packet.header().as_slice(), &[], packet.payload()]),
    };
    let room = out.len().min(max_len);
    let Some((header, mut quote)) = out[..room].split_first_chunk_mut::<HEADER_LEN>() else { return 0 };
    let mut quoted = 0;
    for part in parts {
        let len = part.len().min(quote.len());
        let (place, rest) = quote.split_at_mut(len);
        place.copy_from_slice(&part[..len]);
        quote = rest;
        quoted += len;
    }
    *header = [0; HEADER_LEN];
    header[..2].copy_from_slice(&kind_code);
    // Of IPv6 the MTU takes 32 bits, and the upper half is 0.
    header[6..].copy_from_slice(&mtu.to_be_bytes());
    let message = &mut out[..HEADER_LEN + quoted];
    if let Packet::V4(_) = packet {
        let sum = !checksum::sum(message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message.len()
}
