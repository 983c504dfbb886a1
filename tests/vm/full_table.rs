//! A full connection table: what the kernel then drops it drops with xdpfrag as well, and nothing else is lost.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

use crate::conntrack::{INPUT, STATEFUL, exempt, nft, serve};
use crate::gateways::{Gateways, Site};
use crate::sa::{Esp, Route, Tunnel};

/// Of the kernel, not of a namespace: only the first one may set it.
const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// Connections in the table when it is full.
const ENTRIES: u16 = 32;
/// Source ports: of the flow that was there before, of those that fill the table, and of new ones.
const OLD: u16 = 4000;
const FILLERS: u16 = 4100;
/// The port that listens.
const TO: u16 = 5060;
/// Payloads that fit and that do not.
const FITS: usize = 100;
const OVERSIZE: usize = 1472;
/// How long a datagram may be on its way through emulated routers.
const QUIET: Duration = Duration::from_secs(3);

/// The first router tracks connections by `rules`; the other end counts what arrives.
struct Full {
    gateways: Gateways,
    receiver: UdpSocket,
    limit: String,
    /// The last source port of a new flow.
    port: u16,
}

impl Drop for Full {
    fn drop(&mut self) {
        fs::write(LIMIT, &self.limit).expect("the limit as it was");
    }
}

impl Full {
    /// Fills the table with flows, one of which goes on later.
    fn new(rules: &str) -> Full {
        let tunnel = Tunnel { route: Route::Policy, esp: Esp::Gcm16, nat_t: false, outer: 4, copy_df: true };
        let gateways = Gateways::new(4, Some(tunnel)).unwrap();
        let [one, two] = &gateways.sites;
        nft(&one.router, rules);
        // Emulated, a minute is soon over.
        one.router.sysctl("netfilter/nf_conntrack_udp_timeout", "600").unwrap();
        let receiver = two.appliance.run(|| Ok(UdpSocket::bind((two.address, TO))?)).unwrap();
        receiver.set_read_timeout(Some(QUIET)).unwrap();
        let limit = fs::read_to_string(LIMIT).unwrap();
        let full = Full { gateways, receiver, limit, port: FILLERS + ENTRIES };
        for port in [OLD].into_iter().chain(FILLERS..FILLERS + ENTRIES) {
            assert_eq!(full.arrive(port, &[FITS]), [FITS], "what fills the table");
        }
        fs::write(LIMIT, (ENTRIES / 2).to_string()).unwrap();
        full
    }

    /// Sends datagrams of these lengths from `port`, and answers the lengths that arrive, in order.
    fn arrive(&self, port: u16, sizes: &[usize]) -> Vec<usize> {
        let [one, two] = &self.gateways.sites;
        for size in sizes {
            send(one, two.address, port, *size);
        }
        let mut buffer = [0; 2000];
        let arrived = sizes.iter().map_while(|_| self.receiver.recv(&mut buffer).ok());
        arrived.collect()
    }

    /// The same from a port that no flow has had.
    fn new_flow(&mut self, sizes: &[usize]) -> Vec<usize> {
        self.port += 1;
        self.arrive(self.port, sizes)
    }

    /// Packets that the router's connection tracking has dropped.
    fn dropped(&self) -> u64 {
        let path = "/proc/thread-self/net/stat/nf_conntrack";
        let text = self.gateways.sites[0].router.run(|| Ok(fs::read_to_string(path)?)).unwrap();
        let mut lines = text.lines().map(str::split_whitespace);
        let column = lines.next().expect("names").position(|name| name == "drop").expect("drops");
        lines.map(|mut words| u64::from_str_radix(words.nth(column).unwrap(), 16).unwrap()).sum()
    }
}

fn send(from: &Site, to: std::net::Ipv4Addr, port: u16, size: usize) {
    let send = || {
        let socket = UdpSocket::bind((from.address, port))?;
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
        Ok(socket.send_to(&vec![0x5a; size], (to, TO))?)
    };
    assert_eq!(from.appliance.run(send).unwrap(), size);
}

/// Rules that depend on connections: fragments are put together and tracked like the datagrams that they came from.
#[test]
fn full_table_stateful() {
    let mut full = Full::new(STATEFUL);
    let before = full.dropped();
    assert_eq!(full.arrive(OLD, &[FITS, OVERSIZE]), [FITS], "without xdpfrag: what is oversize is refused");
    assert_eq!(full.new_flow(&[FITS]), [0; 0], "without xdpfrag: a new connection is dropped");
    assert!(full.dropped() > before);

    let _daemon = serve(&full.gateways, &[]);
    assert!(!exempt(&full.gateways));
    assert_eq!(full.arrive(OLD, &[FITS, OVERSIZE, FITS, OVERSIZE]), [FITS, OVERSIZE, FITS, OVERSIZE]);
    let before = full.dropped();
    assert_eq!(full.new_flow(&[FITS]), [0; 0]);
    assert_eq!(full.new_flow(&[OVERSIZE]), [0; 0]);
    assert!(full.dropped() >= before + 2, "both by connection tracking, as every new connection");
}

/// No rule depends on connections: fragments are exempt from tracking, and pass while what fits is dropped.
#[test]
fn full_table_exempt() {
    let mut full = Full::new(INPUT);
    assert_eq!(full.new_flow(&[FITS]), [0; 0], "without xdpfrag: a new connection is dropped");
    assert_eq!(full.arrive(OLD, &[FITS, OVERSIZE]), [FITS], "without xdpfrag: what is oversize is refused");

    let _daemon = serve(&full.gateways, &[]);
    assert!(exempt(&full.gateways));
    assert_eq!(full.arrive(OLD, &[FITS, OVERSIZE, FITS, OVERSIZE]), [FITS, OVERSIZE, FITS, OVERSIZE]);
    assert_eq!(full.new_flow(&[FITS, OVERSIZE, FITS, OVERSIZE]), [OVERSIZE, OVERSIZE]);
}
