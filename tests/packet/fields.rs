//! Each header field on each way: the table of docs/packet-treatment.md is what is tested here, cell by cell.

use std::collections::BTreeSet;

use xdpfrag::packet::{
    Datagram, Df, Gathered, Reason, Rule, Segment, Sink, Tcp, Transform, Verdict, Way, Ways,
};

use crate::field_rows::{Part, Row, rows};
use crate::laws::Seen;
use crate::support::{Catch, Fragment, Packet, Policy, TCP, UDP, ones_sum, reassemble, transform};

const DOCS: &str = include_str!("../../docs/packet-treatment.md");
const HEADING: &str = "| field | edited | whole | fragments | resegmented | GSO, TCP | GSO, UDP | passed |";
/// What every sample is longer than.
const MTU: u16 = 600;
/// What every MSS of a sample is above.
const MSS: u16 = 536;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Edited,
    Whole,
    Fragments,
    Resegmented,
    GsoTcp,
    GsoUdp,
    Passed,
}

const COLUMNS: [Column; 7] = [
    Column::Edited,
    Column::Whole,
    Column::Fragments,
    Column::Resegmented,
    Column::GsoTcp,
    Column::GsoUdp,
    Column::Passed,
];

impl Column {
    /// True if one packet comes out, however long.
    fn one_packet(self) -> bool {
        matches!(self, Column::Edited | Column::Whole | Column::Passed)
    }

    /// True if fragments come out.
    fn fragments(self) -> bool {
        matches!(self, Column::Fragments | Column::GsoUdp)
    }
}

/// A sink that takes one segment or datagram whole, for the kernel to cut.
#[derive(Debug, Default)]
struct Whole {
    frames: Catch,
    pieces: Vec<Vec<u8>>,
}

impl Sink for Whole {
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        self.frames.reserve(frames, len)
    }

    fn push(&mut self, len: usize) -> &mut [u8] {
        self.frames.push(len)
    }

    fn gather(&mut self, segment: &Segment<'_>) -> Gathered {
        self.pieces = segmented_by_the_kernel(segment);
        Gathered::Taken
    }

    fn takes_datagrams(&self) -> bool {
        true
    }

    fn datagram(&mut self, datagram: &Datagram<'_>) -> Gathered {
        self.pieces = fragmented_by_the_kernel(datagram);
        Gathered::Taken
    }
}

/// What `udp4_ufo_fragment()` and `inet_gso_segment()` make of a datagram as `handback/gather.rs` writes it; nothing of one
/// that `ip_rcv()` drops because the checksum of its header is wrong.
fn fragmented_by_the_kernel(datagram: &Datagram<'_>) -> Vec<Vec<u8>> {
    let Datagram { frame, ip_at, id, share, .. } = *datagram;
    let at = ip_at + 20;
    if ones_sum(&frame[ip_at..at]) != 0xffff {
        return vec![];
    }
    let mut whole = frame.to_vec();
    whole[at + 6..at + 8].fill(0);
    let sum = match !Seen::of(&whole).transport_sum() {
        0 => 0xffff,
        sum => sum,
    };
    whole[at + 6..at + 8].copy_from_slice(&u16::to_be_bytes(sum));
    let (headers, data) = whole.split_at(at);
    let count = data.len().div_ceil(share);
    let piece = |(number, data): (usize, &[u8])| {
        let mut out = [headers, data].concat();
        let more = u16::from(number + 1 < count) << 13;
        let words =
            [(2, (20 + data.len()) as u16), (4, id), (6, more | (number * share / 8) as u16), (10, 0)];
        for (at, word) in words {
            out[ip_at + at..ip_at + at + 2].copy_from_slice(&word.to_be_bytes());
        }
        let sum = !ones_sum(&out[ip_at..at]);
        out[ip_at + 10..ip_at + 12].copy_from_slice(&sum.to_be_bytes());
        out
    };
    data.chunks(share).enumerate().map(piece).collect()
}

/// What `tcp_gso_segment()` and `inet_gso_segment()` or `ipv6_gso_segment()` make of it.
fn segmented_by_the_kernel(segment: &Segment<'_>) -> Vec<Vec<u8>> {
    let Segment { headers, ip_at, tcp_at, data, share } = *segment;
    let word = |at: usize| u32::from_be_bytes(headers[at..at + 4].try_into().unwrap());
    let count = data.len().div_ceil(share);
    let piece = |(number, data): (usize, &[u8])| {
        let mut out = [headers, data].concat();
        let sequence = word(tcp_at + 4).wrapping_add((number * share) as u32);
        out[tcp_at + 4..tcp_at + 8].copy_from_slice(&sequence.to_be_bytes());
        if number + 1 < count {
            out[tcp_at + 13] &= !(PSH | FIN);
        }
        if number > 0 {
            out[tcp_at + 13] &= !CWR;
        }
        let v4 = out[ip_at] >> 4 == 4;
        let (len_at, from) = if v4 { (ip_at + 2, ip_at) } else { (ip_at + 4, ip_at + 40) };
        let len = (out.len() - from) as u16;
        out[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
        if v4 {
            let id = (word(ip_at + 4) >> 16) as u16 + number as u16;
            out[ip_at + 4..ip_at + 6].copy_from_slice(&id.to_be_bytes());
            out[ip_at + 10..ip_at + 12].fill(0);
            let sum = !ones_sum(&out[ip_at..tcp_at]);
            out[ip_at + 10..ip_at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        out[tcp_at + 16..tcp_at + 18].fill(0);
        let sum = !Seen::of(&out).transport_sum();
        out[tcp_at + 16..tcp_at + 18].copy_from_slice(&sum.to_be_bytes());
        out
    };
    data.chunks(share).enumerate().map(piece).collect()
}

/// What comes out if `frame` goes this way; `None` if it does not.
fn go(column: Column, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let rule = Rule::new(MTU, Some(MSS), Some(MSS));
    let policy = Policy { df: Df::Clear, tcp: Tcp::Fragment, rule };
    let resegment = Policy { tcp: Tcp::Resegment, ..policy };
    let (outcome, frames) = match column {
        Column::Edited => Policy { rule: Rule { mtu: 9000, ..rule }, ..policy }.apply(frame),
        Column::Whole => Policy { rule: Rule { ways: Ways::EDIT, ..rule }, ..policy }.apply(frame),
        Column::Fragments => policy.apply(frame),
        Column::Resegmented => resegment.apply(frame),
        Column::GsoTcp | Column::GsoUdp => {
            let mut sink = Whole { frames: Catch::new(usize::MAX, 0), pieces: vec![] };
            let rule = Rule { ways: Ways { udp: Way::Gso, other: Way::Fragments }, ..rule };
            let outcome =
                Transform { tcp: Tcp::Resegment, ..transform(Df::Clear) }.apply(frame, rule, &mut sink);
            if sink.pieces.is_empty() {
                return None;
            }
            (outcome, sink.pieces)
        }
        // To a group: one of the reasons why a frame is not xdpfrag's.
        Column::Passed => {
            let mut group = frame.to_vec();
            group[0] |= 1;
            let (outcome, mut frames) = policy.apply(&group);
            frames[0][0] = frame[0];
            (outcome, frames)
        }
    };
    let expected = match column {
        Column::Edited => Verdict::Forward(Reason::Fits),
        Column::Whole => Verdict::Forward(Reason::Edited),
        Column::Fragments => Verdict::Forward(Reason::Fragmented),
        Column::Resegmented | Column::GsoTcp => Verdict::Forward(Reason::Resegmented),
        Column::GsoUdp => Verdict::Forward(Reason::HandedWhole),
        Column::Passed => Verdict::Pass(Reason::Group),
    };
    (outcome.verdict == expected).then_some(frames)
}

/// The same frame with UDP after its IPv4 header, where that was TCP.
fn with_udp(frame: Vec<u8>) -> Vec<u8> {
    let seen = Seen::of(&frame);
    if !seen.ipv4 || seen.fragment || seen.protocol != TCP {
        return frame;
    }
    let (at, padding) = (seen.link.len(), frame.len() - seen.link.len() - seen.packet.len());
    let mut udp = Packet::udp(seen.payload.len() - 8);
    (udp.options, udp.padding) = (seen.header[20..].to_vec(), padding);
    let (before, mut after) = (frame.clone(), [seen.link, &udp.frame()[14..]].concat());
    // All that the row may look at, and a checksum that is wrong by as much.
    let error = ones_sum(seen.header);
    after[at + 1..at + 9].copy_from_slice(&before[at + 1..at + 9]);
    after[at + 10..at + 12].fill(0);
    let header = at + seen.header.len();
    let sum = !ones_sum(&[&after[at..header], &(!error).to_be_bytes()].concat());
    after[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    after
}

/// The datagram that a receiver puts together; of whole packets the payload of each.
fn payloads(column: Column, frame: &[u8], outs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let seen: Vec<Seen<'_>> = outs.iter().map(|out| Seen::of(out)).collect();
    if !column.fragments() {
        return seen.iter().map(|seen| seen.payload.to_vec()).collect();
    }
    let parts: Vec<Fragment> = seen.iter().map(|seen| Fragment::new(seen.header, seen.payload)).collect();
    let before = Seen::of(frame);
    let start = usize::from(u16::from_be_bytes([before.header[6], before.header[7]]) & 0x1fff) * 8;
    let (payload, ends) = reassemble(&parts, start);
    assert_eq!(ends, before.header[6] & 0x20 == 0);
    vec![payload]
}

/// What holds besides the row's own field: lengths, sums that were right, and the data.
fn sound(column: Column, frame: &[u8], outs: &[Vec<u8>], payloads: &[Vec<u8>], name: &str) {
    let before = Seen::of(frame);
    for out in outs {
        let seen = Seen::of(out);
        if !column.one_packet() {
            assert_eq!(seen.link.len() + seen.packet.len(), out.len(), "{name}, {column:?}: length");
            assert!(seen.packet.len() <= usize::from(MTU), "{name}, {column:?}: {} bytes", seen.packet.len());
        }
        if before.ipv4 && ones_sum(before.header) == 0xffff {
            assert_eq!(ones_sum(seen.header), 0xffff, "{name}, {column:?}: IPv4 header checksum");
        }
    }
    if before.fragment || ![TCP, UDP].contains(&before.protocol) {
        return assert_eq!(payloads.concat(), before.payload, "{name}, {column:?}: payload");
    }
    let header_len =
        |payload: &[u8]| if before.protocol == TCP { usize::from(payload[12] >> 4) * 4 } else { 8 };
    let right = before.transport_sum() == 0xffff;
    let mut data: Vec<u8> = vec![];
    for payload in payloads {
        let seen = Seen { payload, ..before.clone() };
        assert!(!right || seen.transport_sum() == 0xffff, "{name}, {column:?}: transport checksum");
        data.extend(&payload[header_len(payload)..]);
    }
    assert_eq!(data, before.payload[header_len(before.payload)..], "{name}, {column:?}: data");
}

/// True if the values of a field are what the cell says of them.
fn is(cell: &str, before: &[u8], after: &[Vec<u8>], finished: bool) -> bool {
    let blank = |value: &[u8]| value.iter().all(|byte| *byte == 0);
    let number = |value: &[u8]| u16::from_be_bytes(value.try_into().expect("two bytes"));
    let only = |place: usize| {
        after.len() > 1
            && !blank(before)
            && after
                .iter()
                .enumerate()
                .all(|(n, value)| if n == place { value == before } else { blank(value) })
    };
    match cell {
        "kept" => after.iter().all(|value| value == before),
        "own" => after.iter().any(|value| value != before),
        "first" => only(0),
        "last" => only(after.len() - 1),
        "cleared" => !blank(before) && after.iter().all(|value| blank(value)),
        "fresh" => after[0] != before && after.iter().all(|value| *value == after[0]),
        "counts on" => {
            let expected = |n: usize| number(before).wrapping_add(n as u16);
            after.len() > 1 && after.iter().enumerate().all(|(n, value)| number(value) == expected(n))
        }
        "lowered" => number(before) > MSS && after.iter().all(|value| number(value) == MSS),
        "finished" => finished && after.iter().all(|value| value != before),
        other => panic!("{other:?} is no word of the table"),
    }
}

fn check(row: &Row, column: Column, cell: &str) {
    let name = row.name;
    let frame = match (column, row.part) {
        // A field of every packet is looked at in one that can go this way.
        (Column::GsoUdp, Part::Frame | Part::Ip) => with_udp((row.sample)()),
        _ => (row.sample)(),
    };
    let Some(outs) = go(column, &frame) else {
        return assert_eq!(cell, "—", "{name}: such packets do not go the way {column:?}");
    };
    assert_ne!(cell, "—", "{name}: such packets do go the way {column:?}");
    assert!(outs.len() > 1 || column.one_packet(), "{name}, {column:?}: cut");
    let payloads = payloads(column, &frame, &outs);
    sound(column, &frame, &outs, &payloads, name);
    let before = Seen::of(&frame);
    let (value, values): (Vec<u8>, Vec<Vec<u8>>) = match row.part {
        Part::Frame => ((row.field)(&frame), outs.iter().map(|out| (row.field)(out)).collect()),
        Part::Ip => {
            let of = |out: &Vec<u8>| (row.field)(Seen::of(out).header);
            ((row.field)(before.header), outs.iter().map(of).collect())
        }
        Part::Transport => {
            let of = |payload: &Vec<u8>| (row.field)(payload);
            ((row.field)(before.payload), payloads.iter().map(of).collect())
        }
    };
    assert!(!value.is_empty(), "{name}: the sample has no such field");
    let finished = before.transport_sum() != 0xffff
        && payloads.iter().all(|payload| Seen { payload, ..before.clone() }.transport_sum() == 0xffff);
    assert!(
        is(cell, &value, &values, finished),
        "{name}, {column:?}: not {cell}: {value:x?} became {values:x?}"
    );
}

/// The rows of the table: the name of the field, and a cell per way.
fn table() -> Vec<(&'static str, Vec<&'static str>)> {
    let (_, table) = DOCS.split_once(HEADING).expect("the table in docs/packet-treatment.md");
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim);
    lines.map(|line| (cells(line).next().unwrap(), cells(line).skip(1).collect())).collect()
}

#[test]
fn every_field_is_in_the_table_and_every_row_of_the_table_is_tested() {
    let (rows, table) = (rows(), table());
    let tested: BTreeSet<_> = rows.iter().map(|row| row.name).collect();
    let documented: BTreeSet<_> = table.iter().map(|(name, _)| *name).collect();
    assert_eq!((tested.len(), documented.len()), (rows.len(), table.len()), "a name twice");
    assert_eq!(tested, documented);
}

#[test]
fn every_way_does_to_every_field_what_the_table_says() {
    let rows = rows();
    for (name, cells) in table() {
        let row = rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("{name} is not tested"));
        assert_eq!(cells.len(), COLUMNS.len(), "{name}");
        for (column, cell) in COLUMNS.into_iter().zip(cells) {
            check(row, column, cell);
        }
    }
}
