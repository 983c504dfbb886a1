//! Numbered UDP datagrams and the sockets for them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

use super::{bind, byte};

/// Bytes of a datagram's number at its start; a shorter datagram carries as many as fit.
const NUMBER: usize = 8;

/// Datagram `number` of a flow, `size` bytes long.
pub(super) fn numbered(number: usize, size: usize) -> Vec<u8> {
    let mut datagram: Vec<u8> = (0..size).map(|at| byte(number as u64, at as u64)).collect();
    for (to, from) in datagram.iter_mut().zip((number as u64).to_le_bytes()) {
        *to = from;
    }
    datagram
}

/// The number that a datagram claims; `None` if it is too short to hold one.
pub(super) fn number(datagram: &[u8]) -> Option<usize> {
    let number = datagram.first_chunk::<NUMBER>()?;
    Some(usize::try_from(u64::from_le_bytes(*number)).unwrap_or(usize::MAX))
}

/// A socket that sends to hosts of the IP version of `to`: DF on every datagram, ICMP 3/4 and cached path MTUs ignored
/// (ip(7), ipv6(7)).
pub(super) fn sender(to: SocketAddr) -> Result<UdpSocket> {
    if to.is_ipv4() {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
        Ok(socket)
    } else {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
        Ok(socket)
    }
}

/// A socket that receives at `at`, with room for a burst; it looks up every 20 ms.
pub(super) fn receiver(at: SocketAddr) -> Result<UdpSocket> {
    let socket = bind(|| UdpSocket::bind(at))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}
