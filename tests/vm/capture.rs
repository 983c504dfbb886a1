//! What a router sends on its interfaces, by an AF_PACKET socket that sees all of its namespace.

use std::fs::File;
use std::io::BufWriter;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use pcap_file::pcap::{PcapPacket, PcapWriter};
use xdpfrag::lab::Namespace;

/// PACKET_OUTGOING of `linux/if_packet.h`.
const OUTGOING: u8 = 4;

/// A capture of one namespace. If the test fails, it ends up as a pcap file in the shared directory.
#[derive(Debug)]
pub(crate) struct Capture {
    name: String,
    socket: OwnedFd,
    lan: usize,
    wan: usize,
    packets: Mutex<Vec<Packet>>,
}

/// A packet that the router sent.
#[derive(Debug, Clone)]
struct Packet {
    interface: usize,
    frame: Vec<u8>,
}

/// What left the router on the WAN.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wan {
    /// Packets with ESP, in UDP or not; fragments of them count as well.
    pub(crate) esp: usize,
    /// Those that are fragments.
    pub(crate) fragments: usize,
    /// IP length of the longest, bytes.
    pub(crate) longest: usize,
    /// Packets that should have been encrypted.
    pub(crate) clear: usize,
}

impl Capture {
    pub(crate) fn start(namespace: &Namespace) -> Result<Capture> {
        let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
        namespace.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
            Ok(Capture {
                name: format!("{test}-{}", namespace.name()),
                socket,
                lan: if_nametoindex("eth1")? as usize,
                wan: if_nametoindex("wan0")? as usize,
                packets: Mutex::default(),
            })
        })
    }

    /// Collects what has been sent; a little later, for what is still on its way.
    fn collect(&self) -> Vec<Packet> {
        std::thread::sleep(Duration::from_millis(100));
        let mut buffer = vec![0; 65536];
        let mut packets = self.packets.lock().unwrap();
        while let Ok((len, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            let Some(from) = from.filter(|from| from.pkttype() == OUTGOING) else { continue };
            packets.push(Packet { interface: from.ifindex(), frame: buffer[..len].to_vec() });
        }
        packets.clone()
    }

    /// Forgets what has been sent.
    pub(crate) fn reset(&self) {
        self.collect();
        self.packets.lock().unwrap().clear();
    }

    /// The MTU in the last ICMP 3/4 that the router sent to its LAN.
    pub(crate) fn icmp_mtu(&self) -> Option<u16> {
        let on_lan = |packet: Packet| (packet.interface == self.lan).then_some(packet.frame);
        let frames = self.collect().into_iter().filter_map(on_lan);
        frames.filter_map(|frame| too_big(&frame)).last()
    }

    pub(crate) fn wan(&self) -> Wan {
        let mut wan = Wan::default();
        for packet in self.collect().into_iter().filter(|packet| packet.interface == self.wan) {
            wan.add(&packet.frame);
        }
        wan
    }

    fn save(&self, directory: &Path) -> Result<()> {
        let path = directory.join(format!("{}.pcap", self.name));
        let mut writer =
            PcapWriter::new(BufWriter::new(File::create(&path).context(format!("{}", path.display()))?))?;
        for Packet { frame, .. } in self.collect() {
            writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame))?;
        }
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Some(directory) = std::env::var_os("XDPFRAG_VM_SHARED")
            && let Err(error) = self.save(Path::new(&directory))
        {
            eprintln!("{}: no pcap: {error:#}", self.name);
        }
    }
}

impl Wan {
    fn add(&mut self, frame: &[u8]) {
        let (protocol, fragment, len, inner) = match frame[12..14] {
            [0x08, 0x00] => {
                let field = |at: usize| u16::from_be_bytes([frame[14 + at], frame[15 + at]]);
                // 198.18.0.0/15 is behind the routers.
                (
                    frame[23],
                    field(6) & 0x3fff != 0,
                    field(2).into(),
                    frame[26] == 198 && frame[27] & 0xfe == 18,
                )
            }
            [0x86, 0xdd] => {
                let payload = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
                // A fragment header is the first of the extension headers here.
                (frame[20], frame[20] == 44, payload + 40, false)
            }
            _ => return,
        };
        self.clear += usize::from(inner);
        // ESP, UDP, or a fragment of IPv6, which may be of either.
        if matches!(protocol, 50 | 17 | 44) {
            self.esp += 1;
            self.fragments += usize::from(fragment);
            self.longest = self.longest.max(len);
        }
    }
}

/// The MTU in an ICMP 3/4 (RFC 1191 section 4).
fn too_big(frame: &[u8]) -> Option<u16> {
    let icmp = frame.get(34..42)?;
    let is = frame[12..14] == [0x08, 0x00] && frame[23] == 1 && icmp[..2] == [3, 4];
    is.then(|| u16::from_be_bytes([icmp[6], icmp[7]]))
}
