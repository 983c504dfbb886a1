//! Checksums that a veth or virtio neighbour left to hardware (CHECKSUM_PARTIAL).

use xdpfrag::packet::{Df, Edit};

use crate::support::{DF, Fragment, MF, Packet, TCP, apply, ones_sum, reassemble, transport_sum};

/// Leaves the field at `at` as Linux does: the sum of the pseudo-header, not complemented.
fn leave_unfinished(packet: &mut Packet, at: usize) {
    let data = !ones_sum(&packet.payload);
    let whole = transport_sum(packet.protocol, &packet.payload);
    // pseudo = whole - payload, one's complement
    let sum = u32::from(whole) + u32::from(data);
    let pseudo = ((sum & 0xffff) + (sum >> 16)) as u16;
    packet.payload[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
}

/// The payload that arrives, and whether a checksum was finished on the way.
fn through(packet: &Packet, mtu: u16, mss4: Option<u16>) -> (Vec<u8>, bool) {
    let (outcome, frames) = apply(Df::Clear, mtu, mss4, &packet.frame());
    let parts: Vec<_> = frames.iter().map(|frame| Fragment::of(frame, 14)).collect();
    let start = usize::from(packet.flags_offset & 0x1fff) * 8;
    (reassemble(&parts, start).0, outcome.edits.contains(Edit::Checksum))
}

#[test]
fn an_unfinished_checksum_is_finished_whole_or_in_fragments() {
    for (sound, at) in [(Packet::udp(1000), 6), (Packet::tcp(0x10, &[1; 12], &[9; 900]), 16)] {
        let mut packet = sound.clone();
        leave_unfinished(&mut packet, at);
        assert_ne!(packet.payload, sound.payload);
        // At 68 the header itself is cut: options leave 24 bytes of payload to a fragment.
        packet.options = vec![0x94, 4, 0, 0, 0x94, 4, 0, 0, 0x94, 4, 0, 0, 0x94, 4, 0, 0];
        packet.options.extend([0x94, 4, 0, 0, 0x94, 4, 0, 0, 0x94, 4, 0, 0, 0x94, 4, 0, 0]);
        for mtu in [68, 576, 1422] {
            assert_eq!(through(&packet, mtu, None), (sound.payload.clone(), true), "at {mtu}");
        }
        assert_eq!(through(&sound, 576, None), (sound.payload, false));
    }
}

#[test]
fn a_syn_is_finished_and_then_clamped() {
    let mut packet = Packet::tcp(0x02, &[1, 2, 4, 5, 0xb4, 0, 0, 0], &[]);
    leave_unfinished(&mut packet, 16);
    for mtu in [1422, 68] {
        packet.options = if mtu == 68 { [0x94, 4, 0, 0].repeat(10) } else { vec![] };
        let (payload, finished) = through(&packet, mtu, Some(1382));
        assert!(finished);
        assert_eq!(payload[20..25], [1, 2, 4, 5, 0x66], "the option may lie across two fragments");
        assert_eq!(transport_sum(TCP, &payload), 0xffff);
    }
}

#[test]
fn what_only_looks_unfinished_is_left() {
    // Data chosen so that the right checksum is the sum of the pseudo-header.
    let mut valid = Packet::udp(2);
    leave_unfinished(&mut valid, 6);
    valid.payload[8..].fill(0);
    let rest = !ones_sum(&valid.payload);
    let pseudo = u16::from_be_bytes([valid.payload[6], valid.payload[7]]);
    let data = u32::from(rest) + u32::from(!pseudo);
    let data = ((data & 0xffff) + (data >> 16)) as u16;
    valid.payload[8..].copy_from_slice(&data.to_be_bytes());
    assert_eq!(transport_sum(17, &valid.payload), 0xffff, "the test's own arithmetic");
    assert_eq!(through(&valid, 1422, None), (valid.payload.clone(), false));

    let mut none = Packet::udp(100);
    none.payload[6..8].fill(0);
    assert_eq!(through(&none, 1422, None), (none.payload.clone(), false), "UDP without checksum");

    let mut wrong = Packet::udp(100);
    wrong.payload[50] ^= 1;
    assert_eq!(through(&wrong, 1422, None), (wrong.payload.clone(), false), "wrong stays wrong");

    let mut other = Packet::udp(100);
    other.payload[5] -= 1; // UDP length shorter than the packet: not what a kernel leaves to a NIC
    leave_unfinished(&mut other, 6);
    assert_eq!(through(&other, 1422, None), (other.payload.clone(), false));

    for field in [MF, DF | 3] {
        let mut fragment = Packet::udp(104);
        leave_unfinished(&mut fragment, 6);
        fragment.flags_offset = field;
        assert_eq!(through(&fragment, 1422, None), (fragment.payload.clone(), false), "{field:#x}");
    }
}

#[test]
fn a_udp_sum_of_zero_is_sent_as_ffff() {
    let mut packet = Packet::udp(2);
    packet.payload[8..].fill(0);
    leave_unfinished(&mut packet, 6);
    let missing = !ones_sum(&packet.payload);
    packet.payload[8..].copy_from_slice(&missing.to_be_bytes());
    let (payload, finished) = through(&packet, 1422, None);
    assert!(finished);
    assert_eq!(payload[6..8], [0xff, 0xff]);
    assert_eq!(transport_sum(17, &payload), 0xffff);
}
