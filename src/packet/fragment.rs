//! Fragmentation (RFC 791 section 3.2, RFC 1812 section 5.2.6): each payload byte is copied
//! once, straight from the received frame into the buffer of its fragment.

use super::checksum;
use super::ether::EthernetFrame;
use super::ipv4::{DF, HEADER_LEN, Ipv4Packet, MAX_OPTIONS, MF, OFFSET};
use super::options::{self, Step};
use super::transform::Sink;

/// Set in the kind of IPv4 options that every fragment repeats (RFC 791 section 3.1).
const COPIED: u8 = 0x80;

/// Largest datagram, bytes: what the total length field can say.
const MAX_DATAGRAM: usize = 65_535;

/// How one oversize packet is cut up.
#[derive(Debug)]
pub(super) struct Layout {
    /// Payload of the first fragment, bytes: as much as fits, in units of 8.
    first: usize,
    /// Payload of those between the first and the last, bytes, in units of 8.
    middle: usize,
    /// How many there are.
    pub(super) frames: usize,
    /// The options on all but the first.
    options: Copied,
}

impl Layout {
    /// Cuts `packet`, which is longer than `mtu` (at least `MIN_MTU`).
    ///
    /// `None` where a fragment would be one that no receiver can use: the option list is
    /// malformed (the kernel answers it with an ICMP parameter problem), the packet is a
    /// fragment that reaches beyond the largest datagram, or one that is not the last and
    /// does not end at a multiple of 8.
    #[inline]
    pub(super) fn new(packet: &Ipv4Packet<'_>, mtu: usize) -> Option<Self> {
        let payload = packet.payload().len();
        let beyond = packet.offset() + packet.header_len() + payload > MAX_DATAGRAM;
        if beyond || packet.flags_offset() & MF != 0 && !payload.is_multiple_of(8) {
            return None;
        }
        let options = Copied::from(packet.options())?;
        let first = (mtu - packet.header_len()) & !7;
        let last_max = mtu - HEADER_LEN - options.len;
        let middle = last_max & !7;
        // Oversize, so that more than the first fragment's share is left.
        let left = payload - first;
        let frames = 2 + left.saturating_sub(last_max).div_ceil(middle);
        Some(Layout { first, middle, frames, options })
    }

    /// Writes the fragments of `packet` in `frame` to `sink`, which has room for them.
    ///
    /// All get `id`. `head` replaces the start of the payload: an edited transport header, or
    /// nothing. A header checksum that was wrong is wrong in every fragment, by the same error.
    #[inline]
    pub(super) fn write<S: Sink>(
        &self,
        frame: &EthernetFrame<'_>,
        packet: &Ipv4Packet<'_>,
        id: u16,
        head: &[u8],
        sink: &mut S,
    ) {
        let link = frame.header();
        let payload = packet.payload();
        let flags = packet.flags_offset() & !(DF | MF | OFFSET);
        let more = packet.flags_offset() & MF;
        let error = !packet.header_sum();
        let (mut at, mut share, mut options) = (0, self.first, packet.options());
        for left in (0..self.frames).rev() {
            let data = &payload[at..at + share];
            let header_len = HEADER_LEN + options.len();
            let mut header = *packet.header();
            header[0] = 0x40 | (header_len / 4) as u8;
            [header[2], header[3]] = ((header_len + share) as u16).to_be_bytes();
            [header[4], header[5]] = id.to_be_bytes();
            let more = if left == 0 { more } else { MF };
            let offset = ((packet.offset() + at) / 8) as u16;
            [header[6], header[7]] = (flags | more | offset).to_be_bytes();
            [header[10], header[11]] = [0, 0];
            let sum = checksum::add(checksum::sum(&header), checksum::sum(options));
            [header[10], header[11]] = (!checksum::add(sum, error)).to_be_bytes();

            let out = sink.push(link.len() + header_len + share);
            let (out_link, out) = out.split_at_mut(link.len());
            let (out_header, out) = out.split_at_mut(HEADER_LEN);
            let (out_options, out) = out.split_at_mut(options.len());
            out_link.copy_from_slice(link);
            out_header.copy_from_slice(&header);
            out_options.copy_from_slice(options);
            out.copy_from_slice(data);
            if let Some(head) = head.get(at..).filter(|head| !head.is_empty()) {
                let len = head.len().min(share);
                out[..len].copy_from_slice(&head[..len]);
            }

            at += share;
            options = self.options.as_slice();
            share = if left == 1 { payload.len() - at } else { self.middle };
        }
        debug_assert_eq!(at, payload.len());
    }
}

/// The copied options of a header, padded with end-of-list to a multiple of 4.
#[derive(Debug)]
struct Copied {
    bytes: [u8; MAX_OPTIONS],
    len: usize,
}

impl Copied {
    /// Of `list`; `None` if it is malformed.
    #[inline]
    fn from(list: &[u8]) -> Option<Self> {
        let mut copied = Copied { bytes: [0; MAX_OPTIONS], len: 0 };
        let mut at = 0;
        loop {
            match options::next(list, at) {
                Step::Option(kind, place) => {
                    at = place.end;
                    if kind & COPIED != 0 {
                        let end = copied.len + place.len();
                        copied.bytes[copied.len..end].copy_from_slice(&list[place]);
                        copied.len = end;
                    }
                }
                Step::End => break,
                Step::Malformed => return None,
            }
        }
        copied.len = copied.len.next_multiple_of(4);
        Some(copied)
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
