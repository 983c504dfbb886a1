//! Frames and buffers for the benches of the transform.

use std::sync::Arc;

use xdpfrag::packet::{Df, Idents, Rule, Sink, Tcp, Transform};

const SLOT: usize = 2048;
const SLOTS: usize = 128;

/// Lends the slots of a preallocated slab in turn.
pub(crate) struct Slab {
    bytes: Box<[u8]>,
    next: usize,
}

impl Slab {
    pub(crate) fn new() -> Self {
        Slab { bytes: vec![0; SLOT * SLOTS].into(), next: 0 }
    }

    /// For `black_box`: what was written is looked at.
    pub(crate) fn lent(&self) -> *const u8 {
        self.bytes.as_ptr()
    }
}

impl Sink for Slab {
    #[inline]
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        frames <= SLOTS && len <= SLOT
    }

    #[inline]
    fn push(&mut self, len: usize) -> &mut [u8] {
        let start = self.next * SLOT;
        self.next = (self.next + 1) % SLOTS;
        &mut self.bytes[start..start + len]
    }
}

/// `--df clear`, and what `--tcp` says.
pub(crate) fn transform_with(tcp: Tcp) -> Transform {
    Transform { df: Df::Clear, tcp, idents: Arc::new(Idents::with_seed(1)) }
}

/// MTU 1422, as of the mailing-list thread.
pub(crate) const RULE: Rule = Rule::new(1422, Some(1382), Some(1362));

/// Ethernet, IPv4 with DF and ID 0, and `payload`. No field that the transform reads is left out.
fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2];
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    let sum: u32 = header.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    header[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    frame.extend(header);
    frame.extend(payload);
    frame
}

/// A datagram of `len` bytes in all.
pub(crate) fn udp(len: usize) -> Vec<u8> {
    let mut payload = vec![0x5a; len - 28];
    let header = [0x30, 0x39, 0x30, 0x3a, ((len - 20) >> 8) as u8, (len - 20) as u8, 0x12, 0x34];
    payload.splice(0..0, header);
    frame(17, &payload)
}

/// A SYN with an MSS of 1460.
pub(crate) fn syn() -> Vec<u8> {
    let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let mut segment = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 2, 0xff, 0xff, 0x12, 0x34, 0, 0];
    segment.extend(options);
    frame(6, &segment)
}

/// A finished segment in a packet of `len` bytes.
pub(crate) fn tcp(len: usize) -> Vec<u8> {
    let mut segment = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0];
    segment.resize(len - 20, 0x5a);
    let pseudo = [198, 18, 0, 1, 198, 18, 0, 2, 0, 6, ((len - 20) >> 8) as u8, (len - 20) as u8];
    let covered = [&pseudo[..], &segment].concat();
    let sum: u32 =
        covered.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    frame(6, &segment)
}
