//! What the XDP program puts in front of a redirected frame: `struct xf_meta` of bpf/intf.h.

use crate::packet::Rule;

/// The metadata of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// CLOCK_MONOTONIC at which the XDP program saw the frame, ns.
    pub rx_ns: u64,
    /// SA MTU of the route that matched, bytes.
    pub mtu: u16,
    /// MSS limit for TCP over IPv4; 0 for none.
    pub mss4: u16,
}

impl Meta {
    /// `sizeof(struct xf_meta)`.
    pub const LEN: usize = 16;
    const MAGIC: u32 = 0x7866_7261;

    /// Reads the metadata that ends where the frame begins; `None` without the magic, that is from a
    /// driver without metadata support.
    #[inline]
    pub fn before_frame(bytes: &[u8; Meta::LEN]) -> Option<Meta> {
        let [t0, t1, t2, t3, t4, t5, t6, t7, m0, m1, s0, s1, magic @ ..] = *bytes;
        (u32::from_ne_bytes(magic) == Meta::MAGIC).then(|| Meta {
            rx_ns: u64::from_ne_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            mtu: u16::from_ne_bytes([m0, m1]),
            mss4: u16::from_ne_bytes([s0, s1]),
        })
    }

    /// The bytes that [`before_frame`](Meta::before_frame) reads.
    pub fn to_bytes(self) -> [u8; Meta::LEN] {
        let mut bytes = [0; Meta::LEN];
        bytes[..8].copy_from_slice(&self.rx_ns.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.mtu.to_ne_bytes());
        bytes[10..12].copy_from_slice(&self.mss4.to_ne_bytes());
        bytes[12..].copy_from_slice(&Meta::MAGIC.to_ne_bytes());
        bytes
    }

    /// The rule of the route that matched.
    pub fn rule(self) -> Rule {
        Rule { mtu: self.mtu, mss4: (self.mss4 != 0).then_some(self.mss4) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_through_bytes() {
        let meta = Meta { rx_ns: 0x0102_0304_0506_0708, mtu: 1422, mss4: 1382 };
        assert_eq!(Meta::before_frame(&meta.to_bytes()), Some(meta));
        assert_eq!(meta.rule(), Rule { mtu: 1422, mss4: Some(1382) });
        assert_eq!(Meta { mss4: 0, ..meta }.rule().mss4, None);
    }

    #[test]
    fn without_the_magic_there_is_none() {
        assert_eq!(Meta::before_frame(&[0; Meta::LEN]), None);
        let mut bytes = Meta { rx_ns: 1, mtu: 2, mss4: 3 }.to_bytes();
        bytes[12] ^= 1;
        assert_eq!(Meta::before_frame(&bytes), None);
    }
}
