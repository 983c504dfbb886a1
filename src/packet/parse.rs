//! From a frame to the packet in it, or to the reason why the kernel gets it as it is.

use std::net::IpAddr;

use super::ether::{self, EthernetFrame};
use super::ipv4::Ipv4Packet;
use super::ipv6::Ipv6Packet;
use super::reason::Reason;

/// A unicast packet whose header agrees with the frame.
#[derive(Debug, Clone, Copy)]
pub enum Packet<'a> {
    /// IPv4.
    V4(Ipv4Packet<'a>),
    /// IPv6.
    V6(Ipv6Packet<'a>),
}

impl Packet<'_> {
    /// Source address.
    #[inline]
    pub fn source(&self) -> IpAddr {
        match self {
            Packet::V4(packet) => packet.source().into(),
            Packet::V6(packet) => packet.source().into(),
        }
    }

    /// Destination address: what the rule is looked up by, above all.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        match self {
            Packet::V4(packet) => packet.destination().into(),
            Packet::V6(packet) => packet.destination().into(),
        }
    }
}

/// The packet in `frame`, or why the frame is passed: `Malformed`, `NotIp` or `Group`.
///
/// [`Transform::apply`](super::Transform::apply) begins with it, and so does who looks up the
/// rule of a destination. The XDP program asks in the same order.
#[inline]
pub fn parse(frame: &[u8]) -> Result<(EthernetFrame<'_>, Packet<'_>), Reason> {
    let link = EthernetFrame::new_checked(frame).ok_or(Reason::Malformed)?;
    if link.ethertype() != ether::IPV4 && link.ethertype() != ether::IPV6 {
        return Err(Reason::NotIp);
    }
    if link.is_group() {
        return Err(Reason::Group);
    }
    Ok((link, packet(link.ethertype(), link.payload())?))
}

/// The packet at the start of `bytes`, of the protocol that `ethertype` names, or why it is passed: see [`parse`].
#[inline]
pub fn packet(ethertype: u16, bytes: &[u8]) -> Result<Packet<'_>, Reason> {
    let (packet, group) = match ethertype {
        ether::IPV4 => {
            let packet = Ipv4Packet::new_checked(bytes).ok_or(Reason::Malformed)?;
            let destination = packet.destination();
            (Packet::V4(packet), destination.is_multicast() || destination.is_broadcast())
        }
        ether::IPV6 => {
            let packet = Ipv6Packet::new_checked(bytes).ok_or(Reason::Malformed)?;
            (Packet::V6(packet), packet.destination().is_multicast())
        }
        _ => return Err(Reason::NotIp),
    };
    if group { Err(Reason::Group) } else { Ok(packet) }
}
