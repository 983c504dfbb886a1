//! IPv6 header and the extension headers on the way to TCP or UDP (RFC 8200).

use std::net::Ipv6Addr;

/// Length of the header without extensions, bytes.
pub const HEADER_LEN: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Offset in the fragment header's second word, above two reserved bits and M.
const OFFSET: u16 = 0xfff8;

/// More extension headers than any sender has reason to use (each kind once, destination
/// options twice: RFC 8200 section 4.1), so that a long chain costs bounded time.
pub const MAX_EXTENSIONS: usize = 6;

/// A packet whose header is whole and whose payload length is there.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

/// What follows the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpperLayer {
    /// Protocol number.
    pub protocol: u8,
    /// Length of the extension headers, bytes.
    pub extensions: usize,
    /// True if there is a fragment header, be it that of an atomic fragment (RFC 6946).
    pub fragment: bool,
}

impl<'a> Ipv6Packet<'a> {
    /// The packet at the start of `bytes`; what follows its payload length (Ethernet padding)
    /// is no part of it.
    ///
    /// `None` unless version is 6 and 0 < payload length ≤ what follows the header. A length of
    /// 0 is that of a jumbogram (RFC 2675), of a GSO packet over 64 KB, or of a packet without
    /// anything in it.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let payload = rest.get(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
        (header[0] >> 4 == 6 && !payload.is_empty()).then_some(Ipv6Packet { header, payload })
    }

    /// The header without extensions.
    #[inline]
    pub fn header(&self) -> &'a [u8; HEADER_LEN] {
        self.header
    }

    /// Extension headers and data, by the header's length.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Length of the whole packet, bytes: 41 to 65,575.
    #[inline]
    pub fn total_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(*self.header[8..].first_chunk::<16>().unwrap_or(&[0; 16]))
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(*self.header.last_chunk::<16>().unwrap_or(&[0; 16]))
    }

    /// The way through hop-by-hop options, routing, destination options and fragment header.
    ///
    /// `None` for every fragment but the first, for a chain that is cut short or longer than
    /// [`MAX_EXTENSIONS`]. Any other header ends the walk: nothing may be edited behind an
    /// authentication header, which covers it.
    #[inline]
    pub fn upper_layer(&self) -> Option<UpperLayer> {
        let mut found = UpperLayer { protocol: self.header[6], extensions: 0, fragment: false };
        for _ in 0..=MAX_EXTENSIONS {
            if !matches!(found.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
                return Some(found);
            }
            let rest = self.payload.get(found.extensions..)?;
            let [next, len, high, low, ..] = *rest else { return None };
            let len = if found.protocol == FRAGMENT {
                if u16::from_be_bytes([high, low]) & OFFSET != 0 {
                    return None;
                }
                found.fragment = true;
                8
            } else {
                usize::from(len) * 8 + 8
            };
            if len > rest.len() {
                return None;
            }
            found.extensions += len;
            found.protocol = next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;
    const AUTHENTICATION: u8 = 51;

    fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x60;
        bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        bytes[6] = next;
        bytes[8..24].copy_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
        bytes[24..40].copy_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).octets());
        bytes.extend(payload);
        bytes
    }

    fn walk(bytes: &[u8]) -> Option<(u8, usize, bool)> {
        let upper = Ipv6Packet::new_checked(bytes)?.upper_layer()?;
        Some((upper.protocol, upper.extensions, upper.fragment))
    }

    #[test]
    fn lengths_and_addresses() {
        let mut bytes = packet(TCP, &[7; 20]);
        bytes.extend([0xee; 6]);
        let view = Ipv6Packet::new_checked(&bytes).unwrap();
        assert_eq!((view.payload(), view.total_len()), ([7; 20].as_slice(), 60));
        assert_eq!(view.source().to_string(), "2001:db8::1");
        assert_eq!(view.destination().to_string(), "2001:db8::2");
        for (at, byte) in [(0, 0x40), (5, 0), (5, 27)] {
            let mut changed = bytes.clone();
            changed[at] = byte;
            assert!(Ipv6Packet::new_checked(&changed).is_none(), "{byte:#x} at {at}");
        }
        assert!(Ipv6Packet::new_checked(&bytes[..39]).is_none());
    }

    #[test]
    fn tcp_is_found_directly_and_behind_extension_headers() {
        let segment = [7u8; 20];
        assert_eq!(walk(&packet(TCP, &segment)), Some((TCP, 0, false)));
        for (kind, extension, fragment) in [
            (HOP_BY_HOP, [TCP, 0, 0, 0, 0, 0, 0, 0].as_slice(), false),
            (DESTINATION, &[TCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], false),
            (ROUTING, &[TCP, 0, 4, 0, 0, 0, 0, 0], false),
            (FRAGMENT, &[TCP, 0, 0, 1, 0, 0, 0, 9], true),
        ] {
            let bytes = packet(kind, &[extension, &segment].concat());
            assert_eq!(walk(&bytes), Some((TCP, extension.len(), fragment)), "{kind}");
        }
        let all =
            [[ROUTING, 0, 0, 0, 0, 0, 0, 0], [FRAGMENT, 0, 0, 0, 0, 0, 0, 0], [17, 0, 0, 0, 0, 0, 0, 9]];
        assert_eq!(walk(&packet(DESTINATION, all.as_flattened())), Some((17, 24, true)));
    }

    #[test]
    fn the_walk_ends_where_nothing_may_be_edited() {
        let later_fragment = [TCP, 0, 0, 8, 0, 0, 0, 9].repeat(4);
        assert_eq!(walk(&packet(FRAGMENT, &later_fragment)), None);
        let authenticated = [TCP, 4, 0, 0].repeat(10);
        assert_eq!(walk(&packet(AUTHENTICATION, &authenticated)), Some((AUTHENTICATION, 0, false)));
        for (headers, found) in [(6, true), (7, false)] {
            let mut chain = [DESTINATION, 0, 0, 0, 0, 0, 0, 0].repeat(headers);
            chain[headers * 8 - 8] = TCP;
            assert_eq!(walk(&packet(DESTINATION, &chain)).is_some(), found, "{headers} headers");
        }
        let extension = [TCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for len in 1..16 {
            assert_eq!(walk(&packet(DESTINATION, &extension[..len])), None, "cut to {len}");
        }
    }
}
