//! What is sent from the first appliance to the second, and waited for there.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use xdpfrag::lab::Namespace;

use super::marks::work_for;

/// A kind of traffic. Numbers are datagrams at a time, or connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// 1400 bytes: fits.
    Fits(usize),
    /// 1500 bytes with DF.
    Udp(usize),
    /// 64 bytes.
    Small,
    /// Seven of 64 bytes, four of 576, one of 1500.
    Imix,
    /// SYNs with five options, as Linux sends them.
    Syn,
    /// Full segments of a host that heeds the MSS.
    TcpFits(usize),
    /// Full segments of 1500 bytes.
    Tcp(usize),
    /// The same, and eth1 has GRO.
    Merged(usize),
}

const PORT: u16 = 7000;
/// How long to wait for what must arrive.
const PATIENCE: Duration = Duration::from_secs(20);
/// Payload of a full segment with time stamps.
const SEGMENT: usize = 1448;
/// What an appliance sends in one write: ten segments, as many as a connection begins with.
const WRITE: usize = 10 * SEGMENT;
/// What one connection sends in all, or sixteen between them, in writes.
const WRITES: usize = 96;
/// Of each socket of a connection: fixed, for else the kernel makes it grow when it likes.
const BUFFER: usize = 256 << 10;
const IMIX: [usize; 12] = [64, 576, 64, 64, 576, 64, 1500, 576, 64, 64, 576, 64];
/// Headers of IPv4 and UDP.
const HEADERS: usize = 28;

impl Traffic {
    pub(crate) fn name(self) -> String {
        match self {
            Traffic::Fits(1) => "udp1400".into(),
            Traffic::Fits(burst) => format!("udp1400x{burst}"),
            Traffic::Udp(1) => "udp1500".into(),
            Traffic::Udp(burst) => format!("udp1500x{burst}"),
            Traffic::Small => "udp64".into(),
            Traffic::Imix => "imix".into(),
            Traffic::Syn => "syn".into(),
            Traffic::TcpFits(flows) => format!("tcp1400-{flows}"),
            Traffic::Tcp(flows) => format!("tcp-{flows}"),
            Traffic::Merged(flows) => format!("tcp-{flows}-gro"),
        }
    }

    /// Whether several datagrams are to arrive at once.
    pub(crate) fn is_burst(self) -> bool {
        matches!(self, Traffic::Fits(2..) | Traffic::Udp(2..))
    }

    /// Whether eth1 of the gateway is to have GRO.
    pub(crate) fn gro(self) -> bool {
        matches!(self, Traffic::Merged(_))
    }

    /// Sockets of a flow of datagrams, one of which has been there and one back.
    pub(crate) fn sockets(
        from: &Namespace,
        to: &Namespace,
        address: Ipv4Addr,
    ) -> Result<(UdpSocket, UdpSocket)> {
        Flow::pair(from, to, SocketAddr::from((address, PORT)))
    }

    pub(crate) fn open(self, from: &Namespace, to: &Namespace, address: Ipv4Addr) -> Result<Flow> {
        let at = SocketAddr::from((address, PORT));
        match self {
            Traffic::Fits(burst) => Flow::datagrams(from, to, at, vec![1400; burst], 256 / burst),
            Traffic::Udp(burst) => Flow::datagrams(from, to, at, vec![1500; burst], 256 / burst),
            Traffic::Small => Flow::datagrams(from, to, at, vec![64], 256),
            // One at a time, of all sizes.
            Traffic::Imix => Flow::mix(from, to, at),
            Traffic::Syn => Flow::syns(from, to, address),
            Traffic::TcpFits(flows) => Flow::connections(from, to, at, flows, Some(1380)),
            Traffic::Tcp(flows) | Traffic::Merged(flows) => Flow::connections(from, to, at, flows, None),
        }
    }
}

/// Open sockets, and what one run of them sends.
pub(crate) enum Flow {
    Datagrams { sender: UdpSocket, receiver: UdpSocket, bursts: Vec<Vec<usize>> },
    Syns { sender: OwnedFd, receiver: OwnedFd, to: SockaddrIn, segment: Vec<u8> },
    Connections(Vec<(TcpStream, TcpStream)>),
}

impl Flow {
    fn pair(from: &Namespace, to: &Namespace, at: SocketAddr) -> Result<(UdpSocket, UdpSocket)> {
        let receiver = to.run(|| Ok(UdpSocket::bind(at)?))?;
        setsockopt(&receiver, sockopt::RcvBufForce, &(64 << 20))?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        let sender = from.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
            socket.connect(at)?;
            Ok(socket)
        })?;
        sender.set_read_timeout(Some(PATIENCE))?;
        // There and back: neighbours are known, connections established.
        let mut buffer = [0; 64];
        sender.send(b"there")?;
        let (_, peer) = receiver.recv_from(&mut buffer).context("a first datagram")?;
        receiver.send_to(b"back", peer)?;
        sender.recv(&mut buffer).context("a first answer")?;
        Ok((sender, receiver))
    }

    fn datagrams(
        from: &Namespace,
        to: &Namespace,
        at: SocketAddr,
        burst: Vec<usize>,
        times: usize,
    ) -> Result<Flow> {
        let (sender, receiver) = Flow::pair(from, to, at)?;
        Ok(Flow::Datagrams { sender, receiver, bursts: vec![burst; times] })
    }

    fn mix(from: &Namespace, to: &Namespace, at: SocketAddr) -> Result<Flow> {
        let (sender, receiver) = Flow::pair(from, to, at)?;
        let bursts = IMIX.iter().cycle().take(20 * IMIX.len()).map(|size| vec![*size]).collect();
        Ok(Flow::Datagrams { sender, receiver, bursts })
    }

    fn syns(from: &Namespace, to: &Namespace, address: Ipv4Addr) -> Result<Flow> {
        let open =
            || Ok(socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?);
        let (sender, receiver) = (from.run(open)?, to.run(open)?);
        setsockopt(&receiver, sockopt::RcvBufForce, &(64 << 20))?;
        setsockopt(&receiver, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE.as_secs() as i64))?;
        set_ip_mtu_discover(&sender, Ipv4PathMtuDiscovery::PROBE)?;
        // The far host's own TCP would answer with RSTs.
        to.output("nft", &["add table ip quiet"])?;
        to.output("nft", &["add chain ip quiet out { type filter hook output priority 0; }"])?;
        to.output("nft", &["add rule ip quiet out tcp flags rst drop"])?;
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(address, 0));
        Ok(Flow::Syns { sender, receiver, to, segment: syn([198, 18, 1, 2], address.octets()) })
    }

    fn connections(
        from: &Namespace,
        to: &Namespace,
        at: SocketAddr,
        flows: usize,
        mss: Option<u32>,
    ) -> Result<Flow> {
        let listener = to.run(|| Ok(TcpListener::bind(at)?))?;
        setsockopt(&listener, sockopt::RcvBuf, &BUFFER)?;
        for host in [from, to] {
            host.sysctl("ipv4/tcp_slow_start_after_idle", "0")?;
        }
        let connect = |_| -> Result<_> {
            let near = from.run(|| {
                let near = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
                setsockopt(&near, sockopt::SndBuf, &BUFFER)?;
                if let Some(mss) = mss {
                    setsockopt(&near, sockopt::TcpMaxSeg, &mss)?;
                }
                nix::sys::socket::connect(near.as_raw_fd(), &SockaddrIn::from(v4(at)?))?;
                Ok(TcpStream::from(near))
            })?;
            let (far, _) = listener.accept()?;
            far.set_read_timeout(Some(PATIENCE))?;
            near.set_write_timeout(Some(PATIENCE))?;
            Ok((near, far))
        };
        Ok(Flow::Connections((0..flows).map(connect).collect::<Result<_>>()?))
    }

    /// Sends everything once and waits for it. Answers how many datagrams or full segments arrived.
    pub(crate) fn run(&mut self) -> Result<u64> {
        let delivered = match self {
            Flow::Datagrams { sender, receiver, bursts } => datagrams(sender, receiver, bursts),
            Flow::Syns { sender, receiver, to, segment } => syns(sender, receiver, to, segment),
            Flow::Connections(connections) => bytes(connections),
        };
        work_for("bench");
        delivered
    }
}

fn v4(at: SocketAddr) -> Result<std::net::SocketAddrV4> {
    match at {
        SocketAddr::V4(at) => Ok(at),
        SocketAddr::V6(_) => anyhow::bail!("{at}: not IPv4"),
    }
}

fn datagrams(sender: &UdpSocket, receiver: &UdpSocket, bursts: &[Vec<usize>]) -> Result<u64> {
    let (payload, mut buffer) = ([0x5a; 1500], [0; 2048]);
    for burst in bursts {
        work_for("sender");
        for size in burst {
            sender.send(&payload[..size - HEADERS])?;
        }
        work_for("receiver");
        for size in burst {
            let length = receiver.recv(&mut buffer).context("a datagram is lost")?;
            ensure!(length == size - HEADERS, "{length} bytes arrive in the place of {}", size - HEADERS);
        }
    }
    Ok(bursts.iter().map(Vec::len).sum::<usize>() as u64)
}

fn syns(sender: &OwnedFd, receiver: &OwnedFd, to: &SockaddrIn, segment: &[u8]) -> Result<u64> {
    const TIMES: u64 = 256;
    let mut buffer = [0; 256];
    for _ in 0..TIMES {
        work_for("sender");
        sendto(sender.as_raw_fd(), segment, to, MsgFlags::empty())?;
        work_for("receiver");
        recv(receiver.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("a SYN is lost")?;
    }
    Ok(TIMES)
}

fn bytes(connections: &mut [(TcpStream, TcpStream)]) -> Result<u64> {
    let data = vec![0x5a; WRITE];
    let mut buffer = vec![0; WRITE];
    let writes = WRITES.div_ceil(connections.len()).max(4);
    for _ in 0..writes {
        work_for("sender");
        for (near, _) in &mut *connections {
            near.write_all(&data)?;
        }
        work_for("receiver");
        for (_, far) in &mut *connections {
            far.read_exact(&mut buffer).context("a connection stands still")?;
        }
    }
    Ok((writes * connections.len() * WRITE / SEGMENT) as u64)
}

/// A SYN to a port where nobody listens: MSS, SACK, time stamps, NOP and window scale.
fn syn(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut segment = vec![0x30, 0x39, 0x1b, 0x59, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 2, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend([2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
    let pseudo = [&from[..], &to[..], &[0, 6, 0, segment.len() as u8]].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let sum: u32 = words.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    segment[16..18].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    segment
}
