//! IPv4 packets written by hand, and their fields read by hand: nothing here comes from `packet/`.

use xdpfrag::packet::Sink;

pub(crate) const ETHERNET: usize = 14;
pub(crate) const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const APPLIANCE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub(crate) const DF: u16 = 0x4000;
pub(crate) const MF: u16 = 0x2000;
pub(crate) const TTL: u8 = 64;

/// Everything that is not the same in all packets of the oracles.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) to: [u8; 4],
    pub(crate) id: u16,
    /// Flags and fragment offset as they are on the wire.
    pub(crate) flags: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: usize,
    /// Bytes behind the packet, as Ethernet padding has.
    pub(crate) trailer: usize,
}

/// An Ethernet frame with a packet of a protocol that no host and no router looks into (RFC 3692: 253).
pub(crate) fn frame(shape: &Shape) -> Vec<u8> {
    let header_len = 20 + shape.options.len();
    let mut frame = [LAN_MAC, APPLIANCE_MAC].concat();
    frame.extend([0x08, 0x00, 0x40 | (header_len / 4) as u8, 0x28]);
    frame.extend(((header_len + shape.payload) as u16).to_be_bytes());
    frame.extend(shape.id.to_be_bytes());
    frame.extend(shape.flags.to_be_bytes());
    frame.extend([TTL, 253, 0, 0, 198, 18, 1, 2]);
    frame.extend(shape.to);
    frame.extend(&shape.options);
    frame.extend((0..shape.payload).map(|at| (at * 131 + at / 251 + usize::from(shape.id)) as u8));
    frame.extend(vec![0xee; shape.trailer]);
    seal(&mut frame);
    frame
}

pub(crate) fn header_len(frame: &[u8]) -> usize {
    usize::from(frame[ETHERNET] & 15) * 4
}

pub(crate) fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[ETHERNET + at], frame[ETHERNET + at + 1]])
}

pub(crate) fn options(frame: &[u8]) -> &[u8] {
    &frame[ETHERNET + 20..ETHERNET + header_len(frame)]
}

pub(crate) fn payload(frame: &[u8]) -> &[u8] {
    &frame[ETHERNET + header_len(frame)..ETHERNET + usize::from(word(frame, 2))]
}

/// One's complement sum over the header: 0xffff if its checksum is right (RFC 1071).
pub(crate) fn header_sum(frame: &[u8]) -> u16 {
    let words = (0..header_len(frame)).step_by(2).map(|at| u32::from(word(frame, at)));
    let sum = words.fold(0, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    sum as u16
}

/// Writes the right header checksum.
pub(crate) fn seal(frame: &mut [u8]) {
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let checksum = !header_sum(frame);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// Keeps what a transform makes.
#[derive(Default)]
pub(crate) struct Frames(pub(crate) Vec<Vec<u8>>);

impl Sink for Frames {
    fn reserve(&mut self, _frames: usize, _len: usize) -> bool {
        true
    }

    fn push(&mut self, len: usize) -> &mut [u8] {
        // Not zeros: a byte that is not written must show.
        self.0.push(vec![0xdb; len]);
        self.0.last_mut().unwrap()
    }
}
