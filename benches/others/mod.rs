//! The same fragments by other libraries, in the shortest way that their interfaces have.
//!
//! Neither has a function for a datagram that was received: **etherparse** reads and writes
//! headers, and the cutting is the caller's; **smoltcp** fragments what a socket of its own
//! sends, so that the data is copied into the socket, into the fragmentation buffer, and out of
//! it. It is a UDP socket whose checksum is left to hardware, because 0.12 cannot fragment what
//! a raw socket sends.

use etherparse::{IpFragOffset, Ipv4Header};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::udp::{self, PacketBuffer, PacketMetadata};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Address};
use xdpfrag::packet::Sink;

use crate::common::Slab;

const LINK: usize = 14;

/// Parses the header, and writes each fragment's with a checksum of its own. Returns how many.
pub(crate) fn etherparse(frame: &[u8], mtu: usize, slab: &mut Slab) -> usize {
    let (link, packet) = frame.split_at(LINK);
    let (mut header, payload) = Ipv4Header::from_slice(packet).expect("a sound header");
    let share = (mtu - header.header_len()) / 8 * 8;
    header.dont_fragment = false;
    header.identification = header.identification.wrapping_add(1);
    let mut fragments = 0;
    for data in payload.chunks(share) {
        header.fragment_offset = IpFragOffset::try_new((fragments * share / 8) as u16).expect("13 bits");
        fragments += 1;
        header.more_fragments = fragments * share < payload.len();
        header.total_len = (header.header_len() + data.len()) as u16;
        header.header_checksum = header.calc_header_checksum();
        let out = slab.push(LINK + header.header_len() + data.len());
        out[..LINK].copy_from_slice(link);
        out[LINK..][..header.header_len()].copy_from_slice(&header.to_bytes());
        out[LINK + header.header_len()..].copy_from_slice(data);
    }
    fragments
}

/// An interface of medium IP with one UDP socket. The Ethernet header is added by the device.
pub(crate) struct Smoltcp {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    mtu: usize,
}

impl Smoltcp {
    pub(crate) fn new(mtu: usize) -> Self {
        let mut device = Wire { link: &[0; LINK], slab: &mut Slab::new(), mtu, sent: 0 };
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::v4(198, 18, 0, 1), 24)).expect("room for one");
        });
        interface.routes_mut().add_default_ipv4_route(Ipv4Address::new(198, 18, 0, 2)).expect("room for one");
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; 4], vec![0; 16_384]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(12_345).expect("a port");
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(socket);
        Smoltcp { interface, sockets, socket, mtu }
    }

    /// Sends the data of the UDP datagram in `frame`. Returns how many fragments came out.
    pub(crate) fn fragment(&mut self, frame: &[u8], slab: &mut Slab) -> usize {
        let (link, packet) = frame.split_at(LINK);
        let peer = IpEndpoint::new(IpAddress::v4(198, 18, 0, 2), 12_346);
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.socket);
        socket.send_slice(&packet[28..], peer).expect("the buffer is empty");
        let mut device = Wire { link, slab, mtu: self.mtu, sent: 0 };
        // One fragment a poll, until nothing is left.
        let mut before = usize::MAX;
        while before != device.sent {
            before = device.sent;
            self.interface.poll(Instant::ZERO, &mut device, &mut self.sockets);
        }
        device.sent
    }
}

/// Puts what is sent into the slab, behind an Ethernet header.
struct Wire<'a> {
    link: &'a [u8],
    slab: &'a mut Slab,
    mtu: usize,
    sent: usize,
}

impl Device for Wire<'_> {
    type RxToken<'a>
        = Nothing
    where
        Self: 'a;
    type TxToken<'a>
        = Send<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Nothing, Send<'_>)> {
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Send<'_>> {
        Some(Send { link: self.link, slab: self.slab, sent: &mut self.sent })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum.udp = Checksum::None;
        capabilities
    }
}

struct Nothing;

impl RxToken for Nothing {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&[])
    }
}

struct Send<'a> {
    link: &'a [u8],
    slab: &'a mut Slab,
    sent: &'a mut usize,
}

impl TxToken for Send<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        *self.sent += 1;
        let out = self.slab.push(LINK + len);
        out[..LINK].copy_from_slice(self.link);
        f(&mut out[LINK..])
    }
}
