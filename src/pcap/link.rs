//! Link types: where the IP packet of a frame begins (<https://www.tcpdump.org/linktypes.html>).

use crate::packet::ether::{self, EthernetFrame};
use crate::packet::{self, Packet, Reason};

/// A link layer that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Ethernet,
    /// IPv4 or IPv6, by the version in the header.
    Raw,
    Ipv4,
    Ipv6,
    /// An address family in the byte order of who captured.
    Null,
    /// The same in network byte order.
    Loop,
    /// Linux `any`, and what has no link layer.
    Sll,
    Sll2,
    Ppp,
}

/// Address families of IPv6 on Linux, NetBSD and OpenBSD, FreeBSD, and macOS; that of IPv4 is 2 on all.
const FAMILY_IPV4: u32 = 2;
const FAMILIES_IPV6: [u32; 4] = [10, 24, 28, 30];

/// `sll_pkttype` of what went to all or many.
const SLL_GROUP: [u16; 2] = [1, 2];

/// Longest that Ethernet pads a packet, bytes: what follows an empty packet is not its content.
const MAX_PADDING: usize = 46;

impl Link {
    /// The link type with that number in a file.
    pub(super) fn new(number: u16) -> Option<Link> {
        Some(match number {
            0 => Link::Null,
            1 => Link::Ethernet,
            9 | 50 => Link::Ppp,
            // 12 and 14 are what some systems wrote for 101.
            12 | 14 | 101 => Link::Raw,
            108 => Link::Loop,
            113 => Link::Sll,
            228 => Link::Ipv4,
            229 => Link::Ipv6,
            276 => Link::Sll2,
            _ => return None,
        })
    }

    /// The packet in `frame` and the length of what stands before it, or why it is left alone. [`Reason::SuperPacket`]
    /// is one whose length was for a NIC to fill in.
    #[inline]
    pub(super) fn packet(self, frame: &[u8]) -> Result<(usize, Packet<'_>), Reason> {
        let (len, ethertype) = self.header(frame)?;
        let bytes = &frame[len..];
        match packet::packet(ethertype, bytes) {
            Err(Reason::Malformed) if left_to_hardware(ethertype, bytes) => Err(Reason::SuperPacket),
            Ok(Packet::V6(_)) if left_to_hardware(ethertype, bytes) => Err(Reason::SuperPacket),
            result => result.map(|packet| (len, packet)),
        }
    }

    /// Length of the link header, which is there, and the ethertype of what follows.
    #[inline]
    fn header(self, frame: &[u8]) -> Result<(usize, u16), Reason> {
        let number = |at: usize| {
            let bytes = frame.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map(|bytes| u16::from_be_bytes(*bytes)).ok_or(Reason::Malformed)
        };
        match self {
            Link::Ethernet => {
                let link = EthernetFrame::new_checked(frame).ok_or(Reason::Malformed)?;
                let ip = [ether::IPV4, ether::IPV6].contains(&link.ethertype());
                match ip && link.is_group() {
                    true => Err(Reason::Group),
                    false => Ok((link.header().len(), link.ethertype())),
                }
            }
            Link::Raw => match frame.first().ok_or(Reason::Malformed)? >> 4 {
                4 => Ok((0, ether::IPV4)),
                6 => Ok((0, ether::IPV6)),
                _ => Err(Reason::NotIp),
            },
            Link::Ipv4 => Ok((0, ether::IPV4)),
            Link::Ipv6 => Ok((0, ether::IPV6)),
            Link::Null | Link::Loop => {
                let family = *frame.first_chunk().ok_or(Reason::Malformed)?;
                let (big, little) = (u32::from_be_bytes(family), u32::from_le_bytes(family));
                match if self == Link::Loop { big } else { big.min(little) } {
                    FAMILY_IPV4 => Ok((4, ether::IPV4)),
                    family if FAMILIES_IPV6.contains(&family) => Ok((4, ether::IPV6)),
                    _ => Err(Reason::NotIp),
                }
            }
            Link::Sll => cooked(frame, 16, number(0)?, number(14)?),
            Link::Sll2 => {
                let kind = frame.get(10).ok_or(Reason::Malformed)?;
                cooked(frame, 20, u16::from(*kind), number(0)?)
            }
            Link::Ppp => ppp(frame),
        }
    }
}

/// A header of `len` bytes, perhaps with VLAN tags after it.
fn cooked(frame: &[u8], len: usize, kind: u16, mut ethertype: u16) -> Result<(usize, u16), Reason> {
    let mut len = len;
    for _ in 0..2 {
        if let (0x8100 | 0x88a8, Some([_, _, a, b])) =
            (ethertype, frame.get(len..).and_then(<[u8]>::first_chunk))
        {
            ethertype = u16::from_be_bytes([*a, *b]);
            len += 4;
        }
    }
    match (frame.len() < len, SLL_GROUP.contains(&kind)) {
        (true, _) => Err(Reason::Malformed),
        (_, true) if [ether::IPV4, ether::IPV6].contains(&ethertype) => Err(Reason::Group),
        _ => Ok((len, ethertype)),
    }
}

/// Address and control may be left out (RFC 1661 section 6.6), and so may the first byte of the protocol (6.5).
fn ppp(frame: &[u8]) -> Result<(usize, u16), Reason> {
    let start = if frame.starts_with(&[0xff, 0x03]) { 2 } else { 0 };
    let (len, protocol) = match frame.get(start..).unwrap_or_default() {
        [short, ..] if short & 1 == 1 => (start + 1, u16::from(*short)),
        [first, second, ..] => (start + 2, u16::from_be_bytes([*first, *second])),
        _ => return Err(Reason::Malformed),
    };
    match protocol {
        0x21 => Ok((len, ether::IPV4)),
        0x57 => Ok((len, ether::IPV6)),
        _ => Err(Reason::NotIp),
    }
}

/// True if the length in the header is 0 although content follows: the packet was captured on its sender before the
/// NIC cut it (TSO), or is longer than the field can say (BIG TCP).
fn left_to_hardware(ethertype: u16, bytes: &[u8]) -> bool {
    match (ethertype, bytes) {
        (ether::IPV4, [first, _, 0, 0, ..]) => first >> 4 == 4 && bytes.len() > MAX_PADDING,
        (ether::IPV6, [first, _, _, _, 0, 0, ..]) => first >> 4 == 6 && bytes.len() > 40 + MAX_PADDING,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 24 bytes of IPv4, and 44 of IPv6.
    fn packets() -> [Vec<u8>; 2] {
        let mut v4 = vec![0x45, 0, 0, 24, 0, 1, 0, 0, 64, 253, 0, 0, 198, 18, 0, 1, 198, 51, 100, 1];
        v4.extend([1; 4]);
        let mut v6 = vec![0x60, 0, 0, 0, 0, 4, 59, 64];
        v6.extend([0x20; 32]);
        v6.extend([1; 4]);
        [v4, v6]
    }

    #[track_caller]
    fn found(link: u16, header: &[u8], expected: [bool; 2]) {
        let packets = packets();
        for (packet, expected) in packets.iter().zip(expected) {
            let frame = [header, packet].concat();
            let found = Link::new(link).unwrap().packet(&frame);
            match expected {
                true => assert_eq!(found.map(|(len, _)| len), Ok(header.len()), "{link} {header:x?}"),
                false => assert!(found.is_err(), "{link} {header:x?}"),
            }
        }
    }

    #[test]
    fn a_packet_is_found_behind_each_link_header() {
        for raw in [12, 14, 101] {
            found(raw, &[], [true, true]);
        }
        found(228, &[], [true, false]);
        found(229, &[], [false, true]);
        found(0, &[2, 0, 0, 0], [true, false]);
        found(0, &[0, 0, 0, 2], [true, false]);
        for family in [10, 24, 28, 30] {
            found(0, &[family, 0, 0, 0], [false, true]);
            found(108, &[0, 0, 0, family], [false, true]);
        }
        found(108, &[2, 0, 0, 0], [false, false]);
        let sll = |kind, ethertype: [u8; 2]| {
            [&[0, kind, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0][..], &ethertype].concat()
        };
        found(113, &sll(4, [8, 0]), [true, false]);
        found(113, &sll(0, [0x86, 0xdd]), [false, true]);
        found(113, &[&sll(0, [0x81, 0])[..], &[0, 5, 8, 0]].concat(), [true, false]);
        found(113, &sll(1, [8, 0]), [false, false]);
        let sll2 = |kind| [8, 0, 0, 0, 0, 0, 0, 2, 0, 1, kind, 6, 1, 2, 3, 4, 5, 6, 0, 0];
        found(276, &sll2(0), [true, false]);
        found(276, &sll2(2), [false, false]);
        for (header, expected) in [
            (&[0xff, 3, 0, 0x21][..], [true, false]),
            (&[0, 0x57], [false, true]),
            (&[0x21], [true, false]),
            (&[0xff, 3, 0x57], [false, true]),
            (&[0xc0, 0x21], [false, false]),
        ] {
            found(9, header, expected);
            found(50, header, expected);
        }
        assert!(Link::new(105).is_none());
    }

    #[test]
    fn a_frame_that_is_cut_anywhere_is_refused_without_a_panic() {
        for link in [0, 1, 9, 12, 101, 108, 113, 228, 229, 276].map(|number| Link::new(number).unwrap()) {
            for packet in packets() {
                for header in [&[][..], &[0xff, 3], &[2, 0, 0, 0], &[0; 16], &[8, 0, 0, 0]] {
                    let frame = [header, &packet].concat();
                    for len in 0..frame.len() {
                        let _ = link.packet(&frame[..len]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_length_of_0_before_content_was_for_a_nic_to_fill_in() {
        let [mut v4, mut v6] = packets();
        v4[2..4].fill(0);
        v6[4..6].fill(0);
        for (link, packet) in [(228, v4), (229, v6)] {
            let link = Link::new(link).unwrap();
            let long = [&packet[..], &[0; 200]].concat();
            assert_eq!(link.packet(&long).unwrap_err(), Reason::SuperPacket);
            // An empty packet that Ethernet has padded.
            assert_ne!(link.packet(&packet).err(), Some(Reason::SuperPacket));
        }
    }
}
