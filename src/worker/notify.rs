//! `--notify`: tells the sender of an oversize packet, which is forwarded all the same, what would have fitted.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::rate::RateLimit;
use crate::packet::{self, Packet, too_big};

/// BPF_RET | BPF_K: keep this many bytes of what arrives.
const RETURN: u16 = 0x06;
/// Internetwork control, as the kernel marks its own ICMP errors (RFC 1812 section 4.3.2.5).
const CONTROL: u32 = 0xc0;

/// Sends ICMP 3/4 (ICMPv6 2) to hosts whose packets are too big, at most one per host and second; shared by
/// the workers of a run.
///
/// The kernel routes the message and fills in its source address, as it does with its own. It exempts 3/4
/// from net.ipv4.icmp_ratelimit because without it the sender's packets are lost; here they are delivered.
#[derive(Debug)]
pub struct Notifier {
    icmp: Socket,
    icmp6: Option<Socket>,
    limit: RateLimit,
}

impl Notifier {
    /// Opens raw sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub fn open() -> io::Result<Notifier> {
        let icmp = send_only(Domain::IPV4, Protocol::ICMPV4)?;
        icmp.set_tos_v4(CONTROL)?;
        // A kernel without IPv6 has no oversize IPv6 either.
        let icmp6 = match send_only(Domain::IPV6, Protocol::ICMPV6) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            socket => Some(socket?),
        };
        Ok(Notifier { icmp, icmp6, limit: RateLimit::new() })
    }

    /// Tells the source of the packet in `frame`, which is longer than `mtu`, if it is its turn and may be
    /// told (RFC 1812 section 4.3.2.7). `now_ns` is CLOCK_MONOTONIC. Never blocks.
    ///
    /// `None` if nothing was due, else whether the kernel took the message. It is not tried again: the
    /// sender's next oversize packet is as good a reason.
    pub(super) fn tell(&self, frame: &[u8], mtu: u16, now_ns: u64) -> Option<io::Result<()>> {
        let (_, packet) = packet::parse(frame).ok()?;
        let (socket, source) = match &packet {
            Packet::V4(packet) => (&self.icmp, IpAddr::from(packet.source())),
            Packet::V6(packet) => (self.icmp6.as_ref()?, IpAddr::from(packet.source())),
        };
        if !too_big::may_notify(&packet) || !self.limit.allow(source, now_ns) {
            return None;
        }
        let mut message = [0; too_big::MAX_LEN];
        let len = too_big::write(&packet, mtu, &mut message);
        Some(socket.send_to(&message[..len], &SocketAddr::new(source, 0).into()).map(drop))
    }
}

/// A raw socket that never receives: its filter refuses everything.
fn send_only(domain: Domain, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
    Ok(socket)
}
