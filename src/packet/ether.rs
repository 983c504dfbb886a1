//! Ethernet II header with up to two VLAN tags.

/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;

/// Tag protocol identifiers: IEEE 802.1Q, 802.1ad, and the older QinQ one.
const TPIDS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const MAX_TAGS: usize = 2;

/// Addresses, ethertype and two tags, bytes.
pub const MAX_HEADER_LEN: usize = 14 + 4 * MAX_TAGS;

/// A frame whose Ethernet header and VLAN tags are wholly there.
#[derive(Debug, Clone, Copy)]
pub struct EthernetFrame<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    ethertype: u16,
}

impl<'a> EthernetFrame<'a> {
    /// Splits `frame` behind its last VLAN tag; `None` if the header is cut short.
    ///
    /// A third tag is left as what it looks like: a payload that is not IP.
    #[inline]
    pub fn new_checked(frame: &'a [u8]) -> Option<Self> {
        let mut tags = 0;
        let mut header_len = 14;
        loop {
            let (header, payload) = frame.split_at_checked(header_len)?;
            let ethertype = u16::from_be_bytes(*header.last_chunk()?);
            if ethertype == IPV4 || tags == MAX_TAGS || !TPIDS.contains(&ethertype) {
                return Some(EthernetFrame { header, payload, ethertype });
            }
            tags += 1;
            header_len += 4;
        }
    }

    /// Addresses, tags and ethertype: 14, 18 or 22 bytes.
    #[inline]
    pub fn header(&self) -> &'a [u8] {
        self.header
    }

    /// What follows, padding included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Ethertype behind the tags.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        self.ethertype
    }

    /// True for a multicast or broadcast destination (the I/G bit, IEEE 802 section 8.2).
    #[inline]
    pub fn is_group(&self) -> bool {
        self.header.first().is_some_and(|byte| byte & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(types: &[u16]) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        for ethertype in types {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend([0x12, 0x34]);
        }
        bytes
    }

    #[test]
    fn tags_are_skipped_up_to_two() {
        for (types, header, ethertype) in [
            (&[0x0800][..], 14, 0x0800),
            (&[0x8100, 0x0800], 18, 0x0800),
            (&[0x88a8, 0x8100, 0x0800], 22, 0x0800),
            (&[0x9100, 0x9100, 0x86dd], 22, 0x86dd),
            (&[0x8100, 0x8100, 0x8100, 0x0800], 22, 0x8100),
        ] {
            let bytes = frame(types);
            let view = EthernetFrame::new_checked(&bytes).unwrap();
            assert_eq!((view.header().len(), view.ethertype()), (header, ethertype), "{types:x?}");
            assert_eq!(view.payload(), &bytes[header..]);
        }
    }

    #[test]
    fn a_cut_header_is_refused_at_every_length() {
        let bytes = frame(&[0x88a8, 0x8100, 0x0800]);
        for len in 0..22 {
            assert!(EthernetFrame::new_checked(&bytes[..len]).is_none(), "{len}");
        }
        assert!(EthernetFrame::new_checked(&bytes[..22]).is_some());
    }
}
