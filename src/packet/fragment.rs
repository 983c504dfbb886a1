//! Fragmentation (RFC 791 section 3.2, RFC 1812 section 5.2.6): each payload byte is copied
//! once, straight from the received frame into the buffer of its fragment.

use super::checksum;
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
        // Two for most: spare them the division.
        let frames = if left <= last_max { 2 } else { 2 + (left - last_max).div_ceil(middle) };
        Some(Layout { first, middle, frames, options })
    }

    /// Writes the fragments of `packet`, which starts `link_len` bytes into `frame`, to `sink`,
    /// which has room for them.
    ///
    /// All get `id`. `head` replaces the start of the payload: an edited transport header, or
    /// nothing. A header checksum that was wrong is wrong in every fragment, by the same error.
    #[inline]
    pub(super) fn write<S: Sink>(
        &self,
        frame: &[u8],
        link_len: usize,
        packet: &Ipv4Packet<'_>,
        id: u16,
        head: &[u8],
        sink: &mut S,
    ) {
        let headers = &frame[..link_len + HEADER_LEN];
        let payload = packet.payload();
        let flags = packet.flags_offset() & !(DF | MF | OFFSET);
        let more = packet.flags_offset() & MF;
        let id = u64::from(id) << 16;
        // RFC 1624 equation 3 over all that changes: !HC and every !m here, every m' below. The
        // first four words, from the version to the offset, are one number.
        let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = *packet.header();
        let before = u64::from_be_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        let unchanged = halves(!before)
            + u64::from(!options_sum(packet.options()))
            + u64::from(!packet.header_checksum());
        let (mut at, mut share, mut options) = (0, self.first, packet.options());
        for left in (0..self.frames).rev() {
            let header_len = HEADER_LEN + options.len();
            let more = if left == 0 { more } else { MF };
            let offset = ((packet.offset() + at) / 8) as u16;
            let words = (0x40 | (header_len as u64 / 4)) << 56
                | u64::from(b1) << 48
                | ((header_len + share) as u64) << 32
                | id
                | u64::from(flags | more | offset);
            let checksum = !checksum::fold(unchanged + halves(words) + u64::from(options_sum(options)));

            let out = sink.push(link_len + header_len + share);
            if at == 0 {
                // All that the first fragment is made of lies in a row.
                out.copy_from_slice(&frame[..link_len + header_len + share]);
            } else {
                let (out_headers, out) = out.split_at_mut(headers.len());
                out_headers.copy_from_slice(headers);
                let (out_options, out) = out.split_at_mut(options.len());
                // Most have none: spare them the call.
                if !options.is_empty() {
                    out_options.copy_from_slice(options);
                }
                out.copy_from_slice(&payload[at..at + share]);
            }
            // Written in place: copying a header that was just made up stalls on its stores.
            let (out_header, out) = out[link_len..].split_at_mut(header_len);
            out_header[..8].copy_from_slice(&words.to_be_bytes());
            out_header[10..12].copy_from_slice(&checksum.to_be_bytes());
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

/// Four words of 16 bits as a sum of two of 32, for [`checksum::fold`].
#[inline]
fn halves(words: u64) -> u64 {
    (words >> 32) + (words & 0xffff_ffff)
}

/// Most headers have none: spare them the call.
#[inline]
fn options_sum(options: &[u8]) -> u16 {
    if options.is_empty() { 0 } else { checksum::sum(options) }
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
