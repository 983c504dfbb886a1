//! What holds for every frame and every policy, shared with the fuzz targets. The parsing
//! here is the law's own: naive, and nothing of it from `packet/`.

use xdpfrag::packet::{Df, Edit, Edits, Outcome, Reason, Rule, Tcp, Verdict, mss, options};

use crate::support::{Fragment, Policy, ones_sum, reassemble};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const AE: u8 = 0x01;
const NOT_TO_CUT: u8 = 0x02 | 0x04 | 0x20;

/// The walk visits what a plain reading of RFC 791 visits, ends where it ends, and stays in the list.
pub(crate) fn options(list: &[u8]) {
    let (mut at, mut sound, mut kinds) = (0, true, vec![]);
    while sound && at < list.len() && list[at] != 0 {
        let len = match list[at] {
            1 => 1,
            kind => {
                let len = list.get(at + 1).map_or(0, |len| usize::from(*len));
                sound = len >= 2 && at + len <= list.len();
                if sound {
                    let expected = options::Step::Option(kind, at..at + len);
                    assert_eq!(options::next(list, at), expected);
                    kinds.push(kind);
                }
                len
            }
        };
        at += len;
    }
    assert_eq!(options::sound(list), sound);
    for kind in [2, 5, 8, 19, 29] {
        let found = if kinds.contains(&kind) { Some(true) } else { sound.then_some(false) };
        assert_eq!(options::find(list, &[kind]), found);
    }
    // From anywhere, not only from the start of an option.
    for at in 0..=list.len() + 1 {
        if let options::Step::Option(_, place) = options::next(list, at) {
            assert!(place.start >= at && place.end <= list.len() && place.len() >= 2);
        }
    }
    let mut segment =
        [&[0; 12][..], &[(5 + list.len().min(40) as u8 / 4) << 4, 2, 0, 0, 0, 0, 0, 0]].concat();
    segment.extend(list);
    let before = segment.clone();
    let lowered = mss::clamp(&mut segment, 1382);
    assert_eq!(lowered, segment != before);
    let options = walk(&before[20..]);
    let above =
        |(kind, value): &(u8, &[u8])| *kind == 2 && value.len() == 2 && *value > &1382u16.to_be_bytes()[..];
    assert_eq!(lowered, options.iter().any(above) && !covered(&options));
    assert!(!mss::clamp(&mut segment, 1382), "once is enough");
}

/// The options of a list, kind and data, up to its end or to where it is malformed.
fn walk(mut list: &[u8]) -> Vec<(u8, &[u8])> {
    let mut options = vec![];
    while let [kind, rest @ ..] = list {
        match (kind, rest) {
            (0, _) => break,
            (1, _) => list = rest,
            (kind, [len, ..]) if *len >= 2 && usize::from(*len) <= list.len() => {
                let (option, behind) = list.split_at(usize::from(*len));
                options.push((*kind, &option[2..]));
                list = behind;
            }
            _ => break,
        }
    }
    options
}

/// True if TCP-AO is among `options`: its code covers them.
fn covered(options: &[(u8, &[u8])]) -> bool {
    options.iter().any(|(kind, data)| *kind == 29 && data.len() >= 2)
}

/// True if a TCP header shows Accurate ECN, in which CWR is part of a counter.
fn accurate_ecn(header: &[u8]) -> bool {
    header[12] & AE != 0 || walk(&header[20..]).iter().any(|(kind, _)| [172, 174].contains(kind))
}

/// A packet, taken apart without any check but that nothing is read beyond the frame.
#[derive(Debug, Clone)]
pub(crate) struct Seen<'a> {
    pub(crate) link: &'a [u8],
    pub(crate) ipv4: bool,
    /// By its own length, without padding.
    pub(crate) packet: &'a [u8],
    /// IP header with options or extension headers.
    pub(crate) header: &'a [u8],
    /// Behind it.
    pub(crate) payload: &'a [u8],
    pub(crate) protocol: u8,
    /// True if there is more to the datagram.
    pub(crate) fragment: bool,
}

impl<'a> Seen<'a> {
    pub(crate) fn of(frame: &'a [u8]) -> Self {
        let mut at = 12;
        while [[0x81, 0], [0x88, 0xa8], [0x91, 0]].contains(&[frame[at], frame[at + 1]]) && at < 20 {
            at += 4;
        }
        let (link, rest) = frame.split_at(at + 2);
        let word = |at: usize| usize::from(u16::from_be_bytes([rest[at], rest[at + 1]]));
        let ipv4 = frame[at..at + 2] == [8, 0];
        let (packet, header_len, protocol, fragment) = if ipv4 {
            (&rest[..word(2)], usize::from(rest[0] & 15) * 4, rest[9], word(6) & 0x3fff != 0)
        } else {
            let (mut next, mut len, mut fragment) = (rest[6], 40, false);
            while let (0 | 43 | 44 | 60, true) = (next, len + 8 <= rest.len()) {
                fragment |= next == 44;
                let following = rest[len];
                len += if next == 44 { 8 } else { usize::from(rest[len + 1]) * 8 + 8 };
                next = following;
            }
            (&rest[..40 + word(4)], len, next, fragment)
        };
        let (header, payload) = packet.split_at(header_len.min(packet.len()));
        Seen { link, ipv4, packet, header, payload, protocol, fragment }
    }

    /// Sum of pseudo-header and payload: 0xffff if the transport checksum is right.
    pub(crate) fn transport_sum(&self) -> u16 {
        let addresses = if self.ipv4 { &self.packet[12..20] } else { &self.packet[8..40] };
        let mut covered = addresses.to_vec();
        covered.extend((self.payload.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, self.protocol]);
        covered.extend(self.payload);
        ones_sum(&covered)
    }
}

/// [`transform`] of what a fuzzer makes up: a byte for `--df` and `--tcp`, the MTU, the MSS for
/// IPv4 and for IPv6 (0 for none), and the frame.
pub(crate) fn transform_bytes(input: &[u8]) {
    let [flags, mtu0, mtu1, mss40, mss41, mss60, mss61, frame @ ..] = input else { return };
    let mss = |bytes| Some(u16::from_be_bytes(bytes)).filter(|mss| *mss != 0);
    let policy = Policy {
        df: [Df::Clear, Df::Oversize, Df::Keep][usize::from(flags / 2 % 3)],
        tcp: [Tcp::Fragment, Tcp::Resegment][usize::from(flags % 2)],
        rule: Rule::new(u16::from_be_bytes([*mtu0, *mtu1]), mss([*mss40, *mss41]), mss([*mss60, *mss61])),
    };
    transform(&policy, frame);
}

/// No panic, nothing longer than the MTU, nothing lost, nothing added, no checksum repaired.
pub(crate) fn transform(policy: &Policy, frame: &[u8]) {
    let (outcome, frames) = policy.apply(frame);
    match outcome.verdict {
        Verdict::Pass(_) => {
            assert_eq!((outcome.edits, frames.as_slice()), (Edits::NONE, &[frame.to_vec()][..]))
        }
        Verdict::Forward(Reason::Fits) => fits(policy, outcome, frame, &frames[0]),
        Verdict::Forward(Reason::Resegmented) => resegmented(policy, outcome, frame, &frames),
        Verdict::Forward(
            Reason::Fragmented | Reason::KeptFlags | Reason::KeptSigned | Reason::KeptChecksum,
        ) => fragmented(policy, outcome, frame, &frames),
        other => panic!("{other:?}"),
    }
}

fn fits(policy: &Policy, outcome: Outcome, frame: &[u8], out: &[u8]) {
    let (before, after) = (Seen::of(frame), Seen::of(out));
    assert!(before.packet.len() <= policy.mtu());
    let (mut restored, at) = (out.to_vec(), before.link.len());
    if outcome.edits.contains(Edit::Df) {
        assert!(policy.df == Df::Clear && before.ipv4 && before.packet[6] & 0x40 != 0);
        assert_eq!(ones_sum(after.header), ones_sum(before.header), "the error of the header checksum");
        restored[at + 6] |= 0x40;
        restored[at + 10..at + 12].copy_from_slice(&before.packet[10..12]);
    }
    let transport = at + before.header.len();
    if outcome.edits.contains(Edit::Checksum) || outcome.edits.contains(Edit::Mss) {
        let place = transport + if before.protocol == 6 { 16 } else { 6 };
        restored[place..place + 2].copy_from_slice(&frame[place..place + 2]);
    }
    if outcome.edits.contains(Edit::Checksum) {
        assert_eq!(after.transport_sum(), 0xffff, "finished");
    } else if !before.fragment {
        assert_eq!(after.transport_sum(), before.transport_sum(), "the error of the checksum");
    }
    if outcome.edits.contains(Edit::Mss) {
        assert!(before.payload[13] & 2 != 0, "of a SYN");
        unclamp(policy, &before, &after, &mut restored[transport..]);
    }
    assert_eq!(restored, frame, "nothing else was changed");
    if after.fragment || after.transport_sum() == 0xffff {
        let (again, same) = policy.apply(out);
        assert_eq!((again.verdict, again.edits), (Verdict::Forward(Reason::Fits), Edits::NONE));
        assert_eq!(same, [out]);
    }
}

/// Puts the MSS options of `before` back; each was lowered to the limit, or left.
fn unclamp(policy: &Policy, before: &Seen<'_>, after: &Seen<'_>, restored: &mut [u8]) {
    let limit = if before.ipv4 { policy.rule.mss4 } else { policy.rule.mss6 }.unwrap();
    let end = usize::from(before.payload[12] >> 4) * 4;
    assert!(!covered(&walk(&before.payload[20..end])));
    let mut at = 20;
    while at + 1 < end && before.payload[at] != 0 {
        let (kind, len) = (before.payload[at], usize::from(before.payload[at + 1]));
        if kind == 1 {
            at += 1;
            continue;
        }
        if len < 2 || at + len > end {
            break;
        }
        if (kind, len) == (2, 4) {
            let value = |seen: &Seen<'_>| u16::from_be_bytes([seen.payload[at + 2], seen.payload[at + 3]]);
            assert_eq!(value(after), value(before).min(limit));
            restored[at..at + 4].copy_from_slice(&before.payload[at..at + 4]);
        }
        at += len;
    }
}

fn fragmented(policy: &Policy, outcome: Outcome, frame: &[u8], frames: &[Vec<u8>]) {
    let before = Seen::of(frame);
    assert!(before.ipv4 && before.packet.len() > policy.mtu() && frames.len() > 1);
    let fresh = before.packet[6] & 0x40 != 0 && !before.fragment && before.protocol != 51;
    assert_eq!(outcome.edits.contains(Edit::Id), fresh);
    assert!(policy.df != Df::Keep || before.packet[6] & 0x40 == 0);
    let parts: Vec<_> = frames
        .iter()
        .map(|out| {
            let seen = Seen::of(out);
            assert_eq!((seen.link, seen.link.len() + seen.packet.len()), (before.link, out.len()));
            assert!(seen.packet.len() <= policy.mtu() && seen.packet[6] & 0x40 == 0);
            assert_eq!((seen.packet[1], &seen.packet[8..10]), (before.packet[1], &before.packet[8..10]));
            assert_eq!(seen.packet[12..20], before.packet[12..20]);
            assert!(fresh || seen.packet[4..6] == before.packet[4..6], "identification");
            // 0 and 0xffff are the two zeros of the sum.
            let wrong = [ones_sum(seen.header), ones_sum(before.header)].map(|sum| sum % 0xffff);
            assert_eq!(wrong[0], wrong[1], "the error of the header checksum");
            Fragment::new(seen.header, seen.payload)
        })
        .collect();
    assert_eq!(parts[0].options, before.header[20..]);
    let start = usize::from(u16::from_be_bytes([before.packet[6], before.packet[7]]) & 0x1fff) * 8;
    let (mut payload, ends) = reassemble(&parts, start);
    assert_eq!(ends, before.packet[6] & 0x20 == 0);
    if outcome.edits.contains(Edit::Mss) || outcome.edits.contains(Edit::Checksum) {
        let edited = payload.clone();
        let after = Seen { payload: &edited, ..before.clone() };
        if outcome.edits.contains(Edit::Mss) {
            unclamp(policy, &before, &after, &mut payload);
        }
        if outcome.edits.contains(Edit::Checksum) {
            assert_eq!(after.transport_sum(), 0xffff, "finished");
        } else if !before.fragment {
            assert_eq!(after.transport_sum(), before.transport_sum(), "the error of the checksum");
        }
        let at = if before.protocol == 6 { 16 } else { 6 };
        payload[at..at + 2].copy_from_slice(&before.payload[at..at + 2]);
    }
    assert_eq!(payload, before.payload, "nothing else was changed");
}

fn resegmented(policy: &Policy, outcome: Outcome, frame: &[u8], frames: &[Vec<u8>]) {
    let before = Seen::of(frame);
    assert!(policy.tcp == Tcp::Resegment && before.protocol == 6 && !before.fragment);
    assert!(before.packet.len() > policy.mtu() && frames.len() > 1);
    let header = &before.payload[..usize::from(before.payload[12] >> 4) * 4];
    assert_eq!(header[13] & NOT_TO_CUT, 0);
    assert_eq!(before.transport_sum() == 0xffff, !outcome.edits.contains(Edit::Checksum));
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut stream: Vec<u8> = vec![];
    for (number, out) in frames.iter().enumerate() {
        let (seen, last) = (Seen::of(out), number + 1 == frames.len());
        assert_eq!((seen.link, seen.link.len() + seen.packet.len()), (before.link, out.len()));
        if last {
            assert!(seen.packet.len() <= policy.mtu() && seen.payload.len() > header.len());
        } else {
            assert_eq!(seen.packet.len(), policy.mtu(), "as large as fits");
        }
        assert_eq!(seen.transport_sum(), 0xffff, "checksum of segment {number}");

        let mut ip = seen.header.to_vec();
        if before.ipv4 {
            let wrong = [ones_sum(seen.header), ones_sum(before.header)].map(|sum| sum % 0xffff);
            assert_eq!(wrong[0], wrong[1], "the error of the header checksum");
            let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
            assert_eq!(id(seen.packet), id(before.packet).wrapping_add(number as u16));
            ip[2..6].copy_from_slice(&before.packet[2..6]);
            ip[10..12].copy_from_slice(&before.packet[10..12]);
        } else {
            ip[4..6].copy_from_slice(&before.packet[4..6]);
        }
        assert_eq!(ip, before.header, "DF, options and extension headers as they came");

        let (tcp, data) = seen.payload.split_at(header.len());
        let mut expected = header.to_vec();
        let sequence = word(header, 4).wrapping_add(stream.len() as u32);
        expected[4..8].copy_from_slice(&sequence.to_be_bytes());
        expected[13] &= if last { !0 } else { !(PSH | FIN) };
        expected[13] &= if number == 0 || accurate_ecn(header) { !0 } else { !CWR };
        expected[16..18].copy_from_slice(&tcp[16..18]);
        assert_eq!(tcp, expected, "header of segment {number}");
        stream.extend(data);
    }
    assert_eq!(stream, before.payload[header.len()..]);
}
