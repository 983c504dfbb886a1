//! The TCP maximum segment size option (RFC 9293 section 3.7.1): lowered, never raised.

use super::checksum;
use super::options::{self, Step};
use super::tcp::{self, TcpSegment};

const KIND: u8 = 2;

/// TCP-AO and its shortest form, bytes (RFC 5925 section 2.2).
const AO: u8 = 29;
const AO_LEN: usize = 4;

/// What every IPv4 host may send unasked: 576 less 40 (RFC 9293 section 3.7.1).
pub const FLOOR_IPV4: u16 = 536;
/// What every IPv6 host may send unasked: 1280 less 60 (RFC 8200 section 5).
pub const FLOOR_IPV6: u16 = 1220;

/// The MSS limit for TCP over IPv4 through an SA MTU of `mtu` bytes: less 40, at least 536.
///
/// The floor wins where the MTU is below 576: a host that sees no option sends 536 anyway,
/// what is then oversize is fragmented, and a smaller MSS serves only to multiply packets
/// (CVE-2019-11479).
pub const fn mss4_for(mtu: u16) -> u16 {
    let mss = mtu.saturating_sub(40);
    if mss < FLOOR_IPV4 { FLOOR_IPV4 } else { mss }
}

/// The MSS limit for TCP over IPv6 through an SA MTU of `mtu` bytes: less 60, at least 1220.
pub const fn mss6_for(mtu: u16) -> u16 {
    let mss = mtu.saturating_sub(60);
    if mss < FLOOR_IPV6 { FLOOR_IPV6 } else { mss }
}

/// Lowers the MSS option of the TCP SYN or SYN-ACK `segment` to `limit` and updates the
/// checksum. True if it was larger.
///
/// `segment` starts at the TCP header, of the whole segment or of its first fragment. It is
/// left alone if it is no SYN, its header is not wholly there, it has no MSS option (the
/// peer then sends at most 536) or `limit` is 0. Of several MSS options each is lowered:
/// hosts differ in which one they honour (Linux: the last). An option of another length
/// than 4 is none, as in Linux `tcp_parse_options`; the walk ends where the list is malformed.
///
/// A SYN with a TCP-AO option, wherever it stands, is left alone: its code covers the other options (RFC 5925
/// section 5.1), and the peer would drop the SYN. That of TCP-MD5 covers none (RFC 2385 section 2.0).
pub fn clamp(segment: &mut [u8], limit: u16) -> bool {
    let Some(view) = TcpSegment::new_checked(segment) else { return false };
    if !view.syn() || limit == 0 {
        return false;
    }
    if covers_options(view.options()) {
        return false;
    }
    let (header_len, mut checksum) = (view.header_len(), view.checksum());
    let mut lowered = false;
    let mut at = tcp::HEADER_LEN;
    while let Step::Option(kind, place) = options::next(&segment[..header_len], at) {
        at = place.end;
        if let (KIND, [_, _, value @ ..]) = (kind, &mut segment[place.clone()])
            && let Ok(value) = <&mut [u8; 2]>::try_from(value)
        {
            let old = u16::from_be_bytes(*value);
            if old > limit {
                *value = limit.to_be_bytes();
                checksum = checksum::update_at(checksum, place.start, old, limit);
                lowered = true;
            }
        }
    }
    if lowered {
        segment[tcp::CHECKSUM..][..2].copy_from_slice(&checksum.to_be_bytes());
    }
    lowered
}

/// True if a TCP-AO option stands in `list`, before it ends or is malformed.
fn covers_options(list: &[u8]) -> bool {
    options::iter(list).any(|(kind, place)| kind == AO && place.len() >= AO_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN with `options`, and its checksum over the segment alone (the pseudo-header is constant).
    fn syn(options: &[u8]) -> Vec<u8> {
        assert_eq!(options.len() % 4, 0);
        let mut segment = vec![0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0x02, 0xff, 0xff, 0, 0, 0, 0];
        segment[12] = (((20 + options.len()) / 4) << 4) as u8;
        segment.extend(options);
        let sum = !checksum::sum(&segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    fn valid(segment: &[u8]) -> bool {
        checksum::sum(segment) == 0xffff
    }

    #[test]
    fn every_value_is_lowered_and_none_raised() {
        for pad in [0usize, 1] {
            for mss in 0..=u16::MAX {
                let mut options = vec![1; pad];
                options.extend([2, 4]);
                options.extend(mss.to_be_bytes());
                options.resize(8, 0);
                let mut segment = syn(&options);
                assert_eq!(clamp(&mut segment, 1382), mss > 1382);
                let at = 22 + pad;
                assert_eq!(segment[at..at + 2], mss.min(1382).to_be_bytes());
                assert!(valid(&segment), "{mss} at offset {at}");
                assert!(!clamp(&mut segment, 1382), "once is enough");
            }
        }
    }

    #[test]
    fn every_one_of_several_options_is_lowered() {
        let mut segment = syn(&[2, 4, 0x05, 0xb4, 1, 2, 4, 0x05, 0xa0, 2, 4, 0x02, 0x00, 0, 0, 0]);
        assert!(clamp(&mut segment, 1382));
        assert_eq!(segment[20..], [2, 4, 0x05, 0x66, 1, 2, 4, 0x05, 0x66, 2, 4, 0x02, 0x00, 0, 0, 0]);
        assert!(valid(&segment));
    }

    /// Every place among the options, and what only looks like TCP-AO.
    #[test]
    fn the_options_that_tcp_ao_covers_are_left_alone() {
        let (mss, other) = ([2, 4, 0x05, 0xb4], [3, 3, 7, 1]);
        for ao in [&[29, 4, 1, 1][..], &[29, 16, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]] {
            for list in [[ao, &mss, &other], [&mss, ao, &other], [&mss, &other, ao]] {
                let mut segment = syn(&list.concat());
                let before = segment.clone();
                assert!(!clamp(&mut segment, 1382), "{list:?}");
                assert_eq!(segment, before, "{list:?}");
            }
        }
        for (what, other) in [
            ("TCP-MD5", &[19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1][..]),
            ("after the end of the list", &[0, 29, 4, 1, 1, 0, 0, 0]),
            ("in the data of an option", &[254, 6, 29, 4, 1, 1, 0, 0]),
            ("too short", &[29, 3, 1, 0]),
            ("cut by the data offset", &[1, 29, 4, 1]),
            ("after a malformed option", &[8, 0, 29, 4, 1, 1, 0, 0]),
        ] {
            let mut segment = syn(&[&mss, other].concat());
            assert!(clamp(&mut segment, 1382), "{what}");
            assert_eq!(segment[22..24], 1382u16.to_be_bytes(), "{what}");
            assert_eq!(segment[24..], *other, "{what}");
            assert!(valid(&segment), "{what}");
        }
    }

    #[test]
    fn other_segments_are_left_alone() {
        let mss = [2, 4, 0x05, 0xb4];
        for (what, mut segment, limit) in [
            ("limit 0", syn(&mss), 0),
            ("no option", syn(&[]), 500),
            ("behind the end of the list", syn(&[1, 0, 1, 1, 2, 4, 5, 0xb4]), 500),
            ("length 3", syn(&[2, 3, 0x05, 0]), 500),
            ("length 6", syn(&[2, 6, 0x05, 0xb4, 0, 0, 0, 0]), 500),
            ("cut by the data offset", syn(&[1, 1, 2, 4]), 500),
            ("zero length before it", syn(&[8, 0, 2, 4, 0x05, 0xb4, 0, 0]), 500),
        ] {
            let before = segment.clone();
            assert!(!clamp(&mut segment, limit), "{what}");
            assert_eq!(segment, before, "{what}");
        }
        let mut ack = syn(&mss);
        ack[13] = 0x10;
        assert!(!clamp(&mut ack, 500));
        assert!(!clamp(&mut syn(&mss)[..23], 500), "header not wholly there");
    }

    #[test]
    fn a_wrong_checksum_is_not_repaired() {
        let mut segment = syn(&[2, 4, 0x05, 0xb4]);
        segment[17] ^= 1;
        let before = checksum::sum(&segment);
        assert!(clamp(&mut segment, 1382));
        assert_eq!(checksum::sum(&segment), before);
    }

    #[test]
    fn limits_and_floors() {
        assert_eq!([1500, 1422, 576, 575, 68, 0].map(mss4_for), [1460, 1382, 536, 536, 536, 536]);
        assert_eq!([1500, 1422, 1280, 1279, 0].map(mss6_for), [1440, 1362, 1220, 1220, 1220]);
    }
}
