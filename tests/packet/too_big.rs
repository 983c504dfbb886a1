//! The messages that tell a sender its MTU, as etherparse reads them.

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type};
use xdpfrag::packet::{self, too_big};

use crate::support::{DF, MF, Packet, Packet6, UDP, ones_sum, pattern};

fn message(frame: &[u8], room: usize) -> Vec<u8> {
    let (_, packet) = packet::parse(frame).unwrap();
    let mut out = vec![0x55; room];
    let len = too_big::write(&packet, 1422, &mut out);
    assert!(out[len..].iter().all(|byte| *byte == 0x55), "nothing written behind it");
    out.truncate(len);
    out
}

fn may_notify(frame: &[u8]) -> bool {
    too_big::may_notify(&packet::parse(frame).unwrap().1)
}

#[test]
fn icmp_quotes_as_much_as_fits_in_576_bytes() {
    for (options, len) in [(vec![], 1480), (vec![1; 40], 1440), (vec![], 528), (vec![], 527), (vec![], 0)] {
        let packet = Packet { options, padding: 9, ..Packet::new(UDP, pattern(len)) };
        let frame = packet.frame();
        let message = message(&frame, too_big::MAX_LEN);
        let slice = Icmpv4Slice::from_slice(&message).unwrap();
        let expected = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1422 };
        assert_eq!(slice.icmp_type(), Icmpv4Type::DestinationUnreachable(expected));
        assert_eq!(ones_sum(&message), 0xffff);
        let whole = packet.header_len() + len;
        assert_eq!(message.len(), 8 + whole.min(548));
        assert_eq!(slice.payload(), &frame[14..14 + whole.min(548)]);
    }
}

#[test]
fn icmpv6_quotes_as_much_as_fits_in_1280_bytes() {
    for len in [8, 1192, 1193, 1400] {
        let packet =
            Packet6 { extensions: vec![(60, vec![0; 8])], ..Packet6::carrying(Packet::udp(len - 8)) };
        let frame = packet.frame();
        let message = message(&frame, too_big::MAX_LEN);
        let slice = Icmpv6Slice::from_slice(&message).unwrap();
        assert_eq!(slice.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1422 });
        assert_eq!(slice.checksum(), 0, "the kernel's to fill in");
        assert_eq!(message.len(), 8 + (48 + len).min(1232));
        assert_eq!(slice.payload(), &frame[14..14 + (48 + len).min(1232)]);
    }
}

#[test]
fn a_short_buffer_is_filled_and_not_more() {
    let frame = Packet::udp(1000).frame();
    for room in 0..200 {
        let message = message(&frame, room);
        assert_eq!(message.len(), if room < 8 { 0 } else { room });
        assert!(room < 8 || ones_sum(&message) == 0xffff, "{room}");
    }
}

#[test]
fn who_may_be_told_over_ipv4() {
    let frame = |edit: &dyn Fn(&mut Packet)| {
        let mut packet = Packet::udp(1472);
        edit(&mut packet);
        packet.frame()
    };
    // An address in place of another, the header checksum made right.
    let from = |source: [u8; 4]| {
        let mut frame = frame(&|_| {});
        frame[26..30].copy_from_slice(&source);
        frame[24..26].fill(0);
        let sum = !ones_sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        may_notify(&frame)
    };
    let icmp = |kind: u8| may_notify(&Packet::new(1, [vec![kind], vec![0; 1479]].concat()).frame());
    assert!(may_notify(&frame(&|_| {})));
    assert!(may_notify(&frame(&|packet| packet.flags_offset = DF | MF)), "the first fragment");
    assert!(!may_notify(&frame(&|packet| packet.flags_offset = DF | 185)), "a later one");
    assert!(!may_notify(&frame(&|packet| packet.flags_offset = 0)), "DF clear");
    assert!(!may_notify(&frame(&|packet| packet.checksum_error = 1)));
    assert!(!may_notify(&Packet::new(1, vec![]).frame()), "ICMP without a type");
    for kind in 0..=255 {
        assert_eq!(icmp(kind), ![3, 4, 5, 11, 12].contains(&kind), "ICMP type {kind}");
    }
    for first in 0..=255 {
        assert_eq!(from([first, 18, 0, 1]), !(first == 0 || first == 127 || first >= 224), "{first}");
    }
}

#[test]
fn who_may_be_told_over_ipv6() {
    let base = Packet6::carrying(Packet::udp(1400));
    let from = |source: [u8; 16]| {
        let mut frame = base.frame();
        frame[22..38].copy_from_slice(&source);
        may_notify(&frame)
    };
    assert!(from(Packet6::SOURCE));
    let low = |last: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let multicast = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    assert!(!from(low(0)) && !from(low(1)) && !from(multicast), "unspecified, loopback, multicast");
    let later = Packet6 { extensions: vec![(44, vec![0, 0, 0, 8, 0, 0, 0, 1])], ..base.clone() };
    assert!(!may_notify(&later.frame()));
    for kind in 0..=255 {
        for extensions in [vec![], vec![(60, vec![0; 8])]] {
            let payload = [vec![kind], vec![0; 1400]].concat();
            let packet = Packet6 { extensions, protocol: 58, payload, ..base.clone() };
            assert_eq!(may_notify(&packet.frame()), kind >= 128 && kind != 137, "ICMPv6 type {kind}");
        }
    }
}
