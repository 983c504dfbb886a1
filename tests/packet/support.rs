//! Frames to feed in, a sink to catch what comes out, and a reassembler to judge it.

use std::sync::Arc;

use etherparse::Ipv4HeaderSlice;
use xdpfrag::packet::{Df, Idents, Outcome, Rule, Sink, Tcp, Transform};

pub(crate) const DF: u16 = 0x4000;
pub(crate) const MF: u16 = 0x2000;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const AH: u8 = 51;

/// RFC 1071, word by word.
pub(crate) fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An Ethernet frame with an IPv4 packet, to be varied by its fields.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) tpids: Vec<u16>,
    pub(crate) id: u16,
    pub(crate) flags_offset: u16,
    pub(crate) protocol: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Bytes behind the packet.
    pub(crate) padding: usize,
    /// Added to the right header checksum.
    pub(crate) checksum_error: u16,
}

impl Packet {
    pub(crate) const SOURCE: [u8; 4] = [198, 18, 0, 1];
    pub(crate) const DESTINATION: [u8; 4] = [198, 18, 0, 2];

    /// Untagged, DF set, ID 0: what Linux sends.
    pub(crate) fn new(protocol: u8, payload: Vec<u8>) -> Self {
        Packet {
            tpids: vec![],
            id: 0,
            flags_offset: DF,
            protocol,
            options: vec![],
            payload,
            padding: 0,
            checksum_error: 0,
        }
    }

    /// A finished UDP datagram with `len` bytes of data that tell their place.
    pub(crate) fn udp(len: usize) -> Self {
        let mut payload = vec![0x30, 0x39, 0, 53, ((len + 8) >> 8) as u8, (len + 8) as u8, 0, 0];
        payload.extend(pattern(len));
        let mut packet = Packet::new(UDP, payload);
        packet.finish(6);
        packet
    }

    /// A finished TCP segment.
    pub(crate) fn tcp(flags: u8, options: &[u8], data: &[u8]) -> Self {
        assert!(options.len() <= 40 && options.len().is_multiple_of(4));
        let mut payload = vec![0x30, 0x39, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0, flags, 0xff, 0xff, 0, 0, 0, 0];
        payload[12] = (5 + options.len() as u8 / 4) << 4;
        payload.extend(options);
        payload.extend(data);
        let mut packet = Packet::new(TCP, payload);
        packet.finish(16);
        packet
    }

    /// Writes the transport checksum at `at` in the payload.
    pub(crate) fn finish(&mut self, at: usize) {
        self.payload[at..at + 2].fill(0);
        let sum = match !transport_sum(self.protocol, &self.payload) {
            0 => 0xffff,
            sum => sum,
        };
        self.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    pub(crate) fn link_len(&self) -> usize {
        14 + 4 * self.tpids.len()
    }

    pub(crate) fn header_len(&self) -> usize {
        20 + self.options.len()
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        assert!(self.options.len() <= 40 && self.options.len().is_multiple_of(4));
        let total = u16::try_from(self.header_len() + self.payload.len()).unwrap();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (tag, tpid) in self.tpids.iter().enumerate() {
            frame.extend(tpid.to_be_bytes());
            frame.extend([0x20, 0x64 + tag as u8]);
        }
        frame.extend([8, 0]);
        let mut header = vec![0x45 + (self.options.len() / 4) as u8, 0x2e];
        for word in [total, self.id, self.flags_offset] {
            header.extend(word.to_be_bytes());
        }
        header.extend([61, self.protocol, 0, 0]);
        header.extend(Self::SOURCE);
        header.extend(Self::DESTINATION);
        header.extend(&self.options);
        let sum = (!ones_sum(&header)).wrapping_add(self.checksum_error);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(header);
        frame.extend(&self.payload);
        frame.extend(std::iter::repeat_n(0xee, self.padding));
        frame
    }
}

/// `len` bytes, each pair of which tells its place.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| if i % 2 == 0 { (i >> 9) as u8 } else { (i >> 1) as u8 }).collect()
}

/// Sum of the pseudo-header between the two addresses, and of the transport header and data:
/// 0xffff if their checksum is right.
pub(crate) fn transport_sum(protocol: u8, payload: &[u8]) -> u16 {
    let mut covered = [Packet::SOURCE, Packet::DESTINATION].concat();
    covered.extend([0, protocol]);
    covered.extend((payload.len() as u16).to_be_bytes());
    covered.extend(payload);
    ones_sum(&covered)
}

/// Catches frames, and holds the transform to what it reserved.
#[derive(Debug, Default)]
pub(crate) struct Catch {
    pub(crate) frames: Vec<Vec<u8>>,
    /// Frames it takes in all.
    room: usize,
    /// What its buffers hold before they are written.
    fill: u8,
    reserved: (usize, usize),
}

impl Catch {
    pub(crate) fn new(room: usize, fill: u8) -> Self {
        Catch { room, fill, ..Catch::default() }
    }
}

impl Sink for Catch {
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        let fits = self.frames.len() + frames <= self.room;
        self.reserved = if fits { (frames, len) } else { (0, 0) };
        fits
    }

    fn push(&mut self, len: usize) -> &mut [u8] {
        assert!(self.reserved.0 > 0 && len <= self.reserved.1, "{len} bytes of {:?}", self.reserved);
        self.reserved.0 -= 1;
        self.frames.push(vec![self.fill; len]);
        self.frames.last_mut().unwrap()
    }
}

pub(crate) fn transform(df: Df) -> Transform {
    Transform { df, tcp: Tcp::Fragment, idents: Arc::new(Idents::with_seed(1)) }
}

/// What a user may ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) df: Df,
    pub(crate) tcp: Tcp,
    pub(crate) rule: Rule,
}

impl Policy {
    /// `--tcp resegment`, the rest left as it comes.
    pub(crate) fn resegment(mtu: u16) -> Self {
        Policy { df: Df::Oversize, tcp: Tcp::Resegment, rule: Rule::new(mtu, None, None) }
    }

    /// The largest packet that fits, bytes.
    pub(crate) fn mtu(&self) -> usize {
        usize::from(self.rule.mtu.max(68))
    }

    /// Applies with room to spare. Twice, with other rubbish in the buffers: all of it is overwritten.
    pub(crate) fn apply(&self, frame: &[u8]) -> (Outcome, Vec<Vec<u8>>) {
        let [(outcome, frames), again] = [0x55, 0xaa].map(|fill| {
            let mut sink = Catch::new(usize::MAX, fill);
            let transform = Transform { tcp: self.tcp, ..transform(self.df) };
            let outcome = transform.apply(frame, self.rule, &mut sink);
            assert_eq!(sink.reserved.0, 0, "all that was reserved is used");
            assert_eq!(usize::from(outcome.frames), sink.frames.len());
            (outcome, sink.frames)
        });
        assert_eq!((&outcome, &frames), (&again.0, &again.1));
        (outcome, frames)
    }
}

/// [`Policy::apply`] under `--tcp fragment`, over IPv4.
pub(crate) fn apply(df: Df, mtu: u16, mss4: Option<u16>, frame: &[u8]) -> (Outcome, Vec<Vec<u8>>) {
    Policy { df, tcp: Tcp::Fragment, rule: Rule::new(mtu, mss4, None) }.apply(frame)
}

/// An Ethernet frame with an IPv6 packet.
#[derive(Debug, Clone)]
pub(crate) struct Packet6 {
    pub(crate) tpids: Vec<u16>,
    /// Extension headers: kind, and the whole header, the first byte of which is filled in.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) padding: usize,
}

impl Packet6 {
    pub(crate) const SOURCE: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 1];
    pub(crate) const DESTINATION: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0xab, 0, 0, 0, 0, 0, 0, 2];

    /// The transport header and data of `packet`, its checksum that of IPv6.
    pub(crate) fn carrying(packet: Packet) -> Self {
        let Packet { tpids, protocol, payload, padding, .. } = packet;
        let mut packet = Packet6 { tpids, extensions: vec![], protocol, payload, padding };
        let at = if protocol == TCP { 16 } else { 6 };
        packet.payload[at..at + 2].fill(0);
        let sum = match !transport_sum6(protocol, &packet.payload) {
            0 => 0xffff,
            sum => sum,
        };
        packet.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    pub(crate) fn header_len(&self) -> usize {
        40 + self.extensions.iter().map(|(_, header)| header.len()).sum::<usize>()
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let len = u16::try_from(self.header_len() - 40 + self.payload.len()).unwrap();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (tag, tpid) in self.tpids.iter().enumerate() {
            frame.extend(tpid.to_be_bytes());
            frame.extend([0x20, 0x64 + tag as u8]);
        }
        frame.extend([0x86, 0xdd, 0x62, 0xe1, 0x23, 0x45]);
        frame.extend(len.to_be_bytes());
        let mut kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.push(self.protocol);
        frame.extend([kinds[0], 61]);
        frame.extend(Self::SOURCE);
        frame.extend(Self::DESTINATION);
        for ((_, header), next) in self.extensions.iter().zip(&kinds[1..]) {
            frame.push(*next);
            frame.extend(&header[1..]);
        }
        frame.extend(&self.payload);
        frame.extend(std::iter::repeat_n(0xee, self.padding));
        frame
    }
}

/// [`transport_sum`] over IPv6.
pub(crate) fn transport_sum6(protocol: u8, payload: &[u8]) -> u16 {
    let mut covered = [Packet6::SOURCE, Packet6::DESTINATION].concat();
    covered.extend((payload.len() as u32).to_be_bytes());
    covered.extend([0, 0, 0, protocol]);
    covered.extend(payload);
    ones_sum(&covered)
}

/// The fields of one output frame, as etherparse reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) id: u16,
    pub(crate) flags_offset: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Sum of the header: 0xffff if its checksum is right.
    pub(crate) header_sum: u16,
}

impl Fragment {
    /// Of a frame whose Ethernet header takes `link_len` bytes; nothing may follow the packet.
    pub(crate) fn of(frame: &[u8], link_len: usize) -> Self {
        let bytes = &frame[link_len..];
        let header = Ipv4HeaderSlice::from_slice(bytes).expect("an IPv4 header");
        assert_eq!(usize::from(header.total_len()), bytes.len(), "total length");
        assert_eq!((header.ttl(), header.dcp().value(), header.ecn().value()), (61, 0x2e >> 2, 0x2e & 3));
        assert_eq!(header.source(), Packet::SOURCE);
        assert_eq!(header.destination(), Packet::DESTINATION);
        let (header, payload) = bytes.split_at(header.slice().len());
        Self::new(header, payload)
    }

    pub(crate) fn new(header: &[u8], payload: &[u8]) -> Self {
        Fragment {
            id: u16::from_be_bytes([header[4], header[5]]),
            flags_offset: u16::from_be_bytes([header[6], header[7]]),
            options: header[20..].to_vec(),
            payload: payload.to_vec(),
            header_sum: ones_sum(header),
        }
    }
}

/// What a receiver makes of fragments of one datagram that begin at `start` bytes: their data
/// and whether the last one ends the datagram. Each byte must come exactly once.
pub(crate) fn reassemble(fragments: &[Fragment], start: usize) -> (Vec<u8>, bool) {
    let mut bytes: Vec<Option<u8>> = vec![];
    let mut end = None;
    for fragment in fragments {
        let at = usize::from(fragment.flags_offset & 0x1fff) * 8 - start;
        let needed = at + fragment.payload.len();
        if bytes.len() < needed {
            bytes.resize(needed, None);
        }
        for (slot, byte) in bytes[at..].iter_mut().zip(&fragment.payload) {
            assert!(slot.replace(*byte).is_none(), "overlap in fragment {:#06x}", fragment.flags_offset);
        }
        if fragment.flags_offset & MF == 0 {
            assert!(end.replace(needed).is_none(), "two last fragments");
        }
    }
    if let Some(end) = end {
        assert_eq!(end, bytes.len(), "data behind the last fragment");
    }
    (bytes.into_iter().map(|byte| byte.expect("a hole")).collect(), end.is_some())
}
