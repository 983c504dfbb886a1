//! IPv6: what is edited, and what is left to the kernel.

use xdpfrag::packet::{Edit, Edits, Reason, Rule, Verdict};

use crate::laws;
use crate::support::{Packet, Packet6, Policy, UDP, ones_sum, pattern, transport_sum6};

const MSS: [u8; 4] = [2, 4, 5, 0xa0];

fn policy() -> Policy {
    Policy { rule: Rule::new(1422, Some(1382), Some(1362)), ..Policy::resegment(1422) }
}

fn syn() -> Packet6 {
    Packet6::carrying(Packet::tcp(0x02, &MSS, &[]))
}

/// The frame that goes on, which must fit, and what was changed in it.
fn edited(frame: &[u8]) -> (Vec<u8>, Vec<Edit>) {
    let (outcome, mut frames) = policy().apply(frame);
    assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fits));
    laws::transform(&policy(), frame);
    (frames.remove(0), outcome.edits.iter().collect())
}

#[test]
fn a_syn_is_clamped_behind_extension_headers_tags_and_in_a_first_fragment() {
    for extensions in [
        vec![],
        vec![(0, vec![0; 8])],
        vec![(60, vec![0; 8]), (43, vec![0; 8]), (44, vec![0, 0, 0, 1, 0, 0, 0, 9]), (60, vec![0; 8])],
    ] {
        for tpids in [vec![], vec![0x8100], vec![0x88a8, 0x8100]] {
            let packet = Packet6 { extensions: extensions.clone(), tpids, padding: 2, ..syn() };
            let (out, edits) = edited(&packet.frame());
            assert_eq!(edits, [Edit::Mss]);
            let segment = &out[14 + 4 * packet.tpids.len() + packet.header_len()..out.len() - 2];
            assert_eq!(segment[20..24], [2, 4, 5, 0x52], "1362");
            assert_eq!(transport_sum6(6, segment), 0xffff);
        }
    }
}

/// A later fragment holds data; nothing may be edited behind a signature or an unknown header.
#[test]
fn what_is_not_known_to_be_a_syn_is_left() {
    for (what, extension) in [
        ("later fragment", (44, vec![0, 0, 0, 8, 0, 0, 0, 9])),
        ("authentication header", (51, vec![0, 0, 0, 0, 0, 0, 0, 1])),
        ("mobility", (135, vec![0; 8])),
        ("longer than the packet", (60, vec![0, 9, 0, 0, 0, 0, 0, 0])),
    ] {
        let packet = Packet6 { extensions: vec![extension], ..syn() };
        assert_eq!(edited(&packet.frame()), (packet.frame(), vec![]), "{what}");
    }
    let endless = Packet6 { extensions: vec![(60, vec![0; 8]); 7], ..syn() };
    assert_eq!(edited(&endless.frame()), (endless.frame(), vec![]));
}

#[test]
fn unfinished_checksums_are_finished() {
    for (packet, at) in [(syn(), 16), (Packet6::carrying(Packet::udp(1000)), 6)] {
        let mut left = packet.clone();
        let len = (left.payload.len() as u32).to_be_bytes();
        let addresses = [Packet6::SOURCE, Packet6::DESTINATION].concat();
        let sum = ones_sum(&[&addresses, &len[..], &[0, 0, 0, left.protocol]].concat());
        left.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let (out, edits) = edited(&left.frame());
        assert!(edits.contains(&Edit::Checksum));
        assert_eq!(transport_sum6(packet.protocol, &out[54..]), 0xffff);
        let behind = if packet.protocol == UDP { 54 + 8 } else { 54 + 24 };
        assert_eq!(out[behind..], left.frame()[behind..]);
    }
}

#[test]
fn what_is_left_to_the_kernel() {
    let fits = Packet6::carrying(Packet::udp(1422 - 48));
    assert_eq!(edited(&fits.frame()), (fits.frame(), vec![]));
    let udp = Packet6::carrying(Packet::udp(1423 - 48));
    let frame = udp.frame();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = frame.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let fragment = Packet6 { extensions: vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])], ..udp.clone() };
    for (what, frame, reason) in [
        ("oversize UDP", frame.clone(), Reason::Ipv6TooBig),
        ("oversize fragment", fragment.frame(), Reason::Ipv6TooBig),
        ("oversize ICMPv6", Packet6 { protocol: 58, ..udp }.frame(), Reason::Ipv6TooBig),
        ("multicast address", with(38, &[0xff, 2]), Reason::Group),
        ("multicast MAC", with(0, &[0x33, 0x33]), Reason::Group),
        ("version 4", with(14, &[0x45]), Reason::Malformed),
        ("jumbogram", with(18, &[0, 0]), Reason::Malformed),
        ("cut short", frame[..frame.len() - 1].to_vec(), Reason::Malformed),
        ("half a header", frame[..14 + 39].to_vec(), Reason::Malformed),
    ] {
        let (outcome, frames) = policy().apply(&frame);
        assert_eq!((outcome.verdict, outcome.edits), (Verdict::Pass(reason), Edits::NONE), "{what}");
        assert_eq!(frames, [frame], "{what}");
    }
}

/// The MTU is held against 40 + payload length; what follows the packet does not count.
#[test]
fn every_length_around_the_mtu() {
    for mtu in [68, 1280, 1422] {
        for len in mtu - 4..mtu + 4 {
            for padding in [0, 9] {
                let packet = Packet6 { padding, ..Packet6::carrying(Packet::new(UDP, pattern(len - 40))) };
                let (outcome, _) = Policy::resegment(mtu as u16).apply(&packet.frame());
                let reason = outcome.verdict.reason();
                assert_eq!(reason == Reason::Fits, len <= mtu, "{len} at {mtu}");
                assert_eq!(reason == Reason::Ipv6TooBig, len > mtu, "{len} at {mtu}");
            }
        }
    }
}
