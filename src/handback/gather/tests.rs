//! What is gathered and cut again, as the kernel does it, against what the transform cuts by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::packet::{
    Df, Frames, Idents, Reason, Rule, Sink, Tcp as TcpChoice, Transform, Verdict, Way, Ways,
};

const MTU: u16 = 1422;
const RULE: Rule = Rule::new(MTU, None, None);

fn transform() -> Transform {
    Transform { df: Df::Oversize, tcp: TcpChoice::Resegment, idents: Arc::new(Idents::default()) }
}

/// A sink that gathers.
struct Gathering(Gather);

impl Sink for Gathering {
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        self.0.reserve(frames, len)
    }

    fn push(&mut self, len: usize) -> &mut [u8] {
        self.0.push(len)
    }

    fn gathers(&self) -> bool {
        self.0.gathers()
    }

    fn gather(&mut self, segment: &Segment<'_>) -> Gathered {
        self.0.gather(segment)
    }

    fn takes_datagrams(&self) -> bool {
        true
    }

    fn datagram(&mut self, datagram: &Datagram<'_>) -> Gathered {
        self.0.datagram(datagram)
    }
}

/// What a sender may do differently from one segment to the next.
#[derive(Debug, Clone)]
struct Sent {
    flow: u8,
    /// Sequence numbers left out before it, or repeated.
    gap: i32,
    len: usize,
    psh: bool,
    fin: bool,
    cwr: bool,
    /// Accurate ECN: CWR is part of a counter then.
    ae: bool,
    ack: u32,
    window: u16,
    ttl: u8,
    timestamp: Option<u32>,
}

impl Sent {
    fn plain(flow: u8, len: usize) -> Sent {
        let (psh, fin, cwr, ae) = (false, false, false, false);
        Sent { flow, gap: 0, len, psh, fin, cwr, ae, ack: 7, window: 500, ttl: 64, timestamp: None }
    }
}

/// The frame of each, sequence numbers counting on; flows of odd numbers are IPv6.
fn frames(sent: &[Sent]) -> Vec<Vec<u8>> {
    let mut next: BTreeMap<u8, u32> = BTreeMap::new();
    let frame = |sent: &Sent| {
        let sequence = next.entry(sent.flow).or_insert(u32::MAX - 5000);
        *sequence = sequence.wrapping_add_signed(sent.gap);
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match sent.flow % 2 {
            0 => link.ipv4([198, 18, 0, sent.flow], [198, 51, 100, 1], sent.ttl),
            _ => {
                let mut source = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                source[15] = sent.flow;
                link.ipv6(source, [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], sent.ttl)
            }
        };
        let mut tcp = ip.tcp(4000, 5000, *sequence, sent.window).ack(sent.ack);
        if sent.psh {
            tcp = tcp.psh();
        }
        if sent.fin {
            tcp = tcp.fin();
        }
        if sent.cwr {
            tcp = tcp.cwr();
        }
        if sent.ae {
            tcp = tcp.ns();
        }
        if let Some(time) = sent.timestamp {
            tcp = tcp.options(&[etherparse::TcpOptionElement::Timestamp(time, 9)]).unwrap();
        }
        let data: Vec<u8> =
            (0..sent.len).map(|at| sequence.wrapping_add(at as u32).wrapping_mul(31) as u8).collect();
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, &data).unwrap();
        *sequence = sequence.wrapping_add(sent.len as u32 + u32::from(sent.fin));
        bytes
    };
    sent.iter().map(frame).collect()
}

/// What `tcp_gso_segment()` and the MTU make of what is written to the device.
fn cut(packet: &[u8]) -> Vec<Vec<u8>> {
    let (vnet, frame) = packet.split_at(VNET_HEADER);
    let field = |at: usize| usize::from(u16::from_ne_bytes([vnet[at], vnet[at + 1]]));
    if vnet[0] == 0 {
        return vec![frame.to_vec()];
    }
    let (headers, tcp_at, share) = (field(2), field(6), field(4));
    assert_eq!((vnet[0], field(8)), (NEEDS_CSUM, 16));
    let first_only = vnet[1] != GSO_NONE && frame[tcp_at + 13] & tcp::CWR != 0;
    assert_eq!(vnet[1] & GSO_ECN != 0, first_only, "a NIC must know of CWR");
    let (headers, data) = frame.split_at(headers);
    let share = if vnet[1] == GSO_NONE { data.len() } else { share };
    let pieces: Vec<&[u8]> = data.chunks(share).collect();
    let segment = |(number, piece): (usize, &&[u8])| {
        let mut out = [headers, piece].concat();
        let len = (out.len() - tcp_at) as u16;
        let sequence = u32::from_be_bytes(*headers[tcp_at + 4..].first_chunk().unwrap());
        out[tcp_at + 4..tcp_at + 8]
            .copy_from_slice(&sequence.wrapping_add((number * share) as u32).to_be_bytes());
        if number + 1 < pieces.len() {
            out[tcp_at + 13] &= !(tcp::PSH | tcp::FIN);
        }
        if number > 0 {
            out[tcp_at + 13] &= !tcp::CWR;
        }
        // From the sum of the pseudo-header, which the field holds, to that of this segment.
        let all = (frame.len() - tcp_at) as u16;
        let pseudo = u16::from_be_bytes([headers[tcp_at + 16], headers[tcp_at + 17]]);
        let pseudo = checksum::add(checksum::subtract(pseudo, all), len);
        out[tcp_at + 16..tcp_at + 18].copy_from_slice(&pseudo.to_be_bytes());
        let sum = !checksum::sum(&out[tcp_at..]);
        out[tcp_at + 16..tcp_at + 18].copy_from_slice(&sum.to_be_bytes());
        if out[14] >> 4 == 4 {
            assert_eq!(checksum::sum(&headers[14..34]), 0xffff, "header checksum");
            assert_eq!(usize::from(u16::from_be_bytes([headers[16], headers[17]])), frame.len() - 14);
            out[16..18].copy_from_slice(&(20 + len).to_be_bytes());
            out[24..26].fill(0);
            let sum = !checksum::sum(&out[14..34]);
            out[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            assert_eq!(usize::from(u16::from_be_bytes([headers[18], headers[19]])), frame.len() - 54);
            out[18..20].copy_from_slice(&len.to_be_bytes());
        }
        out
    };
    pieces.iter().enumerate().map(segment).collect()
}

/// A byte that a receiver gets: sequence number, the byte, and what its segment says of it.
type Byte = (u32, u8, Vec<u8>);

/// All of them, by source address, in order.
fn received<'a>(frames: impl Iterator<Item = &'a [u8]>) -> BTreeMap<Vec<u8>, Vec<Byte>> {
    let mut flows: BTreeMap<Vec<u8>, Vec<Byte>> = BTreeMap::new();
    for frame in frames {
        let (link, packet) = crate::packet::parse(frame).unwrap();
        let (source, ttl, tcp_at, len) = match &packet {
            crate::packet::Packet::V4(ip) => {
                (ip.source().octets().to_vec(), frame[22], 34, usize::from(ip.total_len()))
            }
            crate::packet::Packet::V6(ip) => (ip.source().octets().to_vec(), frame[21], 54, ip.total_len()),
        };
        assert!(len <= usize::from(MTU), "{len} bytes");
        assert_eq!(link.header().len() + len, frame.len());
        let parsed = etherparse::PacketHeaders::from_ethernet_slice(frame).unwrap();
        let transport = parsed.transport.unwrap().tcp().unwrap();
        let data = parsed.payload.slice();
        let sum = match parsed.net.unwrap() {
            etherparse::NetHeaders::Ipv4(ip, _) => transport.calc_checksum_ipv4(&ip, data),
            etherparse::NetHeaders::Ipv6(ip, _) => transport.calc_checksum_ipv6(&ip, data),
            etherparse::NetHeaders::Arp(_) => unreachable!("nobody sends it"),
        };
        assert_eq!(sum.unwrap(), transport.checksum);
        let mut fixed = frame[tcp_at + 8..tcp_at + 16].to_vec();
        fixed[5] &= !(tcp::PSH | tcp::FIN | tcp::CWR);
        fixed.extend([ttl]);
        fixed.extend(&frame[tcp_at + 20..frame.len() - data.len()]);
        let flow = flows.entry(source).or_default();
        for (at, byte) in data.iter().enumerate() {
            let mut marks = fixed.clone();
            marks.push(u8::from(at == 0 && transport.cwr));
            marks.push(
                u8::from(at + 1 == data.len() && transport.psh)
                    | u8::from(at + 1 == data.len() && transport.fin) << 1,
            );
            flow.push((transport.sequence_number.wrapping_add(at as u32), *byte, marks));
        }
    }
    flows
}

/// What was written, packet by packet; and how many segments and frames it was made of.
fn written(gather: &mut Gather) -> (Vec<Vec<u8>>, usize) {
    gather.seal();
    let (mut packets, mut parts) = (Vec::new(), 0);
    while let Some(front) = gather.front() {
        packets.push(front.as_slice().iter().flat_map(|slice| slice.to_vec()).collect());
        parts += gather.pop();
    }
    (packets, parts)
}

fn gathered(sent: &[Sent]) -> Vec<Vec<u8>> {
    let mut sink = Gathering(Gather::new(512, 1600, 9022));
    for frame in frames(sent) {
        let outcome = transform().apply(&frame, RULE, &mut sink);
        assert!(matches!(outcome.verdict, Verdict::Forward(_)), "{outcome:?}");
    }
    let pending = sink.0.pending();
    let (packets, parts) = written(&mut sink.0);
    assert_eq!((parts, sink.0.pending()), (pending, 0));
    packets
}

/// Segments of each packet that was written.
fn sizes(sent: &[Sent]) -> Vec<usize> {
    gathered(sent).iter().map(|packet| cut(packet).len()).collect()
}

#[test]
fn segments_of_a_flow_become_one_packet_up_to_64_kb() {
    assert_eq!(sizes(&vec![Sent::plain(0, 1460); 10]), [14_600usize.div_ceil(1382)]);
    let all = gathered(&vec![Sent::plain(0, 1460); 100]);
    let lengths: Vec<usize> = all.iter().map(Vec::len).collect();
    // 44 segments and 40 bytes of headers are within 65,535, 45 are not.
    assert_eq!(lengths, [44 * 1460, 44 * 1460, 12 * 1460].map(|data| VNET_HEADER + 54 + data));
}

#[test]
fn the_short_end_of_a_burst_goes_along_and_ends_it() {
    let burst = [Sent::plain(0, 1460), Sent { psh: true, ..Sent::plain(0, 300) }];
    assert_eq!(sizes(&burst), [2]);
    assert_eq!(sizes(&[burst.clone(), burst].concat()), [2, 2]);
    // By itself it is a frame like any other.
    assert_eq!(gathered(&[Sent::plain(0, 300)])[0][..VNET_HEADER], [0; VNET_HEADER]);
}

#[test]
fn flows_in_turn_are_kept_apart() {
    let turns: Vec<Sent> = (0..30).map(|turn| Sent::plain(turn % 3, 1460)).collect();
    assert_eq!(gathered(&turns).len(), 3);
}

#[test]
fn what_gro_would_not_merge_is_not_merged() {
    let first = Sent::plain(0, 1460);
    let changes: [(&str, Sent); 8] = [
        ("a gap", Sent { gap: 1, ..first.clone() }),
        ("a repeat", Sent { gap: -1460, ..first.clone() }),
        ("ACK", Sent { ack: 8, ..first.clone() }),
        ("window", Sent { window: 501, ..first.clone() }),
        ("TTL", Sent { ttl: 63, ..first.clone() }),
        ("CWR", Sent { cwr: true, ..first.clone() }),
        ("AE", Sent { ae: true, ..first.clone() }),
        ("options", Sent { timestamp: Some(1), ..first.clone() }),
    ];
    for (what, second) in changes {
        assert_eq!(sizes(&[first.clone(), second]), [2, 2], "{what}");
    }
    assert_eq!(sizes(&[Sent { cwr: true, ..first.clone() }, first.clone()]), [3], "CWR on the first");
}

/// The kernel would leave CWR on the first piece only.
#[test]
fn cwr_that_is_part_of_a_counter_is_on_every_piece() {
    let counted = Sent { cwr: true, ae: true, ..Sent::plain(0, 1460) };
    let packets = gathered(&[counted.clone(), counted.clone(), Sent::plain(2, 1460)]);
    assert_eq!(packets.len(), 5);
    for packet in &packets[..4] {
        assert_eq!(packet[..VNET_HEADER], [0; VNET_HEADER], "an ordinary frame");
        assert_eq!(packet[VNET_HEADER + 34 + 13] & tcp::CWR, tcp::CWR);
    }
    // Without CWR there is nothing that the kernel would take off.
    assert_eq!(sizes(&vec![Sent { ae: true, ..Sent::plain(0, 1460) }; 3]), [4]);
}

#[test]
fn without_df_the_identification_has_to_count_on() {
    let mut frames = frames(&vec![Sent::plain(0, 1460); 3]);
    for (frame, id) in frames.iter_mut().zip([7u16, 8, 10]) {
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        frame[20] &= !0x40;
        frame[24..26].fill(0);
        let sum = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let mut sink = Gathering(Gather::new(512, 1600, 9022));
    for frame in &frames {
        let _ = transform().apply(frame, RULE, &mut sink);
    }
    assert_eq!(written(&mut sink.0).0.iter().map(|packet| cut(packet).len()).collect::<Vec<_>>(), [3, 2]);
}

#[test]
fn damaged_segments_are_not_made_right() {
    for at in [60, 24] {
        let mut frame = frames(&[Sent::plain(0, 1460)]).remove(0);
        frame[at] ^= 1;
        let mut sink = Gathering(Gather::new(512, 1600, 9022));
        let outcome = transform().apply(&frame, RULE, &mut sink);
        let (packets, _) = written(&mut sink.0);
        assert!(
            packets.iter().all(|packet| packet[..VNET_HEADER] == [0; VNET_HEADER]),
            "byte {at}: {outcome:?}"
        );
    }
}

#[test]
fn a_full_arena_takes_nothing_more_and_loses_nothing() {
    let mut sink = Gathering(Gather::new(16, 1600, 9022));
    let frames = frames(&vec![Sent::plain(0, 1460); 40]);
    let (mut taken, mut outputs) = (0, Vec::new());
    for frame in &frames {
        let mut outcome = transform().apply(frame, RULE, &mut sink);
        if outcome.verdict == Verdict::Drop(Reason::HandbackFull) {
            let (packets, parts) = written(&mut sink.0);
            taken += parts;
            outputs.extend(packets);
            outcome = transform().apply(frame, RULE, &mut sink);
        }
        assert_eq!(outcome.verdict, Verdict::Forward(Reason::Resegmented));
    }
    let (packets, parts) = written(&mut sink.0);
    outputs.extend(packets);
    assert_eq!((taken + parts, outputs.len()), (40, 3));
}

fn sent() -> impl Strategy<Value = Sent> {
    let gap = prop_oneof![9 => Just(0), 1 => -1460..1460];
    let len = prop_oneof![6 => Just(1460usize), 3 => 1usize..1460, 1 => Just(0)];
    let flags = prop_oneof![
        7 => Just((false, false, false, false)),
        3 => (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.2), prop::bool::weighted(0.3))
    ];
    let odd = prop_oneof![8 => Just((7, 500, 64)), 2 => (7u32..9, 500u16..502, 63u8..65)];
    let timestamp = prop_oneof![3 => Just(None), 1 => (0u32..2).prop_map(Some)];
    (0u8..4, gap, len, flags, odd, timestamp).prop_map(
        |(flow, gap, len, (psh, fin, cwr, ae), (ack, window, ttl), timestamp)| Sent {
            flow,
            gap,
            len,
            psh,
            fin,
            cwr,
            ae,
            ack,
            window,
            ttl,
            timestamp,
        },
    )
}

proptest! {
    /// Whatever is sent, a receiver gets the same bytes in the same order, under the same headers, as without.
    #[test]
    fn nothing_changes_for_a_receiver(sent in prop::collection::vec(sent(), 1..80)) {
        let mut alone = Frames::default();
        for frame in frames(&sent) {
            let _ = transform().apply(&frame, RULE, &mut alone);
        }
        let segments: Vec<Vec<u8>> = gathered(&sent).iter().flat_map(|packet| cut(packet)).collect();
        prop_assert_eq!(received(segments.iter().map(Vec::as_slice)), received(alone.iter()));
    }
}

/// A UDP datagram of `data` bytes with DF and identification 0.
fn datagram(data: usize) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([198, 18, 1, 2], [198, 18, 2, 2], 64).udp(5000, 9);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![7; data]).unwrap();
    frame
}

fn handed_back(frame: &[u8]) -> (Verdict, Vec<Vec<u8>>) {
    let mut sink = Gathering(Gather::new(512, 1600, 9022));
    let ways = Ways { udp: Way::Gso, other: Way::Fragments };
    let outcome = transform().apply(frame, Rule { ways, ..RULE }, &mut sink);
    (outcome.verdict, written(&mut sink.0).0)
}

#[test]
fn a_datagram_is_one_packet_that_says_how_the_kernel_is_to_fragment_it() {
    for (data, tagged) in [(1395, false), (1472, false), (1472, true), (8972, false)] {
        let mut frame = datagram(data);
        if tagged {
            frame.splice(12..12, [0x81, 0, 0, 5]);
        }
        let (at, padded) = (if tagged { 18 } else { 14 }, [&frame[..], &[0; 5]].concat());
        let (verdict, packets) = handed_back(&padded);
        assert_eq!((verdict, packets.len()), (Verdict::Forward(Reason::HandedWhole), 1), "{data}");
        let (vnet, packet) = packets[0].split_at(VNET_HEADER);
        let words: Vec<u16> = vnet[2..].chunks(2).map(|word| u16::from_ne_bytes(octets(word, 0))).collect();
        assert_eq!((vnet[0], vnet[1]), (NEEDS_CSUM, GSO_UDP));
        // Length of the headers, data of a fragment, where the checksum begins, and where it stands from there.
        assert_eq!(words, [at as u16 + 28, 1400, at as u16 + 20, 6]);
        // But for DF, identification and both checksums, nothing has changed; padding is gone.
        let mut expected = frame.clone();
        for changed in [at + 4..at + 8, at + 10..at + 12, at + 26..at + 28] {
            expected[changed.clone()].copy_from_slice(&packet[changed]);
        }
        assert!(packet == expected);
        assert_ne!(packet[at + 4..at + 6], [0, 0]);
        assert_eq!((packet[at + 6] & 0x40, checksum::sum(&packet[at..at + 20])), (0, 0xffff));
        let pseudo =
            checksum::pseudo_header([198, 18, 1, 2].into(), [198, 18, 2, 2].into(), 17, data as u16 + 8);
        assert_eq!(packet[at + 26..at + 28], pseudo.to_be_bytes());
    }
}

#[test]
fn what_the_kernel_would_make_something_else_of_is_not_handed_back_whole() {
    let kept = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = datagram(1472);
        change(&mut frame);
        let (verdict, packets) = handed_back(&frame);
        assert_eq!(verdict, Verdict::Pass(Reason::KeptWhole), "{what}");
        assert!(packets.len() == 1 && packets[0][VNET_HEADER..] == frame, "{what}");
    };
    kept("a wrong checksum", &|frame| frame[100] ^= 1);
    kept("a UDP length below that of the packet", &|frame| frame[39] -= 1);
    kept("options", &|frame| {
        frame.splice(34..34, [1; 4]);
        frame[14] = 0x46;
        let total = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
    });
    // A checksum left to hardware is finished, and none at all becomes one.
    let mut unfinished = datagram(1472);
    let pseudo = checksum::pseudo_header([198, 18, 1, 2].into(), [198, 18, 2, 2].into(), 17, 1480);
    unfinished[40..42].copy_from_slice(&pseudo.to_be_bytes());
    let mut none = datagram(1472);
    none[40..42].fill(0);
    for frame in [unfinished, none] {
        assert_eq!(handed_back(&frame).0, Verdict::Forward(Reason::HandedWhole));
    }
}
