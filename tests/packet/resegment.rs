//! Resegmentation: the cases that users and other implementations met.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use xdpfrag::packet::{Df, Edit, Edits, Reason, Rule, Tcp, Verdict};

use crate::laws;
use crate::support::{DF, Packet, Packet6, Policy, TCP, UDP, ones_sum, pattern, transport_sum};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// What etherparse reads of one output segment.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    sequence: u32,
    flags: u8,
    options: Vec<u8>,
    data: Vec<u8>,
    /// IPv4 identification and DF.
    id: Option<(u16, bool)>,
}

impl Segment {
    /// Its checksums must be right.
    fn of(frame: &[u8]) -> Self {
        let sliced = SlicedPacket::from_ethernet(frame).expect("a sound frame");
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("TCP: {sliced:?}") };
        let (sum, id) = match sliced.net.expect("IP") {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header();
                assert_eq!(ones_sum(ip.slice()), 0xffff, "IPv4 header checksum");
                let sum = tcp.calc_checksum_ipv4(ip.source(), ip.destination());
                (sum.unwrap(), Some((ip.identification(), ip.dont_fragment())))
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header();
                (tcp.calc_checksum_ipv6(ip.source(), ip.destination()).unwrap(), None)
            }
            NetSlice::Arp(_) => panic!("ARP"),
        };
        assert_eq!(tcp.checksum(), sum, "TCP checksum");
        Segment {
            sequence: tcp.sequence_number(),
            flags: tcp.slice()[13],
            options: tcp.options().to_vec(),
            data: tcp.payload().to_vec(),
            id,
        }
    }
}

/// The segments that `frame` becomes; it must be cut, and all laws hold.
fn cut(frame: &[u8], mtu: u16) -> Vec<Segment> {
    let policy = Policy::resegment(mtu);
    let (outcome, frames) = policy.apply(frame);
    assert_eq!((outcome.verdict, outcome.edits), (Verdict::Forward(Reason::Resegmented), Edits::NONE));
    laws::transform(&policy, frame);
    frames.iter().map(|frame| Segment::of(frame)).collect()
}

fn lens(segments: &[Segment]) -> Vec<usize> {
    segments.iter().map(|segment| segment.data.len()).collect()
}

fn flags(segments: &[Segment]) -> Vec<u8> {
    segments.iter().map(|segment| segment.flags).collect()
}

/// The capture of the mailing-list thread: 1365 bytes from sequence number 1902, at 1280.
#[test]
fn the_thread_s_own_case() {
    let mut packet = Packet::tcp(ACK | PSH, &[], &pattern(1365));
    packet.payload[4..8].copy_from_slice(&1902u32.to_be_bytes());
    packet.finish(16);
    let segments = cut(&packet.frame(), 1280);
    assert_eq!(lens(&segments), [1240, 125]);
    assert_eq!(segments.iter().map(|s| s.sequence).collect::<Vec<_>>(), [1902, 1902 + 1240]);
    assert_eq!(flags(&segments), [ACK, ACK | PSH]);
    assert_eq!(segments.iter().map(|s| s.id.unwrap()).collect::<Vec<_>>(), [(0, true), (1, true)]);
    assert_eq!(segments.into_iter().flat_map(|s| s.data).collect::<Vec<_>>(), pattern(1365));
}

#[test]
fn ipv6_with_and_without_extension_headers_and_tags() {
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let plain = Packet6::carrying(Packet::tcp(ACK, &timestamps, &pattern(1428)));
    assert_eq!(lens(&cut(&plain.frame(), 1422)), [1350, 78]);
    let extensions = vec![(0, vec![0; 8]), (60, [vec![0, 1], vec![0; 14]].concat())];
    let extended = Packet6 { extensions, tpids: vec![0x88a8, 0x8100], padding: 3, ..plain };
    let segments = cut(&extended.frame(), 1422);
    assert_eq!(lens(&segments), [1326, 102]);
    assert!(segments.iter().all(|segment| segment.options == timestamps));
    // A fragment header, even of a whole packet, promises a datagram that can be put together.
    let atomic = Packet6 { extensions: vec![(44, vec![0; 8])], ..extended };
    let (outcome, frames) = Policy::resegment(1422).apply(&atomic.frame());
    assert_eq!((outcome.verdict, frames), (Verdict::Pass(Reason::Ipv6TooBig), vec![atomic.frame()]));
}

#[test]
fn sequence_numbers_and_identifications_wrap() {
    let mut packet = Packet::tcp(ACK, &[], &pattern(2000));
    packet.payload[4..8].copy_from_slice(&0xffff_fff0u32.to_be_bytes());
    packet.finish(16);
    packet.id = 0xffff;
    let segments = cut(&packet.frame(), 1040);
    assert_eq!(segments[1].sequence, 0xffff_fff0u32.wrapping_add(1000));
    assert_eq!(segments.iter().map(|s| s.id.unwrap().0).collect::<Vec<_>>(), [0xffff, 0]);
}

/// wireguard-go left PSH and FIN on every segment, and CWR, which tells the peer more than once
/// (RFC 3168 section 6.1.2); and it gave damaged data a right checksum.
#[test]
fn trap_14_flags_belong_to_one_segment_and_damage_stays_visible() {
    let all = Packet::tcp(FIN | PSH | ACK | ECE | CWR, &[], &pattern(3000));
    assert_eq!(
        flags(&cut(&all.frame(), 1040)),
        [ACK | ECE | CWR, ACK | ECE, FIN | PSH | ACK | ECE],
        "ECE is a state, and stays"
    );
    // Accurate ECN (RFC 9768): AE, or its option, says that CWR and ECE are part of a counter.
    let mut counter = Packet::tcp(ACK | CWR | PSH, &[], &pattern(2000));
    counter.payload[12] |= 1;
    counter.finish(16);
    let option = Packet::tcp(ACK | CWR | PSH, &[172, 5, 0, 0, 1, 1, 1, 1], &pattern(2000));
    for packet in [counter, option] {
        assert_eq!(flags(&cut(&packet.frame(), 1200)), [ACK | CWR, ACK | CWR | PSH]);
        assert_eq!(flags(&cut(&Packet6::carrying(packet).frame(), 1200)), [ACK | CWR, ACK | CWR | PSH]);
    }
    for at in [3, 14, 25, 1400] {
        let mut damaged = Packet::tcp(ACK, &[], &pattern(1460));
        damaged.payload[at] ^= 0x10;
        assert_ne!(transport_sum(TCP, &damaged.payload), 0xffff);
        let policy = Policy::resegment(1422);
        laws::transform(&policy, &damaged.frame());
        let (outcome, frames) = policy.apply(&damaged.frame());
        assert_eq!(outcome.verdict, Verdict::Forward(Reason::KeptChecksum), "byte {at}");
        assert_eq!(frames.len(), 2);
        let six = Packet6 { payload: damaged.payload, ..Packet6::carrying(Packet::tcp(ACK, &[], &[])) };
        let (outcome, frames) = policy.apply(&six.frame());
        assert_eq!((outcome.verdict, frames), (Verdict::Pass(Reason::KeptChecksum), vec![six.frame()]));
    }
}

/// A super-packet that LRO or GRO made, with DF: as many segments as it takes.
#[test]
fn trap_13_super_packets() {
    for (data, mtu, segments) in
        [(64_000, 1422, 47), (65_495, 1500, 45), (65_495, 9000, 8), (65_495, 68, 2340)]
    {
        let packet = Packet { id: 7, ..Packet::tcp(PSH | ACK, &[], &pattern(data)) };
        let out = cut(&packet.frame(), mtu);
        assert_eq!(out.len(), segments, "{data} at {mtu}");
        assert_eq!(out.into_iter().flat_map(|s| s.data).collect::<Vec<_>>(), pattern(data));
        laws::transform(&Policy { tcp: Tcp::Fragment, ..Policy::resegment(mtu) }, &packet.frame());
        let six = Packet6::carrying(Packet::tcp(PSH | ACK, &[], &pattern(data)));
        assert_eq!(
            cut(&six.frame(), mtu).into_iter().flat_map(|s| s.data).collect::<Vec<_>>(),
            pattern(data)
        );
    }
    let udp = Packet::udp(65_507);
    assert_eq!(Policy::resegment(1422).apply(&udp.frame()).0.verdict, Verdict::Forward(Reason::Fragmented));
    laws::transform(&Policy::resegment(1422), &udp.frame());
}

/// Every length of data around every MTU at which it is cut in two, three or four.
#[test]
fn lengths_and_mtus() {
    for options in [&[][..], &[1; 4], &[1; 40]] {
        for mtu in [100, 101, 107, 128, 131] {
            for len in 0..400 {
                let packet = Packet::tcp(PSH | ACK, options, &pattern(len));
                let share = mtu - 40 - options.len();
                if len > share {
                    let mut expected = vec![share; len.div_ceil(share) - 1];
                    expected.push(len - share * expected.len());
                    assert_eq!(lens(&cut(&packet.frame(), mtu as u16)), expected, "{len} at {mtu}");
                }
                laws::transform(&Policy::resegment(mtu as u16), &packet.frame());
                laws::transform(&Policy::resegment(mtu as u16), &Packet6::carrying(packet).frame());
            }
        }
    }
}

/// Headers that leave no room, one byte of room, and IPv4 options on every segment.
#[test]
fn room() {
    let packet = Packet { options: vec![1; 40], ..Packet::tcp(ACK, &[1; 40], &pattern(50)) };
    let (outcome, _) = Policy::resegment(120).apply(&packet.frame());
    assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fragmented));
    let segments = cut(&packet.frame(), 121);
    assert_eq!(lens(&segments), [1; 50]);
    let six = Packet6::carrying(packet);
    let (outcome, _) = Policy::resegment(100).apply(&six.frame());
    assert_eq!(outcome.verdict, Verdict::Pass(Reason::Ipv6TooBig));
    assert_eq!(lens(&cut(&six.frame(), 101)), [1; 50]);
}

#[test]
fn an_unfinished_checksum_is_finished_on_every_segment() {
    let sound = Packet::tcp(PSH | ACK, &[], &pattern(1461));
    let six = Packet6::carrying(sound.clone());
    let pseudo = |addresses: &[u8]| ones_sum(&[addresses, &[0, TCP], &1481u16.to_be_bytes()].concat());
    let mut four = sound;
    let sum = pseudo(&[Packet::SOURCE, Packet::DESTINATION].concat());
    four.payload[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut six = six;
    let sum = pseudo(&[Packet6::SOURCE, Packet6::DESTINATION].concat());
    six.payload[16..18].copy_from_slice(&sum.to_be_bytes());
    for frame in [four.frame(), six.frame()] {
        let policy = Policy::resegment(1422);
        laws::transform(&policy, &frame);
        let (outcome, frames) = policy.apply(&frame);
        assert_eq!(outcome.verdict, Verdict::Forward(Reason::Resegmented));
        assert_eq!(outcome.edits.iter().collect::<Vec<_>>(), [Edit::Checksum]);
        let data: Vec<u8> = frames.iter().flat_map(|frame| Segment::of(frame).data).collect();
        assert_eq!(data, pattern(1461));
    }
}

#[test]
fn what_must_stay_whole() {
    let md5 = [&[19u8, 18][..], &[7; 16], &[1, 1]].concat();
    let ao = [&[29u8, 16][..], &[7; 14]].concat();
    for (what, flags, options, reason) in [
        ("SYN", 0x02, vec![], Reason::KeptFlags),
        ("RST", 0x14, vec![], Reason::KeptFlags),
        ("URG", 0x30, vec![], Reason::KeptFlags),
        ("TCP-MD5", ACK, md5, Reason::KeptSigned),
        ("TCP-AO", ACK, ao, Reason::KeptSigned),
        ("malformed options", ACK, vec![8, 0, 0, 0], Reason::Fragmented),
    ] {
        let packet = Packet::tcp(flags, &options, &pattern(1460));
        let policy = Policy::resegment(1422);
        assert_eq!(policy.apply(&packet.frame()).0.verdict, Verdict::Forward(reason), "{what}");
        laws::transform(&policy, &packet.frame());
        let keep = Policy { df: Df::Keep, ..policy };
        assert_eq!(keep.apply(&packet.frame()).0.verdict, Verdict::Pass(Reason::DfKept), "{what}");
        let six = Packet6::carrying(packet).frame();
        let reason = if reason == Reason::Fragmented { Reason::Ipv6TooBig } else { reason };
        assert_eq!(policy.apply(&six).0.verdict, Verdict::Pass(reason), "{what}");
    }
    let mut short = Packet::tcp(ACK, &[], &pattern(1460));
    short.payload[12] = 0x40;
    let fragment = Packet { flags_offset: 0x2000, ..Packet::tcp(ACK, &[], &pattern(1460)) };
    for (what, packet) in [("data offset 4", short), ("a fragment", fragment), ("UDP", Packet::udp(1472))] {
        let (outcome, _) = Policy::resegment(1422).apply(&packet.frame());
        assert_eq!(outcome.verdict, Verdict::Forward(Reason::Fragmented), "{what}");
    }
    let malformed = Packet { options: vec![7, 0, 0, 0], ..Packet::tcp(ACK, &[], &pattern(1460)) };
    let (outcome, _) = Policy::resegment(1422).apply(&malformed.frame());
    assert_eq!(outcome.verdict, Verdict::Pass(Reason::Malformed), "IPv4 options");
}

/// `--df` is about fragments: whole segments keep DF as it came.
#[test]
fn df_stays_as_it_came() {
    for df in [Df::Clear, Df::Oversize, Df::Keep] {
        for flags_offset in [0, DF] {
            let packet = Packet { flags_offset, ..Packet::tcp(ACK, &[], &pattern(1460)) };
            let (outcome, frames) = Policy { df, ..Policy::resegment(1422) }.apply(&packet.frame());
            assert_eq!(outcome.verdict, Verdict::Forward(Reason::Resegmented));
            for frame in frames {
                assert_eq!(Segment::of(&frame).id.unwrap().1, flags_offset == DF);
            }
        }
    }
    let udp = Packet { flags_offset: DF, ..Packet::new(UDP, pattern(1480)) };
    let keep = Policy { df: Df::Keep, ..Policy::resegment(1422) };
    assert_eq!(keep.apply(&udp.frame()).0.verdict, Verdict::Pass(Reason::DfKept));
}

/// A second pass finds nothing to do.
#[test]
fn segments_fit() {
    let rule = Rule::new(1422, Some(1382), Some(1362));
    let policy = Policy { rule, ..Policy::resegment(1422) };
    let packet = Packet::tcp(PSH | ACK, &[], &pattern(8000));
    for frame in [packet.frame(), Packet6::carrying(packet).frame()] {
        for segment in policy.apply(&frame).1 {
            let (outcome, same) = policy.apply(&segment);
            assert_eq!((outcome.verdict, outcome.edits), (Verdict::Forward(Reason::Fits), Edits::NONE));
            assert_eq!(same, [segment]);
        }
    }
}
