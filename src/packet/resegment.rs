//! Resegmentation: an oversize TCP segment becomes several that fit, as a NIC or the kernel
//! would have cut it (TSO, `tcp_gso_segment`), with the sender's own headers on each.
//!
//! Every segment is as large as fits. Sequence numbers count on, PSH and FIN are on the last
//! only, CWR on the first only (RFC 3168 section 6.1.2), but on all with Accurate ECN, where it is part
//! of a counter (RFC 9768). Options are on all, IPv4 options and IPv6 extension headers are repeated,
//! DF stays as it came, and the IPv4 identification counts on.

use super::gso::Segment;
use super::ipv4::{self, TCP};
use super::ipv6;
use super::reason::Reason;
use super::tcp::{self, CWR, FIN, PSH, RST, SYN, TcpSegment, URG};
use super::transform::Sink;
use super::transport::Transport;
use super::{checksum, options};

/// TCP options that sign the segment: MD5 (RFC 2385) and TCP-AO (RFC 5925).
const SIGNATURES: [u8; 2] = [19, 29];

/// Whether and how one oversize packet is cut up.
#[derive(Debug)]
pub(super) enum Plan<'a> {
    /// It can be.
    Cut(Segments<'a>),
    /// It is TCP, but must stay whole.
    Kept(Reason),
    /// It is not TCP, or its headers leave no room for data.
    Other,
}

/// How one oversize segment is cut up.
#[derive(Debug)]
pub(super) struct Segments<'a> {
    /// Ethernet to TCP options: the start of the frame.
    headers: &'a [u8],
    /// Where the TCP header starts in `headers`.
    tcp_at: usize,
    tcp: TcpSegment<'a>,
    data: &'a [u8],
    data_sum: u16,
    /// Sum over pseudo-header and TCP header less length, sequence number, flags and checksum.
    fixed_sum: u64,
    /// Data of each but the last, bytes.
    share: usize,
    /// The flags that only the first may have.
    first_only: u8,
    /// How many there are.
    pub(super) frames: usize,
    /// True if the checksum was left to hardware.
    pub(super) unfinished: bool,
}

impl<'a> Plan<'a> {
    /// For the packet `link_len` bytes into `frame`, which is longer than `mtu`.
    ///
    /// The checksum is verified first: new ones over damaged data would make it look sound.
    #[inline]
    pub(super) fn new(frame: &'a [u8], link_len: usize, transport: &Transport<'a>, mtu: usize) -> Self {
        if transport.protocol != TCP || transport.fragment {
            return Plan::Other;
        }
        let Some(tcp) = TcpSegment::new_checked(transport.bytes) else { return Plan::Other };
        let Some(signed) = options::find(tcp.options(), &SIGNATURES) else { return Plan::Other };
        let share = mtu.saturating_sub(transport.ip_header_len + tcp.header_len());
        if share == 0 {
            return Plan::Other;
        }
        if tcp.flags() & (SYN | RST | URG) != 0 {
            return Plan::Kept(Reason::KeptFlags);
        }
        if signed {
            return Plan::Kept(Reason::KeptSigned);
        }
        let (header, data) = transport.bytes.split_at(tcp.header_len());
        let (header_sum, data_sum) = (checksum::sum(header), checksum::sum(data));
        let valid = checksum::add(checksum::add(transport.pseudo, header_sum), data_sum) == 0xffff;
        let unfinished = !valid && transport.seems_unfinished(tcp.checksum());
        if !valid && !unfinished {
            return Plan::Kept(Reason::KeptChecksum);
        }
        // RFC 1624 equation 3, the left half: each word that changes, complemented.
        let changing = variable_words(transport.bytes.len(), tcp.sequence(), tcp.flags());
        let removed: u64 = changing.iter().chain([&tcp.checksum()]).map(|word| u64::from(!word)).sum();
        let tcp_at = link_len + transport.ip_header_len;
        Plan::Cut(Segments {
            headers: &frame[..tcp_at + header.len()],
            tcp_at,
            tcp,
            data,
            data_sum,
            fixed_sum: u64::from(transport.pseudo) + u64::from(header_sum) + removed,
            share,
            first_only: if tcp.accurate_ecn() { 0 } else { CWR },
            frames: if data.len() <= 2 * share { 2 } else { data.len().div_ceil(share) },
            unfinished,
        })
    }
}

/// What differs between the segments and is covered by the checksum, besides data: the length
/// of the pseudo-header (below 65,536), the sequence number, and the flags (beside the data offset,
/// which does not differ).
#[inline]
fn variable_words(len: usize, sequence: u32, flags: u8) -> [u16; 4] {
    [len as u16, (sequence >> 16) as u16, sequence as u16, u16::from(flags)]
}

impl<'a> Segments<'a> {
    /// The segment as one, for the kernel to cut; `None` if that could go wrong: with options or extension headers of
    /// IP, with a header checksum that would be made right, without data, or with a CWR that belongs on every piece:
    /// the kernel leaves it on the first.
    #[inline]
    pub(super) fn whole(&self, link_len: usize) -> Option<Segment<'a>> {
        let ip = &self.headers[link_len..self.tcp_at];
        let sound = match ip.first()? >> 4 {
            4 => ip.len() == ipv4::HEADER_LEN && checksum::sum(ip) == 0xffff,
            _ => ip.len() == ipv6::HEADER_LEN,
        };
        let Segments { headers, tcp_at, data, share, .. } = *self;
        let counter = self.first_only == 0 && self.tcp.flags() & CWR != 0;
        (sound && !counter && !data.is_empty()).then_some(Segment {
            headers,
            ip_at: link_len,
            tcp_at,
            data,
            share,
        })
    }

    /// Longest output frame, bytes.
    #[inline]
    pub(super) fn max_frame(&self) -> usize {
        self.headers.len() + self.share
    }

    /// Writes the segments to `sink`, which has room for them.
    ///
    /// `edit_ip` gets the IP header and all behind it up to the TCP header, the number of the
    /// segment, counted from 0, and the length of TCP header and data.
    #[inline]
    pub(super) fn write<S: Sink>(
        &self,
        link_len: usize,
        mut edit_ip: impl FnMut(&mut [u8], u16, usize),
        sink: &mut S,
    ) {
        let (mut rest, mut rest_sum, mut sequence) = (self.data, self.data_sum, self.tcp.sequence());
        for number in 0..self.frames {
            let last = number + 1 == self.frames;
            let (data, behind) = rest.split_at(if last { rest.len() } else { self.share });
            // Of two halves of a known sum only the shorter is added up.
            let (data_sum, behind_sum) = if behind.len() < data.len() {
                let behind_sum = checksum::sum(behind);
                (checksum::subtract(rest_sum, aligned(behind_sum, data.len())), behind_sum)
            } else {
                let data_sum = checksum::sum(data);
                (data_sum, aligned(checksum::subtract(rest_sum, data_sum), data.len()))
            };
            let mut flags = self.tcp.flags();
            if !last {
                flags &= !(PSH | FIN);
            }
            if number > 0 {
                flags &= !self.first_only;
            }
            let len = self.tcp.header_len() + data.len();
            let words = variable_words(len, sequence, flags).map(u64::from);
            let checksum = !checksum::fold(self.fixed_sum + words.iter().sum::<u64>() + u64::from(data_sum));

            let out = sink.push(self.headers.len() + data.len());
            let (headers, out_data) = out.split_at_mut(self.headers.len());
            headers.copy_from_slice(self.headers);
            out_data.copy_from_slice(data);
            let (link_and_ip, tcp) = headers.split_at_mut(self.tcp_at);
            // At most 65,515 bytes of data, hence segments.
            edit_ip(&mut link_and_ip[link_len..], number as u16, len);
            tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
            tcp[13] = flags;
            tcp[tcp::CHECKSUM..][..2].copy_from_slice(&checksum.to_be_bytes());

            sequence = sequence.wrapping_add(data.len() as u32);
            (rest, rest_sum) = (behind, behind_sum);
        }
    }
}

/// A sum of what starts at an odd place counts with its bytes swapped (RFC 1071 section 2 B).
#[inline]
fn aligned(sum: u16, place: usize) -> u16 {
    if place.is_multiple_of(2) { sum } else { sum.swap_bytes() }
}
