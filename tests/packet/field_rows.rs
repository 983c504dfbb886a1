//! The rows of the table of header fields: a packet that has the field, and where it stands.

use crate::support::{AH, DF, MF, Packet, Packet6, TCP, UDP, ones_sum, pattern};

/// What [`Row::field`] is given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Frame,
    /// IP header with options or extension headers.
    Ip,
    /// What follows it: of fragments the whole that a receiver puts together.
    Transport,
}

/// One field.
#[derive(Debug)]
pub(crate) struct Row {
    /// As in docs/packet-treatment.md.
    pub(crate) name: &'static str,
    /// A frame of about 1,400 bytes in which the field says something.
    pub(crate) sample: fn() -> Vec<u8>,
    pub(crate) part: Part,
    pub(crate) field: fn(&[u8]) -> Vec<u8>,
}

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// Stream identifier, which every fragment repeats, and record route, which only the first has.
const COPIED: [u8; 4] = [0x88, 4, 0, 9];
const NOT_COPIED: [u8; 4] = [7, 3, 4, 0];
const MD5: [u8; 20] = [19, 18, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1, 1];
const AO: [u8; 16] = [29, 16, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
const OPENS: [u8; 12] = [2, 4, 5, 0xb4, 4, 2, 3, 3, 7, 1, 1, 0];

/// A segment of these flags and options; ID 7, DF.
fn segment(flags: u8, options: &[u8]) -> Packet {
    Packet { id: 7, ..Packet::tcp(flags, options, &pattern(1300)) }
}

fn tcp() -> Vec<u8> {
    segment(ACK, &[]).frame()
}

fn udp() -> Vec<u8> {
    Packet { id: 7, ..Packet::udp(1400) }.frame()
}

/// With other bits in the byte of data offset, reserved bits and AE.
fn marked(flags: u8, bits: u8) -> Vec<u8> {
    let mut packet = segment(flags, &[]);
    packet.payload[12] |= bits;
    packet.finish(16);
    packet.frame()
}

fn fragment(flags_offset: u16) -> Vec<u8> {
    Packet { id: 7, flags_offset, ..Packet::new(UDP, pattern(1400)) }.frame()
}

/// An authentication header in front of TCP, its data up to its code.
fn authenticated() -> Vec<u8> {
    [&[TCP, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 7][..], &[0xaa; 12], &segment(ACK, &[]).payload].concat()
}

fn with_ip_options(options: [u8; 4]) -> Vec<u8> {
    Packet { options: options.to_vec(), ..segment(ACK, &[]) }.frame()
}

fn tcp6() -> Packet6 {
    Packet6::carrying(segment(ACK, &[]))
}

fn extended(kind: u8, header: [u8; 8]) -> Vec<u8> {
    Packet6 { extensions: vec![(kind, header.to_vec())], ..tcp6() }.frame()
}

/// With the sum of the pseudo-header in the checksum field at `at` of the payload.
fn unfinished(mut packet: Packet, at: usize) -> Vec<u8> {
    let len = (packet.payload.len() as u16).to_be_bytes();
    let addresses = [Packet::SOURCE, Packet::DESTINATION].concat();
    let sum = ones_sum(&[&addresses[..], &[0, packet.protocol], &len].concat());
    packet.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    packet.frame()
}

/// The TCP option of this kind, whole; empty if there is none. The list is sound.
fn option(tcp: &[u8], kind: u8) -> Vec<u8> {
    let mut list = &tcp[20..usize::from(tcp[12] >> 4) * 4];
    while let [this, rest @ ..] = list {
        match this {
            0 => break,
            1 => list = rest,
            this if *this == kind => return list[..usize::from(rest[0])].to_vec(),
            _ => list = &list[usize::from(rest[0])..],
        }
    }
    vec![]
}

/// The IPv4 option of this kind.
fn ip_option(ip: &[u8], kind: u8) -> Vec<u8> {
    option(&[&[0; 12][..], &[(ip[0] & 15) << 4], &[0; 7], &ip[20..]].concat(), kind)
}

fn mss(tcp: &[u8]) -> Vec<u8> {
    option(tcp, 2)[2..].to_vec()
}

/// Behind the packet.
fn padding(frame: &[u8]) -> Vec<u8> {
    frame[14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]))..].to_vec()
}

fn row(name: &'static str, sample: fn() -> Vec<u8>, part: Part, field: fn(&[u8]) -> Vec<u8>) -> Row {
    Row { name, sample, part, field }
}

pub(crate) fn rows() -> Vec<Row> {
    [ethernet_and_ipv4(), ipv6(), tcp_header(), tcp_options(), udp_and_ah()].into_iter().flatten().collect()
}

fn ethernet_and_ipv4() -> Vec<Row> {
    use Part::{Frame, Ip};
    vec![
        row(
            "Ethernet addresses and VLAN tags",
            || Packet { tpids: vec![0x88a8, 0x8100], ..segment(ACK, &[]) }.frame(),
            Frame,
            |frame| frame[..22].to_vec(),
        ),
        row("Ethernet padding", || Packet { padding: 6, ..segment(ACK, &[]) }.frame(), Frame, padding),
        row("IPv4 version", tcp, Ip, |ip| vec![ip[0] >> 4]),
        row("IPv4 IHL", || with_ip_options(NOT_COPIED), Ip, |ip| vec![ip[0] & 15]),
        row("IPv4 DSCP and ECN", tcp, Ip, |ip| vec![ip[1]]),
        row("IPv4 total length", tcp, Ip, |ip| ip[2..4].to_vec()),
        row("IPv4 ID, with DF", tcp, Ip, |ip| ip[4..6].to_vec()),
        row(
            "IPv4 ID, without DF",
            || Packet { flags_offset: 0, ..segment(ACK, &[]) }.frame(),
            Ip,
            |ip| ip[4..6].to_vec(),
        ),
        row("IPv4 ID, of a fragment with DF", || fragment(MF | DF | 100), Ip, |ip| ip[4..6].to_vec()),
        row(
            "IPv4 ID, before AH",
            || Packet { id: 7, ..Packet::new(AH, authenticated()) }.frame(),
            Ip,
            |ip| ip[4..6].to_vec(),
        ),
        row(
            "IPv4 reserved bit",
            || Packet { flags_offset: 0x8000 | DF, ..segment(ACK, &[]) }.frame(),
            Ip,
            |ip| vec![ip[6] & 0x80],
        ),
        row("IPv4 DF", tcp, Ip, |ip| vec![ip[6] & 0x40]),
        row("IPv4 MF", tcp, Ip, |ip| vec![ip[6] & 0x20]),
        row("IPv4 MF, of a fragment", || fragment(MF), Ip, |ip| vec![ip[6] & 0x20]),
        row("IPv4 fragment offset", || fragment(DF | 100), Ip, |ip| vec![ip[6] & 0x1f, ip[7]]),
        row("IPv4 TTL", tcp, Ip, |ip| vec![ip[8]]),
        row("IPv4 protocol", tcp, Ip, |ip| vec![ip[9]]),
        row("IPv4 header checksum", tcp, Ip, |ip| ip[10..12].to_vec()),
        row(
            "IPv4 header checksum, error of a wrong one",
            || Packet { checksum_error: 0x111, ..segment(ACK, &[]) }.frame(),
            Ip,
            |ip| ones_sum(ip).to_be_bytes().to_vec(),
        ),
        row("IPv4 addresses", tcp, Ip, |ip| ip[12..20].to_vec()),
        row("IPv4 options, copied", || with_ip_options(COPIED), Ip, |ip| ip_option(ip, COPIED[0])),
        row(
            "IPv4 options, not copied",
            || with_ip_options(NOT_COPIED),
            Ip,
            |ip| ip_option(ip, NOT_COPIED[0]),
        ),
    ]
}

fn ipv6() -> Vec<Row> {
    use Part::{Ip, Transport};
    vec![
        row("IPv6 version", || tcp6().frame(), Ip, |ip| vec![ip[0] >> 4]),
        row("IPv6 traffic class", || tcp6().frame(), Ip, |ip| vec![ip[0] & 15, ip[1] & 0xf0]),
        row("IPv6 flow label", || tcp6().frame(), Ip, |ip| vec![ip[1] & 15, ip[2], ip[3]]),
        row("IPv6 payload length", || tcp6().frame(), Ip, |ip| ip[4..6].to_vec()),
        row("IPv6 next header", || tcp6().frame(), Ip, |ip| vec![ip[6]]),
        row("IPv6 hop limit", || tcp6().frame(), Ip, |ip| vec![ip[7]]),
        row("IPv6 addresses", || tcp6().frame(), Ip, |ip| ip[8..40].to_vec()),
        row("IPv6 hop-by-hop options", || extended(0, [0, 0, 5, 2, 0, 0, 1, 0]), Ip, |ip| ip[40..].to_vec()),
        row(
            "IPv6 destination options",
            || extended(60, [0, 0, 1, 4, 0, 0, 0, 0]),
            Ip,
            |ip| ip[40..].to_vec(),
        ),
        row("IPv6 routing header", || extended(43, [0, 0, 4, 0, 0, 0, 0, 0]), Ip, |ip| ip[40..].to_vec()),
        row("IPv6 fragment header", || extended(44, [0, 0, 0, 1, 0, 0, 0, 9]), Ip, |ip| ip[40..].to_vec()),
        row(
            "IPv6 AH",
            || Packet6 { protocol: AH, payload: authenticated(), ..tcp6() }.frame(),
            Transport,
            |ah| ah[..24].to_vec(),
        ),
    ]
}

fn tcp_header() -> Vec<Row> {
    use Part::Transport;
    let part = Transport;
    vec![
        row("TCP ports", tcp, part, |tcp| tcp[..4].to_vec()),
        row("TCP sequence number", tcp, part, |tcp| tcp[4..8].to_vec()),
        row("TCP acknowledgment number", tcp, part, |tcp| tcp[8..12].to_vec()),
        row("TCP data offset", || segment(ACK, &[1; 8]).frame(), part, |tcp| vec![tcp[12] >> 4]),
        row("TCP reserved bits", || marked(ACK, 0x0e), part, |tcp| vec![tcp[12] & 0x0e]),
        row("TCP AE", || marked(ACK, 1), part, |tcp| vec![tcp[12] & 1]),
        row("TCP CWR", || segment(ACK | 0x80, &[]).frame(), part, |tcp| vec![tcp[13] & 0x80]),
        row("TCP CWR, with AE", || marked(ACK | 0x80, 1), part, |tcp| vec![tcp[13] & 0x80]),
        row(
            "TCP CWR, with the option of Accurate ECN",
            || segment(ACK | 0x80, &[174, 5, 0, 0, 1, 1, 1, 1]).frame(),
            part,
            |tcp| vec![tcp[13] & 0x80],
        ),
        row("TCP ECE", || segment(ACK | 0x40, &[]).frame(), part, |tcp| vec![tcp[13] & 0x40]),
        row("TCP URG", || segment(ACK | 0x20, &[]).frame(), part, |tcp| vec![tcp[13] & 0x20]),
        row("TCP ACK", tcp, part, |tcp| vec![tcp[13] & ACK]),
        row("TCP PSH", || segment(ACK | 0x08, &[]).frame(), part, |tcp| vec![tcp[13] & 0x08]),
        row("TCP RST", || segment(0x04, &[]).frame(), part, |tcp| vec![tcp[13] & 0x04]),
        row("TCP SYN", || segment(SYN, &[]).frame(), part, |tcp| vec![tcp[13] & SYN]),
        row("TCP FIN", || segment(ACK | 0x01, &[]).frame(), part, |tcp| vec![tcp[13] & 0x01]),
        row("TCP window", tcp, part, |tcp| tcp[14..16].to_vec()),
        row("TCP checksum", tcp, part, |tcp| tcp[16..18].to_vec()),
        row(
            "TCP checksum, of a SYN whose MSS is lowered",
            || segment(SYN, &OPENS).frame(),
            part,
            |tcp| tcp[16..18].to_vec(),
        ),
        row(
            "TCP checksum, a wrong one",
            || {
                let mut packet = segment(ACK, &[]);
                packet.payload[17] ^= 1;
                packet.frame()
            },
            part,
            |tcp| tcp[16..18].to_vec(),
        ),
        row(
            "TCP checksum, left to hardware",
            || unfinished(segment(ACK, &[]), 16),
            part,
            |tcp| tcp[16..18].to_vec(),
        ),
        row(
            "TCP urgent pointer, without URG",
            || {
                let mut packet = segment(ACK, &[]);
                packet.payload[19] = 9;
                packet.finish(16);
                packet.frame()
            },
            part,
            |tcp| tcp[18..20].to_vec(),
        ),
    ]
}

fn tcp_options() -> Vec<Row> {
    use Part::Transport;
    let part = Transport;
    vec![
        row("TCP option MSS, of a SYN", || segment(SYN, &OPENS).frame(), part, mss),
        row(
            "TCP option MSS, of a SYN with TCP-MD5",
            || segment(SYN, &[&OPENS[..4], &MD5].concat()).frame(),
            part,
            mss,
        ),
        row(
            "TCP option MSS, of a SYN with TCP-AO",
            || segment(SYN, &[&OPENS[..4], &AO].concat()).frame(),
            part,
            mss,
        ),
        row("TCP option MSS, not of a SYN", || segment(ACK, &OPENS[..4]).frame(), part, mss),
        row("TCP option window scale", || segment(SYN, &OPENS).frame(), part, |tcp| option(tcp, 3)),
        row("TCP option SACK permitted", || segment(SYN, &OPENS).frame(), part, |tcp| option(tcp, 4)),
        row(
            "TCP option SACK",
            || segment(ACK, &[1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 1, 0]).frame(),
            part,
            |tcp| option(tcp, 5),
        ),
        row(
            "TCP option timestamps",
            || segment(ACK, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).frame(),
            part,
            |tcp| option(tcp, 8),
        ),
        row("TCP option TCP-MD5", || segment(ACK, &MD5).frame(), part, |tcp| option(tcp, 19)),
        row("TCP option TCP-AO", || segment(ACK, &AO).frame(), part, |tcp| option(tcp, 29)),
        row("TCP option, unknown", || segment(ACK, &[253, 4, 1, 2]).frame(), part, |tcp| option(tcp, 253)),
    ]
}

fn udp_and_ah() -> Vec<Row> {
    use Part::Transport;
    let part = Transport;
    vec![
        row("UDP ports", udp, part, |udp| udp[..4].to_vec()),
        row("UDP length", udp, part, |udp| udp[4..6].to_vec()),
        row("UDP checksum", udp, part, |udp| udp[6..8].to_vec()),
        row(
            "UDP checksum, 0",
            || {
                let mut packet = Packet::udp(1400);
                packet.payload[6..8].fill(0);
                packet.frame()
            },
            part,
            |udp| udp[6..8].to_vec(),
        ),
        row(
            "UDP checksum, left to hardware",
            || unfinished(Packet::udp(1400), 6),
            part,
            |udp| udp[6..8].to_vec(),
        ),
        row(
            "AH",
            || Packet { id: 7, ..Packet::new(AH, authenticated()) }.frame(),
            part,
            |ah| ah[..24].to_vec(),
        ),
    ]
}
