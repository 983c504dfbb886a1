//! IPv6 frames to send through the programs.

use xdpfrag::packet::checksum;

use crate::frames::Frame;

pub(crate) const LAN_HOST6: [u8; 16] = address(0xa, 2);
pub(crate) const FAR_HOST6: [u8; 16] = address(0xf, 2);
pub(crate) const ROUTER6: [u8; 16] = address(0xf, 1);

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const DESTINATION: u8 = 60;

/// 2001:db8:NET::HOST.
const fn address(net: u8, host: u8) -> [u8; 16] {
    [0x20, 0x01, 0x0d, 0xb8, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}

/// What frames are made of; every test changes what it is about.
#[derive(Debug, Clone)]
pub(crate) struct Frame6 {
    /// Destination MAC, first byte.
    pub(crate) mac: u8,
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    /// Kind and bytes, whose first is overwritten with the kind that follows.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
    /// Ethernet padding behind the packet.
    pub(crate) padding: usize,
}

impl Frame6 {
    /// The payload of an IPv4 frame in IPv6, its TCP checksum right.
    fn of(frame: Frame) -> Frame6 {
        let mut frame = Frame6 {
            mac: 2,
            tags: Vec::new(),
            source: LAN_HOST6,
            destination: FAR_HOST6,
            extensions: Vec::new(),
            protocol: frame.protocol,
            payload: frame.payload,
            padding: 0,
        };
        if frame.protocol == 6 {
            frame.finish_tcp();
        }
        frame
    }

    /// A UDP datagram whose IPv6 packet has `total` bytes, at least 48.
    pub(crate) fn udp(total: usize) -> Frame6 {
        Frame6::of(Frame::udp(total - 20))
    }

    /// A TCP segment of these flags and options, data of `data` bytes.
    pub(crate) fn tcp(flags: u8, options: &[u8], data: usize) -> Frame6 {
        Frame6::of(Frame::tcp(flags, options, data))
    }

    pub(crate) fn pseudo_sum(&self) -> u16 {
        let len = self.payload.len() as u16;
        checksum::pseudo_header_ipv6(self.source.into(), self.destination.into(), self.protocol, len)
    }

    /// Sum of the TCP segment with its pseudo-header: 0xffff if the checksum is right.
    pub(crate) fn tcp_sum(&self) -> u16 {
        checksum::add(checksum::sum(&self.payload), self.pseudo_sum())
    }

    pub(crate) fn finish_tcp(&mut self) {
        self.payload[16..18].fill(0);
        let sum = !self.tcp_sum();
        self.payload[16..18].copy_from_slice(&sum.to_be_bytes());
    }

    /// Where the transport header begins.
    pub(crate) fn l4(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        14 + 4 * self.tags.len() + 40 + extensions
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.mac, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (proto, tci) in &self.tags {
            bytes.extend(proto.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend(0x86ddu16.to_be_bytes());
        let mut kinds: Vec<_> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.push(self.protocol);
        let len = self.l4() - 54 - 4 * self.tags.len() + self.payload.len();
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend((len as u16).to_be_bytes());
        bytes.extend([kinds[0], 64]);
        bytes.extend(self.source);
        bytes.extend(self.destination);
        for ((_, extension), next) in self.extensions.iter().zip(&kinds[1..]) {
            bytes.push(*next);
            bytes.extend(&extension[1..]);
        }
        bytes.extend(&self.payload);
        bytes.resize(bytes.len() + self.padding, 0xee);
        bytes
    }
}

/// `frame` with one change.
pub(crate) fn with6(mut frame: Frame6, change: impl FnOnce(&mut Frame6)) -> Frame6 {
    change(&mut frame);
    frame
}

/// An options or routing header of `len` bytes, a multiple of 8.
pub(crate) fn extension(kind: u8, len: usize) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; len];
    bytes[1] = (len / 8 - 1) as u8;
    (kind, bytes)
}

/// A fragment header with this offset, reserved bits and M.
pub(crate) fn fragment(offset: u16) -> (u8, Vec<u8>) {
    let [high, low] = offset.to_be_bytes();
    (FRAGMENT, vec![0, 0, high, low, 0, 0, 0, 9])
}
