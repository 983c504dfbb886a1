//! This machine's own addresses, and the news that they or the interfaces changed.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::BitOrAssign;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::netlink::{Connection, parse};

/// Every address that the kernel takes for its own: primary, secondary and IPv4 broadcast addresses of
/// every interface, link-local ones included.
pub fn local() -> io::Result<BTreeSet<IpAddr>> {
    // AF_UNSPEC asks for both families.
    let request = AddressMessage::default();
    let messages = Connection::open(NETLINK_ROUTE)?.dump(RouteNetlinkMessage::GetAddress(request))?;
    let mut addresses = BTreeSet::new();
    for message in messages {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        addresses.extend(own(&message.attributes));
    }
    Ok(addresses)
}

/// The first IPv6 address that somebody gave one of these interfaces for hosts beyond the link; not one that a router's
/// advertisement or DHCP gave it, for then the router is another.
pub fn routed_ipv6(interfaces: &[u32]) -> io::Result<Option<Ipv6Addr>> {
    let request = AddressMessage::default();
    let messages = Connection::open(NETLINK_ROUTE)?.dump(RouteNetlinkMessage::GetAddress(request))?;
    for message in messages {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        if !message.header.flags.contains(AddressHeaderFlags::Permanent)
            || !interfaces.contains(&message.header.index)
        {
            continue;
        }
        let routed = own(&message.attributes).into_iter().find_map(|address| match address {
            IpAddr::V6(address) if !address.is_unicast_link_local() && !address.is_loopback() => {
                Some(address)
            }
            _ => None,
        });
        if routed.is_some() {
            return Ok(routed);
        }
    }
    Ok(None)
}

/// IFA_LOCAL is the address itself; IFA_ADDRESS is then the other end of a point-to-point interface.
/// IPv6 leaves IFA_LOCAL out unless there is such an end (`inet6_fill_ifaddr()`).
fn own(attributes: &[AddressAttribute]) -> Vec<IpAddr> {
    let mut own = Vec::new();
    let mut address = None;
    for attribute in attributes {
        match attribute {
            AddressAttribute::Local(local) => own.push(*local),
            AddressAttribute::Broadcast(broadcast) => own.push((*broadcast).into()),
            AddressAttribute::Address(found) => address = Some(*found),
            _ => {}
        }
    }
    if own.is_empty() {
        own.extend(address.filter(IpAddr::is_ipv6));
    }
    own
}

/// What changed since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Addresses came or went: read [`local`] again.
    pub addresses: bool,
    /// Interfaces came, went or changed (state, MTU, ...): read them again.
    pub links: bool,
}

impl Changes {
    /// True if anything changed.
    pub fn is_any(self) -> bool {
        self.addresses || self.links
    }
}

impl BitOrAssign for Changes {
    fn bitor_assign(&mut self, other: Changes) {
        self.addresses |= other.addresses;
        self.links |= other.links;
    }
}

/// Listens for changes of addresses and of interfaces.
///
/// It says *that* something changed, not what: the reader looks at the whole state again, so that a
/// lost message cannot make the two disagree.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Subscribes. Changes from now on are reported, so read the state after this.
    pub fn open() -> io::Result<Monitor> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        socket.add_membership(libc::RTNLGRP_LINK)?;
        socket.add_membership(libc::RTNLGRP_IPV4_IFADDR)?;
        socket.add_membership(libc::RTNLGRP_IPV6_IFADDR)?;
        Ok(Monitor { socket })
    }

    /// Everything that changed since the last call; does not wait. Poll the descriptor to wait.
    pub fn changes(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        loop {
            let datagram = match self.socket.recv_from_full() {
                Ok((datagram, _)) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The socket buffer overflowed: anything may have changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changes = Changes { addresses: true, links: true };
                    continue;
                }
                Err(error) => return Err(error),
            };
            // A message that this version cannot read is a change all the same.
            let Ok(messages) = parse::<RouteNetlinkMessage>(&datagram) else {
                changes = Changes { addresses: true, links: true };
                continue;
            };
            for message in messages {
                use netlink_packet_core::NetlinkPayload::InnerMessage;
                match message.payload {
                    InnerMessage(RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_)) => {
                        changes.addresses = true;
                    }
                    InnerMessage(RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_)) => {
                        changes.links = true;
                    }
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_end_of_a_point_to_point_link_is_not_ours() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let attributes = [
            AddressAttribute::Address(ip("198.18.0.2")),
            AddressAttribute::Local(ip("198.18.0.1")),
            AddressAttribute::Broadcast([198, 18, 0, 255].into()),
        ];
        assert_eq!(own(&attributes), ["198.18.0.1", "198.18.0.255"].map(ip));
        let far = AddressAttribute::Address(ip("2001:db8::2"));
        assert_eq!(own(&[far.clone(), AddressAttribute::Local(ip("2001:db8::1"))]), [ip("2001:db8::1")]);
        assert_eq!(own(&[far]), [ip("2001:db8::2")]);
    }
}
