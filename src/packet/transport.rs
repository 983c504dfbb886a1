//! Edits of the TCP or UDP header: the MSS of a SYN, and a checksum left to hardware.
//!
//! A frame from a veth or virtio neighbour may come with `CHECKSUM_PARTIAL`: its checksum
//! field holds the folded, uncomplemented sum of the pseudo-header, for the NIC to finish.
//! The mark itself is lost on the way through XDP, so the frame must be finished here.
//!
//! It is told from a finished frame by that value. A valid checksum equals it for one frame
//! in 2^16 by chance, hence the full sum is verified before it is replaced; the rest pay one
//! comparison. A frame that was damaged on a wire behind an intact Ethernet FCS, and whose
//! wrong checksum happens to be that value (2^-16 of those), would be taken for unfinished.

use super::ipv4::{Ipv4Packet, TCP, UDP};
use super::ipv6::{self, Ipv6Packet};
use super::reason::{Edit, Edits};
use super::tcp::{self, TcpSegment};
use super::{checksum, mss};

/// Length of the UDP header, bytes, and where the checksum stands in it.
const UDP_HEADER_LEN: usize = 8;
const UDP_CHECKSUM: usize = 6;

/// The TCP segment or UDP datagram in a packet, from its header on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transport<'a> {
    /// `TCP` or `UDP`.
    pub(super) protocol: u8,
    /// Length of the IP header with its options or extension headers, bytes.
    pub(super) ip_header_len: usize,
    /// Header and data, the header perhaps not wholly there.
    pub(super) bytes: &'a [u8],
    /// Sum of the pseudo-header.
    pub(super) pseudo: u16,
    /// True if `bytes` is but the first fragment's share of it.
    pub(super) fragment: bool,
}

impl<'a> Transport<'a> {
    /// `None` for other protocols, and behind the first fragment, where the bytes are data,
    /// whatever they look like.
    #[inline]
    pub(super) fn of_ipv4(packet: &Ipv4Packet<'a>) -> Option<Self> {
        let (protocol, bytes) = (packet.protocol(), packet.payload());
        if !matches!(protocol, TCP | UDP) || packet.offset() != 0 {
            return None;
        }
        // The payload is shorter than the total length, a u16.
        let len = bytes.len() as u16;
        let pseudo = checksum::pseudo_header(packet.source(), packet.destination(), protocol, len);
        let ip_header_len = packet.header_len();
        Some(Transport { protocol, ip_header_len, bytes, pseudo, fragment: packet.is_fragment() })
    }

    /// The same for IPv6, extension headers skipped.
    #[inline]
    pub(super) fn of_ipv6(packet: &Ipv6Packet<'a>) -> Option<Self> {
        let upper = packet.upper_layer().filter(|upper| matches!(upper.protocol, TCP | UDP))?;
        let bytes = packet.payload().get(upper.extensions..)?;
        // The payload length is a u16.
        let len = bytes.len() as u16;
        // Under a routing header that is not used up the final destination would count (RFC 8200
        // section 8.1), under mobile IPv6 the home address: those sums differ, and count as wrong.
        let pseudo = checksum::pseudo_header_ipv6(packet.source(), packet.destination(), upper.protocol, len);
        let ip_header_len = ipv6::HEADER_LEN + upper.extensions;
        Some(Transport { protocol: upper.protocol, ip_header_len, bytes, pseudo, fragment: upper.fragment })
    }

    /// True if a checksum field of `field` is what `CHECKSUM_PARTIAL` leaves. Never in a
    /// fragment: the kernel finishes the sum before it fragments (`ip_fragment`).
    #[inline]
    pub(super) fn seems_unfinished(&self, field: u16) -> bool {
        field == self.pseudo && !self.fragment
    }

    /// For a UDP datagram that a GSO packet can stand for, whether its checksum was left unfinished. `None` for one whose
    /// checksum is wrong, which the kernel would make right, or whose length field says less than there is.
    #[inline]
    pub(super) fn whole_datagram(&self) -> Option<bool> {
        if self.protocol != UDP || self.fragment || declared_len(self.bytes) != Some(self.bytes.len()) {
            return None;
        }
        let field = u16::from_be_bytes(*self.bytes.get(UDP_CHECKSUM..)?.first_chunk()?);
        if field == 0 || checksum::add(checksum::sum(self.bytes), self.pseudo) == 0xffff {
            return Some(false);
        }
        self.seems_unfinished(field).then_some(true)
    }
}

/// What to change in the transport header of one packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeaderEdits {
    /// Position behind the IP headers, and the finished checksum.
    checksum: Option<(usize, u16)>,
    /// MSS limit.
    mss: Option<u16>,
}

impl HeaderEdits {
    /// The edits that `transport` is due, under an MSS limit of `mss`.
    #[inline]
    pub(super) fn of(transport: &Transport<'_>, mss: Option<u16>) -> Self {
        let mut edits = HeaderEdits { checksum: None, mss: None };
        if transport.protocol == TCP {
            edits.checksum = unfinished(transport, tcp::CHECKSUM);
            if TcpSegment::new_checked(transport.bytes).is_some_and(|segment| segment.syn()) {
                edits.mss = mss;
            }
        } else if declared_len(transport.bytes) == Some(transport.bytes.len()) {
            edits.checksum = unfinished(transport, UDP_CHECKSUM);
        }
        edits
    }

    /// True if there is nothing to do.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.checksum.is_none() && self.mss.is_none()
    }

    /// Applies them to `transport`, which starts at the transport header: all of the packet's,
    /// or as much as its header.
    #[cold]
    pub(super) fn apply(&self, transport: &mut [u8]) -> Edits {
        let mut done = Edits::NONE;
        if let Some((at, value)) = self.checksum {
            transport[at..at + 2].copy_from_slice(&value.to_be_bytes());
            done.insert(Edit::Checksum);
        }
        if self.mss.is_some_and(|limit| mss::clamp(transport, limit)) {
            done.insert(Edit::Mss);
        }
        done
    }
}

/// The length field of a UDP header.
#[inline]
fn declared_len(datagram: &[u8]) -> Option<usize> {
    let header = datagram.first_chunk::<UDP_HEADER_LEN>()?;
    Some(usize::from(u16::from_be_bytes([header[4], header[5]])))
}

/// The finished value for the checksum at `at`, if it was left unfinished.
#[inline]
fn unfinished(transport: &Transport<'_>, at: usize) -> Option<(usize, u16)> {
    let field = u16::from_be_bytes(*transport.bytes.get(at..)?.first_chunk()?);
    if transport.seems_unfinished(field) { finish(transport.bytes, at, field) } else { None }
}

#[cold]
fn finish(payload: &[u8], at: usize, pseudo: u16) -> Option<(usize, u16)> {
    // The field holds `pseudo`: summing the payload adds the pseudo-header once, as the NIC does.
    let sum = checksum::sum(payload);
    if checksum::add(sum, pseudo) == 0xffff {
        return None; // verifies as it stands
    }
    // 0 would mean "no checksum" to UDP; TCP does not mind (Linux CSUM_MANGLED_0).
    Some((at, if sum == 0xffff { 0xffff } else { !sum }))
}
