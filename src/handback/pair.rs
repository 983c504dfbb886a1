//! A veth pair with one end in the caller's network namespace and one in a private one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread::sleep;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

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
    netlink: Socket,
    /// Index of the near end.
    pub(super) ifindex: u32,
}

impl VethPair {
    /// Makes the pair, both ends down and with IPv6 off, so that the kernel sends nothing through it.
    pub(super) fn create(name: &str, mtu: u32, far: &PrivateNs) -> io::Result<VethPair> {
        far.run(|| disable_ipv6("default"))??;
        let netlink = netlink()?;
        let mut attempt = 0;
        while let Err(error) = new_link(&netlink, name, mtu, far.as_fd()) {
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
    pub(super) fn up(&self, far: &PrivateNs) -> io::Result<()> {
        set_up(&self.netlink, self.ifindex)?;
        far.run(|| set_up(&netlink()?, nix::net::if_::if_nametoindex(FAR_NAME)?))?
    }
}

impl Drop for VethPair {
    fn drop(&mut self) {
        let mut message = LinkMessage::default();
        message.header.index = self.ifindex;
        // If somebody deleted it before us there is nothing left to do.
        let _ = request(&self.netlink, RouteNetlinkMessage::DelLink(message), 0);
    }
}

fn new_link(netlink: &Socket, name: &str, mtu: u32, far: BorrowedFd<'_>) -> io::Result<()> {
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
    request(netlink, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
}

fn set_up(netlink: &Socket, ifindex: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    request(netlink, RouteNetlinkMessage::SetLink(message), 0)
}

/// In the namespace of the calling thread. No such file: a kernel without IPv6.
fn disable_ipv6(interface: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn netlink() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends one request and waits for its acknowledgement (rtnetlink(7)).
fn request(socket: &Socket, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    header.sequence_number = 1;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        NetlinkPayload::Error(_) => Ok(()),
        other => Err(io::Error::other(format!("rtnetlink answered {other:?}"))),
    }
}
