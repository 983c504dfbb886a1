//! Random packets through every way, against what came: what leaves on the WAN is the same packet, whole or in fragments; and
//! against a gateway without xdpfrag, with whatever looks at ports: nothing leaves that did not, but what was too long.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use xdpfrag::lab::{APPLIANCE, Daemon, FAR, Lab, LabConfig};
use xdpfrag::packet::checksum;

use crate::support::{binary, lab_alone, stop};
use crate::torture::raw::{RawSocket, ethernet};

const SA_MTU: usize = 1422;
/// Two fragments of a packet have fewer others between them than a receiver allows (`ipfrag_max_dist`).
const NEAR: usize = 64;
const DF: u16 = 0x4000;
const MF: u16 = 0x2000;
const UDP: u8 = 17;
const TCP: u8 = 6;
const AH: u8 = 51;
/// Ports that the gateways below let through, and refuse or send elsewhere.
const OPEN: u16 = 7001;
const SHUT: u16 = 7002;

/// An IPv4 packet on its way in, or put together from what left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    tos: u8,
    id: u16,
    /// Flags and offset.
    frag: u16,
    protocol: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Packet {
    fn len(&self) -> usize {
        20 + self.options.len() + self.payload.len()
    }

    fn frame(&self) -> Vec<u8> {
        let mut header = vec![0x45 + (self.options.len() / 4) as u8, self.tos];
        header.extend((self.len() as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.frag.to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(APPLIANCE.octets());
        header.extend(FAR.octets());
        header.extend(&self.options);
        let sum = !checksum::sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [ethernet(0x0800), header, self.payload.clone()].concat()
    }

    /// A packet to the far host that is no answer of its own.
    fn parse(frame: &[u8]) -> Option<Packet> {
        let ip = frame.get(14..).filter(|ip| frame[12..14] == [8, 0] && ip.len() >= 20)?;
        let header = usize::from(ip[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        if ip[16..20] != FAR.octets() || ip[12..16] == FAR.octets() {
            return None;
        }
        Some(Packet {
            tos: ip[1],
            id: u16::from_be_bytes([ip[4], ip[5]]),
            frag: u16::from_be_bytes([ip[6], ip[7]]),
            protocol: ip[9],
            options: ip[20..header].to_vec(),
            payload: ip[header..total].to_vec(),
        })
    }

    /// Its number, which no gateway changes.
    fn number(&self) -> Option<usize> {
        Some(u32::from_be_bytes(self.payload.get(8..12)?.try_into().unwrap()) as usize)
    }

    fn port(&self) -> Option<u16> {
        let whole = self.protocol == UDP && self.frag & 0x1fff == 0;
        whole.then(|| u16::from_be_bytes([self.payload[2], self.payload[3]]))
    }

    fn fragment(&self) -> bool {
        self.frag & 0x3fff != 0
    }
}

/// xorshift64*: the same packets every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// A valid packet. TCP that is too long is cut into segments, of which others tell.
    fn packet(&mut self, number: usize) -> Packet {
        let protocol = self.of(&[UDP, UDP, UDP, TCP, 1, 4, 47, 50, AH, 132]);
        let longest = if protocol == TCP { SA_MTU } else { 1500 };
        let options = self.of(&[&[][..], &[], &[], &[148, 4, 0, 0], &[1, 1, 1, 0, 0, 0, 0, 0]]).to_vec();
        let around = [SA_MTU - 2 + self.below(5), longest - self.below(8), 60 + self.below(longest - 60)];
        let len = self.of(&around).min(longest) - 20 - options.len();
        let mut packet = Packet {
            tos: self.below(256) as u8 & !3,
            id: self.below(65536) as u16,
            frag: self.of(&[0, DF, DF, DF, MF, MF | DF, 100, 100 | DF, 100 | MF | DF]),
            protocol,
            options,
            payload: (0..len).map(|at| (at * 7 + at / 256 + number) as u8).collect(),
        };
        if protocol == TCP {
            packet.frag &= DF;
        }
        if packet.frag & MF != 0 {
            packet.payload.truncate(len & !7);
        }
        packet.payload[8..12].copy_from_slice(&(number as u32).to_be_bytes());
        if packet.frag & 0x1fff == 0 {
            packet.finish(self.of(&[OPEN, OPEN, SHUT]));
        }
        packet
    }
}

impl Packet {
    /// Writes a header of its protocol that a firewall takes for one.
    fn finish(&mut self, port: u16) {
        let len = self.payload.len() as u16;
        match self.protocol {
            UDP => {
                self.payload[..2].copy_from_slice(&(port + 1000).to_be_bytes());
                self.payload[2..4].copy_from_slice(&port.to_be_bytes());
                self.payload[4..6].copy_from_slice(&len.to_be_bytes());
                self.payload[6..8].fill(0);
                let pseudo = checksum::pseudo_header(APPLIANCE, FAR, UDP, len);
                let sum = !checksum::add(checksum::sum(&self.payload), pseudo);
                // Of a fragment it would be over more than there is here.
                let sum = if self.frag & MF != 0 { 0x1234 } else { sum };
                self.payload[6..8].copy_from_slice(&sum.to_be_bytes());
            }
            1 => {
                self.payload[..4].copy_from_slice(&[8, 0, 0, 0]);
                let sum = !checksum::sum(&self.payload);
                self.payload[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            // Version 0, and nothing of what it may have.
            47 => self.payload[..4].copy_from_slice(&[0, 0, 8, 0]),
            TCP => {
                self.payload[12..14].copy_from_slice(&[0x50, 0x10]);
                self.payload[16..18].fill(0);
                let pseudo = checksum::pseudo_header(APPLIANCE, FAR, TCP, len);
                let sum = !checksum::add(checksum::sum(&self.payload), pseudo);
                self.payload[16..18].copy_from_slice(&sum.to_be_bytes());
            }
            _ => {}
        }
    }
}

fn packets(seed: u64, count: usize) -> Vec<Packet> {
    let mut random = Random(seed);
    (0..count).map(|number| random.packet(number)).collect()
}

/// What the far host receives while `packets` are sent, in its order; fragments of one packet put together if they are near
/// each other. No frame is longer than `longest`.
fn leaves(lab: &Lab, packets: &[Packet], longest: usize) -> Vec<Packet> {
    let tap: OwnedFd = lab
        .far
        .run(|| {
            let kind = (AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll);
            let tap = socket(kind.0, kind.1, kind.2, kind.3)?;
            setsockopt(&tap, sockopt::RcvBufForce, &(16 << 20))?;
            Ok(tap)
        })
        .unwrap();
    let send = || {
        let wire = RawSocket::open("lan0")?;
        for (n, packet) in packets.iter().enumerate() {
            wire.send(&packet.frame())?;
            if n % 8 == 7 {
                sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    };
    lab.appliance.run(send).unwrap();
    let (mut left, mut last, mut frame) = (Vec::<Packet>::new(), Instant::now(), vec![0; 65536]);
    while last.elapsed() < Duration::from_millis(500) {
        let len = match recv(tap.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(len) => len,
            Err(Errno::EAGAIN) => {
                sleep(Duration::from_millis(5));
                continue;
            }
            Err(errno) => panic!("{errno}"),
        };
        let Some(piece) = Packet::parse(&frame[..len]) else { continue };
        last = Instant::now();
        assert!(piece.len() <= longest, "{} bytes left", piece.len());
        let next = |before: &Packet| (before.frag & 0x1fff) + (before.payload.len() / 8) as u16;
        let begun = |before: &&mut Packet| {
            before.frag & MF != 0
                && (before.id, before.protocol) == (piece.id, piece.protocol)
                && next(before) == piece.frag & 0x1fff
        };
        match left.iter_mut().rev().take(NEAR).find(begun) {
            Some(before) => {
                before.frag = before.frag & !MF | piece.frag & MF;
                before.payload.extend(&piece.payload);
            }
            None => left.push(piece),
        }
    }
    left
}

/// `left` is `came`, but for what may change.
fn same(came: &Packet, left: &Packet, what: &str) {
    let context = || format!("{what}: came {came:02x?}\nleft {left:02x?}");
    assert!(left.payload == came.payload, "{}", context());
    assert_eq!((left.tos, left.protocol), (came.tos, came.protocol), "{}", context());
    assert!(left.options == came.options, "{}", context());
    // What fits keeps DF by default; what is no fragment stays none.
    let cleared = came.len() > SA_MTU || what.contains("clear");
    assert_eq!(left.frag, if cleared { came.frag & !DF } else { came.frag }, "{}", context());
    let fresh = came.len() > SA_MTU && came.frag & DF != 0 && !came.fragment() && came.protocol != AH;
    assert!(fresh || left.id == came.id, "{}", context());
    assert!(!fresh || left.id != 0, "{}", context());
}

fn run(lab: &Lab, flags: &[&str]) -> Daemon {
    let all = [&["--json", "--mtu", "1422", "--dst", "198.18.2.0/24"], flags].concat();
    Daemon::start(&lab.gateway, binary(), &all).unwrap_or_else(|error| panic!("{error:#}"))
}

fn count() -> usize {
    if std::env::var_os("XDPFRAG_TORTURE").is_some() { 20_000 } else { 600 }
}

#[test]
fn every_packet_leaves_as_it_came_or_in_fragments_of_it() {
    // The kernel cuts where the link takes no more than the SA; else workers do.
    for (seed, sa_mtu, flags) in [
        (1, SA_MTU, &[][..]),
        (2, SA_MTU, &["--df", "clear"]),
        (3, SA_MTU, &["--redirect", "all", "--df", "clear"]),
        (4, 1500, &[]),
        (5, 1500, &["--redirect", "all", "--tcp", "fragment"]),
        (6, 1500, &["--handback", "inject", "--df", "clear"]),
    ] {
        let Some(lab) = lab_alone(LabConfig { sa_mtu: sa_mtu as u32, ..LabConfig::default() }) else {
            return;
        };
        let what = format!("SA MTU {SA_MTU}, link {sa_mtu}, {flags:?}");
        let daemon = run(&lab, flags);
        let came = packets(seed, count());
        let left = leaves(&lab, &came, SA_MTU);
        stop(daemon);
        let mut seen = BTreeMap::new();
        for packet in &left {
            let number = packet.number().unwrap_or_else(|| panic!("{what}: {packet:02x?}"));
            assert!(number < came.len(), "{what}: out of nothing: {packet:02x?}");
            same(&came[number], packet, &what);
            assert!(seen.insert(number, ()).is_none(), "{what}: twice: {packet:02x?}");
        }
        let missing: Vec<_> = (0..came.len()).filter(|number| !seen.contains_key(number)).collect();
        assert!(missing.is_empty(), "{what}: {} are missing: {:02x?}", missing.len(), came[missing[0]]);
        // Of one flow, in order.
        let flow = |packet: &&Packet| packet.port() == Some(OPEN) && !packet.fragment();
        let order: Vec<_> = left.iter().filter(flow).filter_map(Packet::number).collect();
        assert!(order.is_sorted(), "{what}: {order:?}");
    }
}

/// A gateway that looks at ports.
struct Gateway {
    name: &'static str,
    nft: &'static str,
    rules: &'static [&'static str],
}

const GATEWAYS: &[Gateway] = &[
    Gateway {
        name: "stateless firewall",
        nft: "add table ip t; add chain ip t f { type filter hook forward priority 0; policy drop; }; \
              add rule ip t f udp dport 7001 accept; add rule ip t f ip protocol icmp accept",
        rules: &[],
    },
    Gateway {
        name: "stateful firewall",
        nft: "add table ip t; add chain ip t f { type filter hook forward priority 0; policy drop; }; \
              add rule ip t f ct state established,related accept; add rule ip t f udp dport 7001 accept",
        rules: &[],
    },
    Gateway {
        name: "marks",
        nft: "add table ip t; add chain ip t p { type filter hook prerouting priority -150; }; \
              add rule ip t p udp dport 7002 meta mark set 7",
        rules: &["route add blackhole default table 7", "rule add fwmark 7 lookup 7"],
    },
    Gateway {
        name: "rule by port",
        nft: "add table ip t",
        rules: &["route add blackhole default table 7", "rule add ipproto udp dport 7002 lookup 7"],
    },
    Gateway {
        name: "NAT",
        nft: "add table ip t; add chain ip t n { type nat hook postrouting priority 100; }; \
              add rule ip t n oifname wan0 masquerade; \
              add chain ip t f { type filter hook forward priority 0; }; add rule ip t f udp dport 7002 drop",
        rules: &[],
    },
];

#[test]
fn nothing_leaves_that_did_not_but_what_was_too_long() {
    for (seed, gateway) in GATEWAYS.iter().enumerate() {
        for sa_mtu in [SA_MTU, 1500] {
            let what = format!("{}, link {sa_mtu}", gateway.name);
            let Some(lab) = lab_alone(LabConfig { sa_mtu: sa_mtu as u32, ..LabConfig::default() }) else {
                return;
            };
            lab.gateway.output("nft", &[gateway.nft]).unwrap();
            for rule in gateway.rules {
                lab.gateway.ip(rule).unwrap();
            }
            // No fragments: a tracking gateway holds them back until the rest comes.
            let mut came = packets(20 + seed as u64, count() / 2);
            for packet in &mut came {
                packet.frag &= DF;
                packet.finish(if packet.id % 3 == 0 { SHUT } else { OPEN });
            }
            let numbers = |left: &[Packet]| -> BTreeSet<usize> {
                left.iter().map(|packet| packet.number().expect("a number")).collect()
            };
            let without = numbers(&leaves(&lab, &came, sa_mtu));
            let daemon = run(&lab, &[]);
            let left = leaves(&lab, &came, sa_mtu);
            let with = numbers(&left);
            stop(daemon);
            let lost: Vec<_> = without.difference(&with).collect();
            assert!(lost.is_empty(), "{what}: left only without: {:02x?}", came[*lost[0]]);
            for number in with.difference(&without) {
                let (packet, len) = (&came[*number], came[*number].len());
                assert!(len > SA_MTU && packet.frag & DF != 0, "{what}: left only with: {packet:02x?}");
            }
            let shut: Vec<_> = with.iter().filter(|number| came[**number].port() == Some(SHUT)).collect();
            assert!(shut.is_empty(), "{what}: {} to a port that is shut", shut.len());
            // Each piece of what left belongs to one that may leave.
            let piece = left.iter().find(|packet| packet.fragment());
            assert_eq!(piece, None, "{what}");
            // One with options cannot be handed back whole, and stays as it is.
            let open = |packet: &&Packet| {
                packet.port() == Some(OPEN) && packet.len() > SA_MTU && packet.options.is_empty()
            };
            let expected = came.iter().filter(open).filter_map(Packet::number).count();
            let arrived = with.iter().filter(|number| open(&&came[**number])).count();
            assert_eq!(arrived, expected, "{what}");
        }
    }
}
