//! The kernel as reassembler: every datagram that `Transform` cuts up reaches a real socket as it was.

use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use xdpfrag::handback::{Handback, HandbackConfig, Inject};
use xdpfrag::net::private_ns::PrivateNs;
use xdpfrag::packet::{Idents, Sink};

use crate::{skipped, transform};

const HERE: [u8; 4] = [198, 18, 1, 1];
const HOST: [u8; 4] = [198, 18, 1, 2];

/// `lan0` with 198.18.1.1/24, in the namespace of the calling thread.
fn lan() -> Inject {
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    for line in [
        "link add lan0 mtu 3386 address 02:00:00:00:01:01 type veth peer name host0 mtu 3386",
        "addr add 198.18.1.1/24 dev lan0",
        "link set lan0 up",
        "link set host0 up",
    ] {
        assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
    }
    let ifindex = if_nametoindex("lan0").unwrap();
    let config = HandbackConfig {
        interface: "lan0".into(),
        ifindex,
        queue: 0,
        max_frame: 3386 + 22,
        max_datagram: 3386 + 22,
        token: 0,
    };
    Inject::open(&config).unwrap()
}

fn content(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256 + number) as u8).collect()
}

/// A datagram with DF and ID 0, as Linux sends it.
fn datagram(number: usize, len: usize) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([2, 0, 0, 0, 1, 2], [2, 0, 0, 0, 1, 1]).ipv4(HOST, HERE, 64).udp(4000, 5000);
    let mut frame = Vec::new();
    builder.write(&mut frame, &content(number, len)).unwrap();
    assert_eq!(frame[20..22], [0x40, 0]);
    frame
}

/// The order in which the fragments of two datagrams arrive.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    AsSent,
    Reversed,
    Interleaved,
}

fn arrange(mut first: Vec<Vec<u8>>, mut second: Vec<Vec<u8>>, order: Order) -> Vec<Vec<u8>> {
    match order {
        Order::AsSent => [first, second].concat(),
        Order::Reversed => {
            first.reverse();
            second.reverse();
            [first, second].concat()
        }
        Order::Interleaved => {
            let mut mixed = Vec::new();
            let (mut first, mut second) = (first.into_iter(), second.into_iter().rev());
            loop {
                let before = mixed.len();
                mixed.extend(first.next());
                mixed.extend(second.next());
                if mixed.len() == before {
                    break mixed;
                }
            }
        }
    }
}

fn check(handback: &mut Inject, socket: &UdpSocket) -> usize {
    let idents = Arc::new(Idents::with_seed(3));
    let mut buffer = vec![0; 65536];
    let mut datagrams = 0;
    for mtu in [68u16, 100, 576, 1006, 1280, 1406, 1422, 1438] {
        let least = usize::from(mtu) - 28;
        // 64 fragments of others between one's own are all that the kernel waits for (ipfrag_max_dist).
        let most = (least * 20).min(3000);
        let step = ((most - least) / 150).max(1);
        for len in (least + 1..least + 40).chain((least + 40..most).step_by(step)) {
            for order in [Order::AsSent, Order::Reversed, Order::Interleaved] {
                let lens = [len, least + 1 + len % 97];
                let [first, second] =
                    [0, 1].map(|place| transform(&datagram(datagrams + place, lens[place]), mtu, &idents).1);
                for fragment in arrange(first, second, order) {
                    assert!(handback.reserve(1, fragment.len()));
                    handback.push(fragment.len()).copy_from_slice(&fragment);
                }
                handback.flush().result.unwrap();
                let mut expected = [0, 1].map(|place| content(datagrams + place, lens[place])).to_vec();
                for _ in 0..2 {
                    let got = socket
                        .recv(&mut buffer)
                        .unwrap_or_else(|error| panic!("MTU {mtu}, {lens:?} {order:?}: {error}"));
                    let place = expected.iter().position(|content| *content == buffer[..got]);
                    expected.remove(
                        place.unwrap_or_else(|| panic!("MTU {mtu}, {lens:?} {order:?}: {got} other bytes")),
                    );
                }
                datagrams += 2;
            }
        }
    }
    datagrams
}

#[test]
fn every_datagram_reaches_a_socket_whatever_the_order_of_its_fragments() {
    if skipped() {
        return;
    }
    let in_namespace = || {
        let mut handback = lan();
        let socket = UdpSocket::bind("198.18.1.1:5000").unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let datagrams = check(&mut handback, &socket);
        eprintln!("{datagrams} datagrams reassembled by the kernel");
        assert!(datagrams > 5000, "{datagrams}");
        let statistics = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let ip: Vec<Vec<&str>> = statistics
            .lines()
            .filter(|line| line.starts_with("Ip:"))
            .map(|line| line.split(' ').collect())
            .collect();
        let value = |name: &str| ip[1][ip[0].iter().position(|field| *field == name).unwrap()];
        assert_eq!((value("ReasmFails"), value("InHdrErrors")), ("0", "0"));
    };
    PrivateNs::new().unwrap().run(in_namespace).unwrap();
}
