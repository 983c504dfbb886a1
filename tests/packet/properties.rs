//! Properties over random frames, rules and policies.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use xdpfrag::packet::{Df, Edit, Edits, Reason, Rule, Tcp, Verdict};

use crate::laws;
use crate::support::{
    AH, Catch, DF, Fragment, MF, Packet, Packet6, Policy, TCP, apply, reassemble, transform, transport_sum,
};

fn policies() -> impl Strategy<Value = Df> {
    select(vec![Df::Clear, Df::Oversize, Df::Keep])
}

fn option_lists() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1]),
        (any::<u8>().prop_filter("neither end nor no-operation", |kind| *kind > 1), vec(any::<u8>(), 0..10))
            .prop_map(|(kind, data)| [vec![kind, data.len() as u8 + 2], data].concat()),
    ];
    vec(option, 0..6).prop_map(|options| {
        let mut list = options.concat();
        list.truncate(40);
        list.resize(list.len().next_multiple_of(4), 0);
        list
    })
}

/// TCP options that hold MSS options among others, sound or not.
fn tcp_options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        3 => any::<[u8; 2]>().prop_map(|[a, b]| vec![2, 4, a, b]),
        2 => Just(vec![1]),
        1 => Just(vec![4, 2]),
        1 => select(vec![vec![29, 4, 1, 1], vec![29, 8, 1, 1, 9, 9, 9, 9], vec![172, 5, 0, 0, 1], vec![174, 2]]),
        1 => vec(any::<u8>(), 1..5),
    ];
    vec(option, 0..8).prop_map(|options| {
        let mut list = options.concat();
        list.truncate(40);
        list.resize(list.len().next_multiple_of(4), 0);
        list
    })
}

/// Well-formed packets of every kind: whole or fragments, TCP, UDP or neither.
fn packets() -> impl Strategy<Value = Packet> {
    let body = prop_oneof![
        (0usize..3000).prop_map(Packet::udp),
        (any::<u8>(), tcp_options(), vec(any::<u8>(), 0..2000))
            .prop_map(|(flags, options, data)| Packet::tcp(flags, &options, &data)),
        (prop_oneof![4 => any::<u8>(), 1 => Just(AH)], vec(any::<u8>(), 0..9000))
            .prop_filter("TCP and UDP have their own", |(protocol, _)| ![6, 17].contains(protocol))
            .prop_map(|(protocol, payload)| Packet::new(protocol, payload)),
    ];
    let tpids = vec(select(vec![0x8100, 0x88a8, 0x9100]), 0..=2);
    let flags = prop_oneof![
        2 => Just(DF),
        1 => Just(0),
        1 => (select(vec![0, DF, MF, MF | DF]), 0u16..6000).prop_map(|(flags, offset)| flags | offset),
    ];
    // 0xffff only turns 0 into -0, which is right too.
    let error = prop_oneof![3 => Just(0), 1 => 1..0xffffu16];
    (body, tpids, any::<u16>(), flags, option_lists(), 0usize..50, error).prop_map(
        |(body, tpids, id, flags_offset, options, padding, checksum_error)| {
            let mut packet = Packet { tpids, id, flags_offset, options, padding, checksum_error, ..body };
            if flags_offset & MF != 0 {
                packet.payload.truncate(packet.payload.len() / 8 * 8);
            }
            packet
        },
    )
}

/// Those packets over IPv4, and their payloads over IPv6 behind extension headers.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![
        (select(vec![0, 43, 60]), 0usize..3, any::<u8>())
            .prop_map(|(kind, len, byte)| (kind, [vec![0, len as u8], vec![byte; 6 + len * 8]].concat())),
        (any::<bool>(), any::<u8>())
            .prop_map(|(later, id)| (44, vec![0, 0, 0, u8::from(later) * 8, 0, 0, 0, id])),
    ];
    prop_oneof![
        packets().prop_map(|packet| packet.frame()),
        (packets(), vec(extension, 0..4)).prop_map(|(packet, extensions)| {
            let known = [6, 17].contains(&packet.protocol);
            let packet = if known { packet } else { Packet::udp(packet.payload.len()) };
            Packet6 { extensions, ..Packet6::carrying(packet) }.frame()
        }),
    ]
}

/// An option list, walked here on its own: (kind, whole option) up to its end, and whether it is sound.
fn walk(mut list: &[u8]) -> (Vec<(u8, Vec<u8>)>, bool) {
    let mut options = vec![];
    while let [kind, rest @ ..] = list {
        match kind {
            0 => break,
            1 => list = rest,
            _ => {
                let len = rest.first().map_or(0, |len| usize::from(*len));
                let Some(option) = list.get(..len).filter(|_| len >= 2) else { return (options, false) };
                options.push((*kind, option.to_vec()));
                list = &list[len..];
            }
        }
    }
    (options, true)
}

/// The MSS options of a TCP header.
fn mss_options(payload: &[u8]) -> Vec<u16> {
    let end = usize::from(payload[12] >> 4) * 4;
    let (options, _) = walk(&payload[20..end]);
    options
        .into_iter()
        .filter(|(kind, option)| *kind == 2 && option.len() == 4)
        .map(|(_, option)| u16::from_be_bytes([option[2], option[3]]))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Any bytes at all, and well-formed frames with a few bytes changed or cut off.
    #[test]
    fn the_laws_hold(
        frame in prop_oneof![
            1 => vec(any::<u8>(), 0..200),
            4 => frames(),
            2 => (frames(), vec((0usize..120, any::<u8>()), 0..4), 0usize..4000).prop_map(
                |(mut frame, changes, cut)| {
                    for (at, byte) in changes {
                        let at = at % frame.len();
                        frame[at] = byte;
                    }
                    frame.truncate(cut.max(1));
                    frame
                },
            ),
        ],
        mtu in prop_oneof![1 => any::<u16>(), 3 => 68u16..2000],
        mss4: Option<u16>, mss6: Option<u16>, df in policies(), resegment: bool,
    ) {
        let tcp = if resegment { Tcp::Resegment } else { Tcp::Fragment };
        laws::transform(&Policy { df, tcp, rule: Rule::new(mtu, mss4, mss6) }, &frame);
    }

    #[test]
    fn the_law_of_option_lists_holds(list in prop_oneof![vec(any::<u8>(), 0..48), tcp_options(), option_lists()]) {
        laws::options(&list);
    }

    /// Whether a segment is cut, and if not, why: as the headers say.
    #[test]
    fn what_is_resegmented_and_what_is_kept(
        flags: u8, options in tcp_options(), data in vec(any::<u8>(), 0..3000), damaged: bool, v6: bool,
        mtu in prop_oneof![68u16..200, 200u16..3000],
    ) {
        let mut packet = Packet::tcp(flags, &options, &data);
        let (listed, sound) = walk(&options);
        let mut six = Packet6::carrying(packet.clone());
        for payload in [&mut packet.payload, &mut six.payload] {
            payload[7] ^= u8::from(damaged);
        }
        let (frame, header_len) = if v6 { (six.frame(), 40) } else { (packet.frame(), 20) };
        let (outcome, _) = Policy::resegment(mtu).apply(&frame);
        let headers = header_len + 20 + options.len();
        let other = if v6 { Verdict::Pass(Reason::Ipv6TooBig) } else { Verdict::Forward(Reason::Fragmented) };
        let kept = |reason| if v6 { Verdict::Pass(reason) } else { Verdict::Forward(reason) };
        let signed = listed.iter().any(|(kind, _)| [19, 29].contains(kind));
        let expected = if headers + data.len() <= usize::from(mtu) {
            Verdict::Forward(Reason::Fits)
        } else if !(sound || signed) || headers >= usize::from(mtu) {
            other
        } else if flags & 0x26 != 0 {
            kept(Reason::KeptFlags)
        } else if signed {
            kept(Reason::KeptSigned)
        } else if damaged {
            kept(Reason::KeptChecksum)
        } else {
            Verdict::Forward(Reason::Resegmented)
        };
        prop_assert_eq!(outcome.verdict, expected);
    }

    #[test]
    fn what_is_forwarded_arrives_as_it_was_sent(
        packet in packets(), mtu in prop_oneof![68u16..1600, 1400u16..9000], mss4: Option<u16>, df in policies(),
    ) {
        let frame = packet.frame();
        let total = packet.header_len() + packet.payload.len();
        let oversize = total > usize::from(mtu);
        let had_df = packet.flags_offset & DF != 0;
        let whole = packet.flags_offset & (MF | 0x1fff) == 0;
        let start = usize::from(packet.flags_offset & 0x1fff) * 8;
        let (outcome, frames) = apply(df, mtu, mss4, &frame);
        if oversize && had_df && df == Df::Keep {
            prop_assert_eq!(outcome.verdict, Verdict::Pass(Reason::DfKept));
            return Ok(());
        }
        let (options, sound) = walk(&packet.options);
        if oversize && (!sound || start + total > 65_535) {
            prop_assert_eq!(outcome.verdict, Verdict::Pass(Reason::Malformed));
            return Ok(());
        }
        let reason = if oversize { Reason::Fragmented } else { Reason::Fits };
        prop_assert_eq!(outcome.verdict, Verdict::Forward(reason));

        let link_len = packet.link_len();
        let padding = if oversize { 0 } else { packet.padding };
        for out in &frames {
            prop_assert_eq!(&out[..link_len], &frame[..link_len], "Ethernet header and tags");
        }
        prop_assert_eq!(&frames[0][frames[0].len() - padding..], &frame[frame.len() - padding..]);
        let parts: Vec<_> =
            frames.iter().map(|out| Fragment::of(&out[..out.len() - padding], link_len)).collect();

        let cleared = had_df && (oversize || df == Df::Clear);
        prop_assert_eq!(outcome.edits.contains(Edit::Df), cleared);
        let covered = packet.protocol == AH;
        prop_assert_eq!(outcome.edits.contains(Edit::Id), oversize && had_df && whole && !covered);
        for (at, part) in parts.iter().enumerate() {
            let right = packet.checksum_error == 0;
            prop_assert_eq!(part.header_sum == 0xffff, right, "a wrong header checksum stays wrong");
            prop_assert_eq!(part.flags_offset & DF != 0, had_df && !cleared);
            prop_assert!(part.payload.len().is_multiple_of(8) || at == parts.len() - 1);
            prop_assert!(20 + part.options.len() + part.payload.len() <= usize::from(mtu));
            prop_assert_eq!(part.id, parts[0].id);
            if !outcome.edits.contains(Edit::Id) {
                prop_assert_eq!(part.id, packet.id);
            }
            if at > 0 {
                let copied: Vec<_> = options.iter().filter(|(kind, _)| kind & 0x80 != 0).cloned().collect();
                prop_assert_eq!(walk(&part.options), (copied, true));
            }
        }
        prop_assert_eq!(&parts[0].options, &packet.options);

        let (payload, ends) = reassemble(&parts, start);
        prop_assert_eq!(ends, packet.flags_offset & MF == 0);
        prop_assert!(!outcome.edits.contains(Edit::Checksum), "they were all finished");
        if !outcome.edits.contains(Edit::Mss) {
            prop_assert_eq!(&payload, &packet.payload);
        } else {
            let limit = mss4.unwrap();
            let before = mss_options(&packet.payload);
            prop_assert!(packet.protocol == TCP && start == 0 && packet.payload[13] & 2 != 0);
            prop_assert!(before.iter().any(|mss| *mss > limit));
            let (kinds, _) = walk(&packet.payload[20..usize::from(packet.payload[12] >> 4) * 4]);
            prop_assert!(kinds.iter().all(|(kind, option)| *kind != 29 || option.len() < 4), "TCP-AO");
            let lowered: Vec<_> = before.iter().map(|mss| *mss.min(&limit)).collect();
            prop_assert_eq!(mss_options(&payload), lowered);
            if whole {
                prop_assert_eq!(transport_sum(TCP, &payload), 0xffff);
            }
        }
    }

    /// What was forwarded is forwarded unchanged the next time.
    #[test]
    fn a_second_pass_changes_nothing(packet in packets(), mtu in 68u16..1600, mss4: Option<u16>) {
        let (outcome, frames) = apply(Df::Clear, mtu, mss4, &packet.frame());
        prop_assume!(matches!(outcome.verdict, Verdict::Forward(_)));
        for frame in frames {
            let (again, same) = apply(Df::Clear, mtu, mss4, &frame);
            prop_assert_eq!((again.verdict, again.edits), (Verdict::Forward(Reason::Fits), Edits::NONE));
            prop_assert_eq!(same, vec![frame]);
        }
    }

    /// All or nothing, and a retry is as good as the first try: no ID is spent on it.
    #[test]
    fn without_room_nothing_is_pushed(packet in packets(), mtu in 68u16..1600, df in policies()) {
        let frame = packet.frame();
        let rule = Rule::new(mtu, None, None);
        let (outcome, frames) = apply(df, mtu, None, &frame);
        let transform = transform(df);
        let mut sink = Catch::new(frames.len() - 1, 0);
        let refused = transform.apply(&frame, rule, &mut sink);
        prop_assert_eq!(refused.verdict, Verdict::Drop(Reason::HandbackFull));
        prop_assert_eq!((refused.edits, refused.frames, sink.frames.len()), (Edits::NONE, 0, 0));
        let mut sink = Catch::new(frames.len(), 0);
        prop_assert_eq!(transform.apply(&frame, rule, &mut sink), outcome);
        prop_assert_eq!(sink.frames, frames);
    }

    /// etherparse understands every output of a sound UDP datagram, tags and all.
    #[test]
    fn etherparse_reads_every_output(len in 0usize..4000, tags in 0usize..=2, mtu in 68u16..1600) {
        let packet = Packet { tpids: vec![0x8100; tags], ..Packet::udp(len) };
        let (_, frames) = apply(Df::Clear, mtu, None, &packet.frame());
        for frame in &frames {
            let parsed = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
            prop_assert_eq!(parsed.is_ip_payload_fragmented(), frames.len() > 1);
            prop_assert_eq!(parsed.link_exts.len(), tags);
        }
    }
}

/// What the transform leaves to the kernel, and in which order it asks.
#[test]
fn passes() {
    let frame = Packet::udp(1472).frame();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = frame.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    for (what, frame, reason) in [
        ("nothing", vec![], Reason::Malformed),
        ("half a MAC header", frame[..13].to_vec(), Reason::Malformed),
        ("ARP", with(12, &[8, 6]), Reason::NotIp),
        ("IPv6 that is not", with(12, &[0x86, 0xdd]), Reason::Malformed),
        ("ARP by broadcast", with(0, &[0xff; 6]).into_iter().take(12).chain([8, 6]).collect(), Reason::NotIp),
        ("three tags", Packet { tpids: vec![0x8100; 3], ..Packet::udp(9) }.frame(), Reason::NotIp),
        ("broadcast MAC", with(0, &[0xff; 6]), Reason::Group),
        ("multicast MAC", with(0, &[0x01, 0, 0x5e]), Reason::Group),
        ("multicast MAC, no IPv4 header", with(0, &[1])[..20].to_vec(), Reason::Group),
        ("multicast address", with(30, &[224, 0, 0, 5]), Reason::Group),
        ("broadcast address", with(30, &[255; 4]), Reason::Group),
        ("version 5", with(14, &[0x55]), Reason::Malformed),
        ("IHL 4", with(14, &[0x44]), Reason::Malformed),
        ("total length 0 (GSO over 64 KB)", with(16, &[0, 0]), Reason::Malformed),
        ("cut short", frame[..frame.len() - 1].to_vec(), Reason::Malformed),
        ("oversize, options malformed", with(14, &[0x46]), Reason::Malformed),
        (
            "oversize, not the last and no multiple of 8",
            { Packet { flags_offset: MF, ..Packet::new(17, vec![0; 1479]) }.frame() },
            Reason::Malformed,
        ),
    ] {
        let (outcome, frames) = apply(Df::Clear, 1422, Some(1382), &frame);
        assert_eq!((outcome.verdict, outcome.edits), (Verdict::Pass(reason), Edits::NONE), "{what}");
        assert_eq!(frames, [frame], "{what}");
    }
}
