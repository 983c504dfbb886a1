//! A veth pair with one end in the caller's network namespace and one in a private one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread::sleep;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::net::netlink::Connection;
use crate::net::private_ns::PrivateNs;

/// Name of the end in the private namespace, where it is alone.
pub(super) const FAR_NAME: &str = "xf";
/// A pair of an earlier process goes with its namespace, asynchronously.
const CREATE_ATTEMPTS: u32 = 500;
const CREATE_PAUSE: Duration = Duration::from_millis(2);

/// The pair; dropping it deletes both ends.
#[derive(Debug)]
pub(super) struct VethPair {
    // The netlink socket belongs to the namespace it was opened in, wherever the pair is dropped.
    netlink: Connection,
    /// Index of the near end.
    pub(super) ifindex: u32,
}

impl VethPair {
    /// Makes the pair, both ends down and with IPv6 off, so that the kernel sends nothing through it.
    pub(super) fn create(name: &str, mtu: u32, far: &PrivateNs) -> io::Result<VethPair> {
        far.run(|| disable_ipv6("default"))??;
        let mut netlink = Connection::open(NETLINK_ROUTE)?;
        let mut attempt = 0;
        while let Err(error) = new_link(&mut netlink, name, mtu, far.as_fd()) {
            attempt += 1;
            if error.raw_os_error() != Some(libc::EEXIST) || attempt == CREATE_ATTEMPTS {
                return Err(error);
            }
            sleep(CREATE_PAUSE);
        }
        let ifindex = nix::net::if_::if_nametoindex(name)?;
        let pair = VethPair { netlink, ifindex };
        disable_ipv6(name)?;
        Ok(pair)
    }

    /// Sets both ends up.
    pub(super) fn up(&mut self, far: &PrivateNs) -> io::Result<()> {
        set_up(&mut self.netlink, self.ifindex)?;
        far.run(|| set_up(&mut Connection::open(NETLINK_ROUTE)?, nix::net::if_::if_nametoindex(FAR_NAME)?))?
    }
}

impl Drop for VethPair {
    fn drop(&mut self) {
        let mut message = LinkMessage::default();
        message.header.index = self.ifindex;
        // If somebody deleted it before us there is nothing left to do.
        let _ = self.netlink.request(RouteNetlinkMessage::DelLink(message));
    }
}

fn new_link(netlink: &mut Connection, name: &str, mtu: u32, far: BorrowedFd<'_>) -> io::Result<()> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(FAR_NAME.into()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NetNsFd(far.as_raw_fd()),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    netlink.request_with(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL).map(|_| ())
}

/// Sets a device up.
pub(super) fn set_up(netlink: &mut Connection, ifindex: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    netlink.request(RouteNetlinkMessage::SetLink(message)).map(|_| ())
}

/// In the namespace of the calling thread. No such file: a kernel without IPv6.
pub(super) fn disable_ipv6(interface: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
