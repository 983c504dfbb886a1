//! What is sent: templates of whole frames, sent in turn.

use anyhow::{Result, bail};
use etherparse::PacketBuilder;

use crate::lab::topology::{APPLIANCE, APPLIANCE_MAC, FAR, LAN_MAC};

/// `HEAD`, `HEAD_MAGIC` and `TAIL_MAGIC` of `bpf/bench.bpf.c`.
const HEAD: usize = 80;
const HEAD_MAGIC: u16 = 0x6865;
const TAIL_MAGIC: u32 = 0x7461_696c;
/// Bytes of `struct bench_trailer`.
const TRAILER: usize = 16;
const FLOWS: u16 = 256;
/// Lengths as 7 : 4 : 1, without the Ethernet checksum.
const IMIX: [usize; 12] = [60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 60, 590];
/// Ethernet, IPv4 and UDP headers; Ethernet, IPv4 and TCP headers.
const UDP_HEADERS: usize = 42;
const TCP_HEADERS: usize = 54;

/// Kinds of traffic. Lengths are those of IPv4 packets, or of Ethernet frames with their checksum for IMIX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workload {
    /// UDP, 1500 bytes, 256 flows.
    Udp1500,
    /// TCP, 1500 bytes, one flow in order.
    Tcp1,
    /// TCP, 1500 bytes, 64 flows in order.
    Tcp64,
    /// UDP, frames of 64, 594 and 1518 bytes as 7 : 4 : 1, 252 flows, each of one size.
    Imix,
    /// The same, but that a quarter of 256 flows have small frames among the large.
    ImixMixed,
    /// UDP, frames of 64 bytes, 256 flows.
    Small,
    /// TCP SYN with an MSS of 1460 and the other options that Linux sends, 256 flows.
    Syn,
    /// The two fragments of each datagram of [`Udp1500`](Workload::Udp1500), from a sender that cuts them itself: two
    /// frames per packet, and hence none of [`ALL`](Workload::ALL).
    Cut,
    /// [`Imix`](Workload::Imix) with its largest packets cut so.
    ImixCut,
}

/// `struct bench_template`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) frame: Vec<u8>,
    flow: u16,
    /// By how much the flow's sequence number goes on, for TCP with data.
    advance: Option<u32>,
    stamped: bool,
}

impl Workload {
    /// Every workload of one frame per packet.
    pub const ALL: [Workload; 7] = [
        Workload::Udp1500,
        Workload::Tcp1,
        Workload::Tcp64,
        Workload::Imix,
        Workload::ImixMixed,
        Workload::Small,
        Workload::Syn,
    ];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Udp1500 => "udp1500",
            Workload::Tcp1 => "tcp1",
            Workload::Tcp64 => "tcp64",
            Workload::Imix => "imix",
            Workload::ImixMixed => "imix-mixed",
            Workload::Small => "64byte",
            Workload::Syn => "syn",
            Workload::Cut => "udp1500-cut",
            Workload::ImixCut => "imix-cut",
        }
    }

    /// What it consists of, in words.
    pub fn description(self) -> &'static str {
        match self {
            Workload::Udp1500 => "UDP 1500 bytes DF, 256 flows",
            Workload::Tcp1 => "TCP 1500 bytes DF, 1 flow, in order, in bursts of 32",
            Workload::Tcp64 => "TCP 1500 bytes DF, 64 flows, in order, in bursts of 16",
            Workload::Imix => {
                "UDP DF, frames of 64, 594 and 1518 bytes as 7:4:1, 252 flows, each of one size"
            }
            Workload::ImixMixed => "the same, 256 flows, a quarter of which mix small frames with the large",
            Workload::Small => "UDP DF, frames of 64 bytes, 256 flows",
            Workload::Syn => "TCP SYN, MSS 1460, 256 flows",
            Workload::Cut => "the two fragments of each datagram of udp1500, 256 flows",
            Workload::ImixCut => "the packets of imix, the two fragments of the largest",
        }
    }

    /// True if its packets carry time stamps.
    pub fn timed(self) -> bool {
        self != Workload::Syn
    }

    /// Bytes of data in each segment, if it is TCP in order.
    pub(super) fn stream(self) -> Option<u64> {
        matches!(self, Workload::Tcp1 | Workload::Tcp64).then_some((1514 - TCP_HEADERS) as u64)
    }

    /// Frames that come back to back: what a sender with TSO makes of one write.
    pub(super) fn burst(self) -> u32 {
        match self {
            Workload::Tcp1 => 32,
            Workload::Tcp64 => 16,
            _ => 1,
        }
    }

    /// Bytes of the original IP packets, on average.
    pub fn packet_bytes(self) -> f64 {
        match self {
            Workload::Udp1500 | Workload::Tcp1 | Workload::Tcp64 | Workload::Cut => 1500.0,
            Workload::Imix | Workload::ImixMixed | Workload::ImixCut => {
                (7.0 * 46.0 + 4.0 * 576.0 + 1500.0) / 12.0
            }
            Workload::Small => 46.0,
            Workload::Syn => 60.0,
        }
    }

    /// Source port of its first flow. A flow that has had oversize packets goes on through the workers, so that a
    /// workload may not inherit another's.
    fn port(self) -> u16 {
        20_000 + 1000 * self as u16
    }

    pub(super) fn templates(self) -> Result<Vec<Template>> {
        match self {
            Workload::Udp1500 => (0..FLOWS).map(|flow| udp(self.port(), flow, 1514)).collect(),
            Workload::Small => (0..FLOWS).map(|flow| udp(self.port(), flow, 60)).collect(),
            Workload::Imix => self.imix(),
            Workload::ImixCut => {
                let pieces = |whole: Template| match whole.frame.len() {
                    1514 => cut(&whole).to_vec(),
                    _ => vec![whole],
                };
                Ok(self.imix()?.into_iter().flat_map(pieces).collect())
            }
            Workload::ImixMixed => (0..3 * FLOWS)
                .map(|nth| udp(self.port(), nth * 5 % FLOWS, IMIX[usize::from(nth) % 12]))
                .collect(),
            Workload::Tcp1 => Ok(vec![segment(self.port(), 0)?]),
            Workload::Tcp64 => (0..64 * 16).map(|nth| segment(self.port(), nth / 16)).collect(),
            Workload::Syn => (0..FLOWS).map(|flow| syn(self.port(), flow)).collect(),
            Workload::Cut => {
                let whole =
                    (0..FLOWS).map(|flow| udp(self.port(), flow, 1514)).collect::<Result<Vec<_>>>()?;
                Ok(whole.iter().flat_map(cut).collect())
            }
        }
    }

    /// A size per flow, in steps of 5, so that neighbours in time are no neighbours in the flow table.
    fn imix(self) -> Result<Vec<Template>> {
        let flows = (0..21 * 12).map(|nth| nth * 5 % (21 * 12));
        flows.map(|flow| udp(self.port(), flow, IMIX[usize::from(flow) % 12])).collect()
    }
}

impl Template {
    /// `struct bench_template` as bytes.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = u16::try_from(self.frame.len())?.to_ne_bytes().to_vec();
        bytes.push(u8::from(self.advance.is_some()));
        bytes.push(u8::from(self.stamped));
        bytes.extend(u32::from(self.flow).to_ne_bytes());
        bytes.extend(self.advance.unwrap_or(0).to_ne_bytes());
        let mut head = self.frame.clone();
        head.resize(HEAD, 0);
        bytes.extend(head);
        Ok(bytes)
    }
}

fn udp(port: u16, flow: u16, length: usize) -> Result<Template> {
    let builder =
        PacketBuilder::ethernet2(mac(APPLIANCE_MAC)?, mac(LAN_MAC)?).ip(ip(17)).udp(port + flow, 7001);
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload(length - UDP_HEADERS))?;
    Ok(Template { frame, flow, advance: None, stamped: true })
}

fn segment(port: u16, flow: u16) -> Result<Template> {
    let payload = payload(1514 - TCP_HEADERS);
    let builder = PacketBuilder::ethernet2(mac(APPLIANCE_MAC)?, mac(LAN_MAC)?)
        .ip(ip(6))
        .tcp(port + flow, 7001, 0, 65_535)
        .ack(1);
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload)?;
    Ok(Template { frame, flow, advance: Some(u32::try_from(payload.len())?), stamped: true })
}

fn syn(port: u16, flow: u16) -> Result<Template> {
    let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let builder = PacketBuilder::ethernet2(mac(APPLIANCE_MAC)?, mac(LAN_MAC)?)
        .ip(ip(6))
        .tcp(port + flow, 7001, u32::from(flow), 65_535)
        .syn()
        .options_raw(&options)?;
    let mut frame = Vec::new();
    builder.write(&mut frame, &[])?;
    Ok(Template { frame, flow, advance: None, stamped: false })
}

/// The two fragments of a datagram without options, for an MTU of 1422.
fn cut(whole: &Template) -> [Template; 2] {
    const IP: usize = 14;
    const DATA: usize = IP + 20;
    const SHARE: usize = (1422 - 20) / 8 * 8;
    let (headers, data) = whole.frame.split_at(DATA);
    let (first, second) = data.split_at(SHARE);
    [(first, 1 << 13, false), (second, SHARE / 8, whole.stamped)].map(|(data, frag_off, stamped)| {
        let mut frame = [headers, data].concat();
        frame[IP + 2..IP + 4].copy_from_slice(&((20 + data.len()) as u16).to_be_bytes());
        frame[IP + 6..IP + 8].copy_from_slice(&(frag_off as u16).to_be_bytes());
        frame[IP + 10..IP + 12].fill(0);
        let sum: u32 =
            frame[IP..DATA].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let check = !(((sum & 0xffff) + (sum >> 16)) as u16);
        frame[IP + 10..IP + 12].copy_from_slice(&check.to_be_bytes());
        Template { frame, flow: whole.flow, advance: None, stamped }
    })
}

fn ip(protocol: u8) -> etherparse::IpHeaders {
    let mut header = etherparse::Ipv4Header {
        time_to_live: 64,
        protocol: protocol.into(),
        source: APPLIANCE.octets(),
        destination: FAR.octets(),
        ..etherparse::Ipv4Header::default()
    };
    header.dont_fragment = true;
    etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
}

/// Zeros between the magic number that marks a start and a trailer sent at time 0.
fn payload(length: usize) -> Vec<u8> {
    let mut payload = HEAD_MAGIC.to_ne_bytes().to_vec();
    payload.resize(length - TRAILER, 0);
    let magic = TAIL_MAGIC.to_ne_bytes();
    payload.extend(magic);
    payload.extend([0; 8]);
    let sum: u32 = magic.chunks(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum();
    let balance = !(((sum & 0xffff) + (sum >> 16)) as u16);
    payload.extend(balance.to_ne_bytes());
    payload.extend([0; 2]);
    payload
}

/// Six bytes of a colon-separated address.
fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    match <[u8; 6]>::try_from(bytes) {
        Ok(mac) => Ok(mac),
        Err(bytes) => bail!("a hardware address has 6 bytes, not {}", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketHeaders, TransportHeader};

    use super::Workload;

    #[test]
    fn templates_are_whole_frames_with_right_checksums() {
        for workload in Workload::ALL {
            for template in workload.templates().unwrap() {
                let parsed = PacketHeaders::from_ethernet_slice(&template.frame).unwrap();
                let ip = parsed.net.unwrap().ipv4_ref().unwrap().0.clone();
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                assert!(ip.dont_fragment);
                let payload = parsed.payload.slice();
                match parsed.transport.unwrap() {
                    TransportHeader::Udp(udp) => {
                        assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, payload).unwrap());
                    }
                    TransportHeader::Tcp(tcp) => {
                        assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, payload).unwrap());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn fragments_make_the_datagram() {
        let whole = Workload::Udp1500.templates().unwrap();
        let fragments = Workload::Cut.templates().unwrap();
        assert_eq!(fragments.len(), 2 * whole.len());
        for (whole, fragments) in whole.iter().zip(fragments.as_chunks::<2>().0) {
            let headers = fragments.each_ref().map(|fragment| {
                let header = etherparse::Ipv4HeaderSlice::from_slice(&fragment.frame[14..]).unwrap();
                assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                assert_eq!(usize::from(header.total_len()), fragment.frame.len() - 14);
                (header.more_fragments(), header.fragments_offset().value(), header.dont_fragment())
            });
            assert_eq!(headers, [(true, 0, false), (false, 175, false)]);
            let data = [&fragments[0].frame[34..], &fragments[1].frame[34..]].concat();
            // But for the source port, which tells the workloads apart, and the checksum over it.
            assert_eq!((data[2..6].to_vec(), &data[8..]), (whole.frame[36..40].to_vec(), &whole.frame[42..]));
            assert_eq!(fragments.each_ref().map(|fragment| fragment.stamped), [false, true]);
        }
    }

    #[test]
    fn imix_is_seven_to_four_to_one() {
        for (workload, cycles) in [(Workload::Imix, 21), (Workload::ImixMixed, 64)] {
            let templates = workload.templates().unwrap();
            let count =
                |length: usize| templates.iter().filter(|template| template.frame.len() == length).count();
            assert_eq!([60, 590, 1514].map(count), [7, 4, 1].map(|share| share * cycles));
            let sizes = |flow| {
                let of_flow = templates.iter().filter(move |template| template.flow == flow);
                of_flow.map(|template| template.frame.len()).collect::<std::collections::BTreeSet<_>>()
            };
            let large: Vec<_> = (0..256).map(sizes).filter(|sizes| sizes.contains(&1514)).collect();
            let mixed = large.iter().filter(|sizes| sizes.len() > 1).count();
            assert_eq!((large.len(), mixed), if workload == Workload::Imix { (21, 0) } else { (64, 64) });
        }
    }
}
