//! What a TAP device is to be written: ordinary frames, UDP datagrams for the kernel to fragment, and TCP segments of one
//! flow put together for the kernel to cut.
//!
//! As GRO does it (`tcp_gro_receive()`): segments of a batch are one packet if nothing but what counts on differs between
//! their headers. Packets keep the order in which they began; nothing of a flow is moved past what came behind it.

use std::io::IoSlice;

use crate::packet::{Datagram, Gathered, Segment, checksum, ipv4, ipv6, tcp};

/// `struct virtio_net_hdr`, in the machine's byte order.
pub(super) const VNET_HEADER: usize = 10;
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
/// Length of a UDP header, bytes, and where the checksum stands in it.
const UDP_HEADER: usize = 8;
const UDP_CHECKSUM: usize = 6;
/// CWR is on the first segment only: a NIC that would put it on all is not to cut the packet.
const GSO_ECN: u8 = 0x80;
/// Longest packet that the kernel cuts: what the length field of IPv4 can say.
const MAX_PACKET: usize = 65_535;
/// Most segments in one packet: 45 of 1460 bytes fill it.
const MAX_PARTS: usize = 64;
/// Flows that may be gathered at once; a power of two.
const BUCKETS: usize = 512;
const NONE: u16 = u16::MAX;

/// Pending packets of one worker.
#[derive(Debug)]
pub(super) struct Gather {
    /// Headers and data, in the order in which they came.
    arena: Box<[u8]>,
    used: usize,
    items: Vec<Item>,
    pieces: Vec<Piece>,
    /// The item that segments of a flow may be added to, by a hash of it.
    open: Box<[u16; BUCKETS]>,
    /// No item before this one may be added to.
    barrier: usize,
    /// Items that the kernel took.
    taken: usize,
    /// Received segments and frames in the others.
    pending: usize,
    max_frames: usize,
    max_frame: usize,
    max_datagram: usize,
}

/// Consecutive bytes of the arena.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u32,
    len: u32,
    /// The next one of the same item.
    next: u16,
}

/// One packet: its first piece holds [`VNET_HEADER`] and all headers.
#[derive(Debug, Clone, Copy)]
struct Item {
    first: u16,
    last: u16,
    /// What it is made of: received segments, or one frame.
    parts: u16,
    /// Of a frame nothing.
    tcp: Option<Tcp>,
}

/// Of gathered segments.
#[derive(Debug, Clone, Copy)]
struct Tcp {
    ip_at: u16,
    tcp_at: u16,
    share: u16,
    data: u32,
    /// Sequence number of what may be added.
    next: u32,
}

impl Gather {
    /// Room for `max_frames` frames or segments of at most `max_frame` bytes, or fewer datagrams of at most `max_datagram`.
    pub(super) fn new(max_frames: usize, max_frame: usize, max_datagram: usize) -> Gather {
        Gather {
            arena: vec![0; max_frames * (VNET_HEADER + max_frame)].into_boxed_slice(),
            used: 0,
            items: Vec::with_capacity(max_frames),
            pieces: Vec::with_capacity(2 * max_frames),
            open: Box::new([NONE; BUCKETS]),
            barrier: 0,
            taken: 0,
            pending: 0,
            max_frames,
            max_frame,
            max_datagram,
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    pub(super) fn capacity(&self) -> usize {
        self.max_frames
    }

    pub(super) fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// As [`Sink::reserve`](crate::packet::Sink::reserve).
    #[inline]
    pub(super) fn reserve(&mut self, frames: usize, len: usize) -> bool {
        len <= self.max_frame
            && self.pending + frames <= self.max_frames
            && self.items.len() + frames <= self.max_frames
            && self.used + frames * (VNET_HEADER + len) <= self.arena.len()
    }

    /// As [`Sink::push`](crate::packet::Sink::push). What comes behind the frame stays behind it.
    #[inline]
    pub(super) fn push(&mut self, len: usize) -> &mut [u8] {
        let piece = self.piece(VNET_HEADER + len);
        self.items.push(Item { first: piece, last: piece, parts: 1, tcp: None });
        self.barrier = self.items.len();
        self.pending += 1;
        let start = self.pieces[usize::from(piece)].start as usize;
        let (vnet, frame) = self.arena[start..self.used].split_at_mut(VNET_HEADER);
        // GSO_NONE, and a checksum that is as it should be.
        vnet.fill(0);
        frame
    }

    /// As [`Sink::datagram`](crate::packet::Sink::datagram).
    #[inline]
    pub(super) fn datagram(&mut self, datagram: &Datagram<'_>) -> Gathered {
        let Datagram { frame, ip_at, .. } = *datagram;
        let udp_at = ip_at + ipv4::HEADER_LEN;
        if frame.len() < udp_at + UDP_HEADER || frame.len() > self.max_datagram {
            return Gathered::Refused;
        }
        if self.pending == self.max_frames || self.used + VNET_HEADER + frame.len() > self.arena.len() {
            return Gathered::Full;
        }
        let piece = self.piece(VNET_HEADER + frame.len());
        self.items.push(Item { first: piece, last: piece, parts: 1, tcp: None });
        self.pending += 1;
        let start = self.pieces[usize::from(piece)].start as usize;
        let (vnet, out) = self.arena[start..self.used].split_at_mut(VNET_HEADER);
        out.copy_from_slice(frame);
        let (ip, udp) = out[ip_at..].split_at_mut(ipv4::HEADER_LEN);
        // A header checksum that was wrong stays wrong.
        let (flags, sum) = (u16::from_be_bytes(octets(ip, 6)), u16::from_be_bytes(octets(ip, 10)));
        let sum = checksum::update(sum, u16::from_be_bytes(octets(ip, 4)), datagram.id);
        let sum = checksum::update(sum, flags, flags & !ipv4::DF);
        ip[4..6].copy_from_slice(&datagram.id.to_be_bytes());
        ip[6..8].copy_from_slice(&(flags & !ipv4::DF).to_be_bytes());
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        // CHECKSUM_PARTIAL: the sum of the pseudo-header.
        udp[UDP_CHECKSUM..UDP_HEADER].copy_from_slice(&datagram.pseudo.to_be_bytes());
        (vnet[0], vnet[1]) = (NEEDS_CSUM, GSO_UDP);
        let words = [(2, udp_at + UDP_HEADER), (4, datagram.share), (6, udp_at), (8, UDP_CHECKSUM)];
        for (at, value) in words {
            vnet[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        Gathered::Taken
    }

    /// True if something is gathered that a segment may be added to.
    #[inline]
    pub(super) fn gathers(&self) -> bool {
        self.items.len() > self.barrier
    }

    /// As [`Sink::gather`](crate::packet::Sink::gather).
    #[inline]
    pub(super) fn gather(&mut self, segment: &Segment<'_>) -> Gathered {
        let bucket = bucket(segment);
        let open = usize::from(self.open[bucket]);
        let continues =
            open >= self.barrier && self.items.get(open).is_some_and(|item| self.continued(item, segment));
        if segment.fits() && !continues {
            return Gathered::Refused;
        }
        let headers = if continues { 0 } else { VNET_HEADER + segment.headers.len() };
        if self.pending == self.max_frames || self.used + headers + segment.data.len() > self.arena.len() {
            return Gathered::Full;
        }
        let item = if continues { open } else { self.begin(segment) };
        if !continues {
            // An index below the number of pieces, which fits.
            self.open[bucket] = item as u16;
        }
        self.add(item, segment);
        Gathered::Taken
    }

    /// A new packet with the headers of `segment`.
    fn begin(&mut self, segment: &Segment<'_>) -> usize {
        let piece = self.piece(VNET_HEADER + segment.headers.len());
        let start = self.pieces[usize::from(piece)].start as usize;
        self.arena[start + VNET_HEADER..self.used].copy_from_slice(segment.headers);
        let tcp = Tcp {
            ip_at: segment.ip_at as u16,
            tcp_at: segment.tcp_at as u16,
            share: segment.share as u16,
            data: 0,
            next: sequence(segment),
        };
        self.items.push(Item { first: piece, last: piece, parts: 0, tcp: Some(tcp) });
        self.items.len() - 1
    }

    /// Puts the data of `segment` behind that of an item.
    #[inline]
    fn add(&mut self, item: usize, segment: &Segment<'_>) {
        let piece = self.piece(segment.data.len());
        let start = self.pieces[usize::from(piece)].start as usize;
        self.arena[start..self.used].copy_from_slice(segment.data);
        let item = &mut self.items[item];
        self.pieces[usize::from(item.last)].next = piece;
        item.last = piece;
        item.parts += 1;
        self.pending += 1;
        let Some(tcp) = &mut item.tcp else { return };
        tcp.data += segment.data.len() as u32;
        tcp.next = tcp.next.wrapping_add(segment.data.len() as u32);
        let flags = segment.headers[usize::from(tcp.tcp_at) + 13] & (tcp::PSH | tcp::FIN);
        let first = self.pieces[usize::from(item.first)].start as usize;
        self.arena[first + VNET_HEADER + usize::from(tcp.tcp_at) + 13] |= flags;
    }

    /// The next `len` bytes of the arena.
    #[inline]
    fn piece(&mut self, len: usize) -> u16 {
        let start = self.used;
        self.used += len;
        self.pieces.push(Piece { start: start as u32, len: len as u32, next: NONE });
        (self.pieces.len() - 1) as u16
    }

    fn headers(&self, item: &Item) -> &[u8] {
        let Piece { start, len, .. } = self.pieces[usize::from(item.first)];
        &self.arena[start as usize + VNET_HEADER..][..len as usize - VNET_HEADER]
    }

    /// True if `segment` is of the flow of `item` and can be added: the rules of `tcp_gro_receive()` and
    /// `inet_gro_receive()`.
    #[inline]
    fn continued(&self, item: &Item, segment: &Segment<'_>) -> bool {
        let Some(tcp) = item.tcp else { return false };
        let (first, new) = (self.headers(item), segment.headers);
        let (ip, at) = (segment.ip_at, segment.tcp_at);
        tcp.next == sequence(segment)
            && usize::from(tcp.share) == segment.share
            && first.len() == new.len()
            && usize::from(item.parts) < MAX_PARTS
            && new.len() - ip + tcp.data as usize + segment.data.len() <= MAX_PACKET
            && first[..ip] == new[..ip]
            && same_ip(&first[ip..at], &new[ip..at], item.parts)
            && first[at..at + 4] == new[at..at + 4]
            // The sequence number and the checksum may differ; PSH and FIN come with the last, so that nothing follows them.
            && first[at + 8..at + 13] == new[at + 8..at + 13]
            && first[at + 13] & !tcp::CWR == new[at + 13] & !(tcp::PSH | tcp::FIN)
            && first[at + 14..at + 16] == new[at + 14..at + 16]
            && first[at + 18..] == new[at + 18..]
    }

    /// Writes the headers of what is gathered: after that nothing is added.
    pub(super) fn seal(&mut self) {
        for index in self.taken..self.items.len() {
            let item = self.items[index];
            let Some(tcp) = item.tcp else { continue };
            let Piece { start, len, .. } = self.pieces[usize::from(item.first)];
            let (vnet, headers) = self.arena[start as usize..][..len as usize].split_at_mut(VNET_HEADER);
            complete(vnet, headers, &tcp);
        }
        self.open.fill(NONE);
        self.barrier = self.items.len();
    }

    /// The oldest packet that the kernel has not taken, in pieces, as it is to be written.
    pub(super) fn front(&self) -> Option<Slices<'_>> {
        let mut next = self.items.get(self.taken)?.first;
        let mut slices = Slices { slices: [IoSlice::new(&[]); MAX_PARTS + 1], len: 0 };
        while let Some(piece) = self.pieces.get(usize::from(next)) {
            slices.slices[slices.len] =
                IoSlice::new(&self.arena[piece.start as usize..][..piece.len as usize]);
            slices.len += 1;
            next = piece.next;
        }
        Some(slices)
    }

    /// The kernel has taken it; answers how many frames and segments it was made of.
    pub(super) fn pop(&mut self) -> usize {
        let parts = self.items.get(self.taken).map_or(0, |item| usize::from(item.parts));
        self.taken += 1;
        self.pending -= parts;
        if self.taken >= self.items.len() {
            self.clear();
        }
        parts
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.pieces.clear();
        (self.used, self.taken, self.pending, self.barrier) = (0, 0, 0, 0);
    }
}

/// The pieces of one packet.
pub(super) struct Slices<'a> {
    slices: [IoSlice<'a>; MAX_PARTS + 1],
    len: usize,
}

impl<'a> Slices<'a> {
    pub(super) fn as_slice(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.len]
    }
}

/// Lengths and checksums, and what the kernel has to know to cut.
fn complete(vnet: &mut [u8], headers: &mut [u8], tcp: &Tcp) {
    let (ip_at, tcp_at) = (usize::from(tcp.ip_at), usize::from(tcp.tcp_at));
    let headers_len = headers.len();
    let tcp_len = headers_len - tcp_at + tcp.data as usize;
    let v4 = headers[ip_at] >> 4 == 4;
    let (ip, transport) = headers[ip_at..].split_at_mut(tcp_at - ip_at);
    // CHECKSUM_PARTIAL: the sum of the pseudo-header.
    let pseudo = if v4 {
        let total = (ip.len() + tcp_len) as u16;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[10..12].fill(0);
        let sum = !checksum::sum(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let (source, destination) = (octets::<4>(ip, 12).into(), octets::<4>(ip, 16).into());
        checksum::pseudo_header(source, destination, ipv4::TCP, tcp_len as u16)
    } else {
        ip[4..6].copy_from_slice(&(tcp_len as u16).to_be_bytes());
        let (source, destination) = (octets::<16>(ip, 8).into(), octets::<16>(ip, 24).into());
        checksum::pseudo_header_ipv6(source, destination, ipv4::TCP, tcp_len as u16)
    };
    transport[tcp::CHECKSUM..][..2].copy_from_slice(&pseudo.to_be_bytes());
    let whole = tcp.data <= u32::from(tcp.share);
    vnet[0] = NEEDS_CSUM;
    let ecn = if transport[13] & tcp::CWR != 0 { GSO_ECN } else { 0 };
    vnet[1] = if whole {
        GSO_NONE
    } else if v4 {
        GSO_TCPV4 | ecn
    } else {
        GSO_TCPV6 | ecn
    };
    let share = if whole { 0 } else { tcp.share };
    for (at, value) in [(2, headers_len as u16), (4, share), (6, tcp.tcp_at), (8, tcp::CHECKSUM as u16)] {
        vnet[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
}

/// True if two IP headers of one flow differ in nothing that the kernel could not make again.
#[inline]
fn same_ip(first: &[u8], new: &[u8], parts: u16) -> bool {
    if first.len() != ipv4::HEADER_LEN {
        debug_assert_eq!(first.len(), ipv6::HEADER_LEN);
        return first[..4] == new[..4] && first[6..] == new[6..];
    }
    let id = |header: &[u8]| u16::from_be_bytes(octets(header, 4));
    // Without DF the identification has a meaning (RFC 6864): it counts on.
    let counts_on = first[6] & 0x40 != 0 || id(first).wrapping_add(parts) == id(new);
    first[..2] == new[..2] && first[6..10] == new[6..10] && first[12..] == new[12..] && counts_on
}

fn sequence(segment: &Segment<'_>) -> u32 {
    u32::from_be_bytes(octets(segment.headers, segment.tcp_at + 4))
}

/// Flows that share one take turns: that costs them something, and mixes nothing up.
#[inline]
fn bucket(segment: &Segment<'_>) -> usize {
    let at = segment.tcp_at;
    let word = |at: usize| u32::from_ne_bytes(octets(segment.headers, at));
    let mixed = word(at - 8) ^ word(at - 4).rotate_left(11) ^ word(at).wrapping_mul(0x9e37_79b1);
    (mixed.wrapping_mul(0x85eb_ca6b) >> 23) as usize
}

/// `N` bytes from a place on.
#[inline]
fn octets<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|place| bytes[at + place])
}

#[cfg(test)]
mod tests;
