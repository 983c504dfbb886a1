//! UDP datagrams that are handed back whole: what a real kernel makes of them, through namespaces. Needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use xdpfrag::config::HandbackChoice;
use xdpfrag::handback::{AnyHandback, Flushed, Handback, HandbackConfig, choose};
use xdpfrag::lab::topology::{APPLIANCE_MAC, LAN_MAC};
use xdpfrag::lab::{APPLIANCE, FAR, LAN, Lab, LabConfig, Namespace};
use xdpfrag::packet::{Df, Edit, Idents, Reason, Rule, Tcp, Transform, Verdict, Way, Ways};

/// The SA MTU of the lab.
const MTU: u16 = 1422;
/// The data of an IP fragment that fits it.
const SHARE: usize = (MTU as usize - 20) & !7;
/// Ports that the flows go to.
const PORTS: [u16; 3] = [5001, 5002, 5003];
/// Payloads of each flow, in order: some are oversize, and plain frames stand between them.
const SIZES: [usize; 9] = [1472, 60, 8000, 1394, 1395, 8, 3000, 200, 1472];

const MORE: u16 = 0x2000;
const DF: u16 = 0x4000;

fn oversize(size: usize) -> bool {
    28 + size > usize::from(MTU)
}

fn payload(port: u16, number: usize) -> Vec<u8> {
    (0..SIZES[number]).map(|at| (at * 7 + at / 251 + number + usize::from(port)) as u8).collect()
}

/// With DF and ID 0, as Linux sends it; in VLAN `vlan`.
fn frame(port: u16, number: usize, vlan: Option<u16>) -> Vec<u8> {
    let mac = |text: &str| {
        let mut bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
        std::array::from_fn(|_| bytes.next().unwrap())
    };
    let link = PacketBuilder::ethernet2(mac(APPLIANCE_MAC), mac(LAN_MAC));
    let builder = link.ipv4(APPLIANCE.octets(), FAR.octets(), 64).udp(4000, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload(port, number)).unwrap();
    if let Some(vlan) = vlan {
        frame.splice(12..12, [0x81, 0x00].into_iter().chain(vlan.to_be_bytes()));
    }
    frame
}

/// The hand-back of the gateway's queue 0.
fn open(lab: &Lab) -> AnyHandback {
    let open = || {
        let (ifindex, max_datagram) = (if_nametoindex(LAN)?, 9022);
        let interface = LAN.into();
        let config = HandbackConfig { interface, ifindex, queue: 0, max_frame: 1522, max_datagram, token: 0 };
        Ok(choose(HandbackChoice::Tap, &config)?.handback)
    };
    lab.gateway.run(open).unwrap()
}

/// Everything that the far host receives, frame by frame. An AF_PACKET socket behaves as any other datagram socket.
fn capture(namespace: &Namespace) -> UdpSocket {
    let open = || {
        let all = SockProtocol::EthAll;
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, all)?;
        setsockopt(&fd, sockopt::RcvBufForce, &(16 << 20))?;
        Ok(UdpSocket::from(fd))
    };
    namespace.run(open).unwrap()
}

/// What came over the wire of one datagram.
#[derive(Debug, Default)]
struct Parts {
    /// (offset in bytes, data, more follow), in order.
    parts: Vec<(usize, Vec<u8>, bool)>,
}

/// IPv4 packets with UDP inside by identification and whether they are fragments; each checked by itself.
fn packets(captured: &UdpSocket) -> (BTreeMap<u16, Parts>, Vec<usize>) {
    let (mut fragments, mut plain) = (BTreeMap::<u16, Parts>::new(), Vec::new());
    let mut buffer = [0; 65536];
    while let Ok(length) = captured.recv(&mut buffer) {
        let ip = &buffer[14..length];
        if buffer[12..14] != [0x08, 0x00] || ip[9] != 17 {
            continue;
        }
        let word = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        let (total, flags) = (word(2), word(6));
        assert!(total <= MTU, "{total} bytes");
        assert_eq!((ip[0], ip[8]), (0x45, 63), "no options, and one hop");
        let data = ip[20..usize::from(total)].to_vec();
        let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & MORE != 0);
        if offset == 0 && !more {
            assert_eq!(flags, DF, "what fits keeps DF");
            plain.push(data.len() - 8);
        } else {
            assert_eq!(flags & DF, 0);
            fragments.entry(word(4)).or_default().parts.push((offset, data, more));
        }
    }
    (fragments, plain)
}

fn handed_back_whole_arrives(vlan: Option<u16>) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED handed back whole: needs root");
        return;
    }
    let lab = Lab::new(&LabConfig { lan_mtu: 9000, vlan, deaf: false, ..LabConfig::default() }).unwrap();
    let receivers = PORTS.map(|port| {
        let socket = lab.far.run(|| Ok(UdpSocket::bind((FAR, port))?)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    });
    let captured = capture(&lab.far);
    let mut handback = open(&lab);
    let transform = Transform { df: Df::Oversize, tcp: Tcp::Resegment, idents: Arc::new(Idents::default()) };
    let rule = Rule { ways: Ways { udp: Way::Gso, other: Way::Fragments }, ..Rule::new(MTU, None, None) };
    // One batch.
    for (number, size) in SIZES.into_iter().enumerate() {
        for port in PORTS {
            let outcome = transform.apply(&frame(port, number, vlan), rule, &mut handback);
            let reason = if oversize(size) { Reason::HandedWhole } else { Reason::Fits };
            assert_eq!((outcome.verdict, outcome.frames), (Verdict::Forward(reason), 1), "{size} bytes");
            assert_eq!(outcome.edits.contains(Edit::Id), oversize(size));
        }
    }
    assert_eq!(handback.pending(), SIZES.len() * PORTS.len());
    assert_eq!(handback.flush(), Flushed { lost: 0, result: Ok(()) });

    let mut buffer = [0; 65536];
    for (port, receiver) in PORTS.into_iter().zip(&receivers) {
        for (number, size) in SIZES.into_iter().enumerate() {
            let length = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
            assert!(
                buffer[..length] == payload(port, number),
                "number {number}, {size} bytes: {length} came"
            );
        }
    }
    let (fragments, plain) = packets(&captured);
    let fits: Vec<usize> =
        SIZES.into_iter().filter(|size| !oversize(*size)).flat_map(|size| [size; 3]).collect();
    assert_eq!(plain, fits, "each once");
    let long = SIZES.into_iter().filter(|size| oversize(*size)).count() * PORTS.len();
    assert_eq!(fragments.len(), long, "each datagram has an ID of its own");
    assert!(!fragments.contains_key(&0));
    let mut whole = BTreeSet::new();
    for Parts { parts } in fragments.into_values() {
        let (last, others) = parts.split_last().unwrap();
        assert!(!last.2 && others.iter().all(|(_, data, more)| *more && data.len() == SHARE), "{parts:?}");
        let mut udp = Vec::new();
        for (offset, data, _) in &parts {
            assert_eq!(udp.len(), *offset, "in order");
            udp.extend(data);
        }
        whole.insert(udp.split_off(8));
    }
    let expected = |number: usize| PORTS.map(|port| payload(port, number));
    let sent: BTreeSet<_> =
        (0..SIZES.len()).filter(|number| oversize(SIZES[*number])).flat_map(expected).collect();
    assert!(whole == sent, "the fragments of an ID are those of one datagram");
}

#[test]
fn the_kernel_fragments_what_is_handed_back_whole() {
    handed_back_whole_arrives(None);
}

/// The gateway lets in what has the tag alone.
#[test]
fn the_tag_of_what_is_handed_back_whole_stays() {
    handed_back_whole_arrives(Some(7));
}
