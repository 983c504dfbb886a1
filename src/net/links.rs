//! Network interfaces.

use std::io;
use std::path::Path;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoVti, InfoXfrm, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    XdpAttached,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Connection;

/// A network interface as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// MAC address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// True if its frames are Ethernet frames.
    pub ethernet: bool,
    /// True for `lo`.
    pub loopback: bool,
    /// Switched on by the administrator (IFF_UP).
    pub up: bool,
    /// Able to carry frames (IFF_LOWER_UP).
    pub carrier: bool,
    /// Kind of a virtual interface: `veth`, `vlan`, `bond`, ...; `None` for hardware.
    pub kind: Option<String>,
    /// Index of the bond, bridge or VRF that it belongs to.
    pub master: Option<u32>,
    /// Kind of that master, as it sees its members: `bridge`, `bond`, ...
    pub member_of: Option<String>,
    /// Index of the interface below it (a VLAN's parent) or opposite (a veth's peer).
    pub lower: Option<u32>,
    /// True if `lower` is in another network namespace.
    pub lower_elsewhere: bool,
    /// RX queues that the device was made with; see [`rx_queues`](super::ethtool::rx_queues) for those in use.
    pub rx_queues: u32,
    /// XDP program that is attached.
    pub xdp: Option<AttachedXdp>,
    /// What makes it an XFRM interface or a VTI.
    pub tunnel: Option<Tunnel>,
    /// Bus and device name of the hardware, such as `pci` and `0000:00:03.0`.
    pub parent_device: Option<(String, String)>,
}

/// An XDP program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachedXdp {
    /// Id of the BPF program.
    pub program_id: u32,
    /// `native`, `generic` or `offloaded`.
    pub mode: &'static str,
}

/// How an XFRM interface or a VTI finds its policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// XFRM interface: by this `if_id`, never 0.
    IfId(u32),
    /// VTI: by this mark (its output key).
    Mark(u32),
    /// XFRM interface that takes the `if_id` from each route (`external`).
    External,
}

impl Link {
    /// Name of the driver: the kind of a virtual interface, or what the device is bound to.
    pub fn driver(&self) -> Option<String> {
        if let Some(kind) = &self.kind {
            return Some(kind.clone());
        }
        // /sys/class/net shows the namespace of whoever mounted it; the bus shows all devices.
        let (bus, device) = self.parent_device.as_ref()?;
        let driver = Path::new("/sys/bus").join(bus).join("devices").join(device).join("driver");
        Some(std::fs::read_link(driver).ok()?.file_name()?.to_string_lossy().into_owned())
    }

    /// True if it is of `kind`.
    pub fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

/// The interface called `name`; `None` if there is none.
pub fn find(name: &str) -> io::Result<Option<Link>> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let answer = Connection::open(NETLINK_ROUTE)?.request(RouteNetlinkMessage::GetLink(request));
    match answer {
        Ok(messages) => Ok(messages.into_iter().find_map(link)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every interface of the namespace.
pub fn all() -> io::Result<Vec<Link>> {
    let messages =
        Connection::open(NETLINK_ROUTE)?.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(messages.into_iter().filter_map(link).collect())
}

/// Kinds of interfaces that take frames from the one below them and are other interfaces to the stack: a VLAN its tagged
/// ones, a macvlan (keepalived's `use_vmac`) those to its MAC address, an ipvlan those to its IP addresses.
const ABOVE: [&str; 3] = ["vlan", "macvlan", "ipvlan"];

/// The interfaces as which the kernel sees the frames of `below`, of `all`: first itself, then the bond, bridge or VRF that
/// it belongs to, its VLANs, macvlans and ipvlans, and theirs. A macvtap is none: what reads its frames is no part of the
/// stack.
pub fn faces(below: &Link, all: &[Link]) -> Vec<Link> {
    let mut faces = vec![below.clone()];
    let mut next = 0;
    while let Some(face) = faces.get(next).cloned() {
        next += 1;
        for link in all {
            let rests = ABOVE.iter().any(|kind| link.is(kind));
            let rests = rests && link.lower == Some(face.index) && !link.lower_elsewhere;
            let above = rests || face.master == Some(link.index);
            if above && faces.iter().all(|known| known.index != link.index) {
                faces.push(link.clone());
            }
        }
    }
    faces
}

/// Deletes the virtual interface with this index.
pub fn delete(index: u32) -> io::Result<()> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    Connection::open(NETLINK_ROUTE)?.request(RouteNetlinkMessage::DelLink(request)).map(|_| ())
}

fn link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    let (mut bus, mut device) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.lower = Some(index),
            LinkAttribute::LinkNetNsId(_) => link.lower_elsewhere = true,
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = queues,
            LinkAttribute::Xdp(attributes) => link.xdp = attached_xdp(&attributes),
            LinkAttribute::ParentDevBusName(name) => bus = Some(name),
            LinkAttribute::ParentDevName(name) => device = Some(name),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(data) => link.tunnel = tunnel(&data),
                        LinkInfo::PortKind(kind) => link.member_of = Some(kind.to_string()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link.parent_device = bus.zip(device);
    Some(link)
}

fn attached_xdp(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let mut mode = None;
    let mut program_id = 0;
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::None) => return None,
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some("generic"),
            LinkXdp::Attached(XdpAttached::Hardware) => mode = Some("offloaded"),
            LinkXdp::Attached(_) => mode = Some("native"),
            // With programs in several modes the kernel names them one by one only.
            LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) => program_id = *id,
            LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) if program_id == 0 => program_id = *id,
            _ => {}
        }
    }
    mode.map(|mode| AttachedXdp { program_id, mode })
}

fn tunnel(data: &InfoData) -> Option<Tunnel> {
    match data {
        InfoData::Xfrm(infos) => {
            let if_id = infos.iter().find_map(|info| match info {
                InfoXfrm::IfId(id) => Some(*id),
                _ => None,
            });
            Some(if_id.filter(|id| *id != 0).map_or(Tunnel::External, Tunnel::IfId))
        }
        InfoData::Vti(infos) => {
            let key = infos.iter().find_map(|info| match info {
                InfoVti::OKey(key) => Some(*key),
                _ => None,
            });
            Some(Tunnel::Mark(key.unwrap_or(0)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_has_a_loopback_interface() {
        let lo = find("lo").unwrap().unwrap();
        assert!(lo.loopback && !lo.ethernet && lo.index == 1, "{lo:?}");
        assert!(all().unwrap().contains(&lo));
    }

    #[test]
    fn an_unknown_interface_is_no_error() {
        assert_eq!(find("no-such-if").unwrap(), None);
    }

    #[test]
    fn a_port_is_seen_as_its_bridge_and_what_rests_on_them() {
        let link = |index, name: &str, master, on: Option<u32>| Link {
            index,
            name: name.into(),
            master,
            lower: on,
            kind: on.map(|_| "vlan".into()),
            ..Link::default()
        };
        let of = |kind: &str, link| Link { kind: Some(kind.into()), ..link };
        let all = [
            link(2, "eth1", Some(4), None),
            link(3, "eth2", Some(4), None),
            link(4, "bond0", Some(6), None),
            link(5, "bond0.7", None, Some(4)),
            link(6, "br0", None, None),
            link(7, "eth3.7", None, Some(8)),
            of("macvlan", link(10, "vrrp51", Some(14), Some(5))),
            of("ipvlan", link(11, "ipvl0", None, Some(2))),
            of("macvtap", link(12, "tap0", None, Some(2))),
            of("veth", link(13, "peer", None, Some(2))),
            of("vrf", link(14, "vrf0", None, None)),
        ];
        let names = |below: usize| -> Vec<String> {
            faces(&all[below], &all).into_iter().map(|face| face.name).collect()
        };
        assert_eq!(names(0), ["eth1", "bond0", "ipvl0", "bond0.7", "br0", "vrrp51", "vrf0"]);
        assert_eq!(names(4), ["br0"]);
        // The other end of a veth is no face of it, nor is what lies below in another namespace.
        let elsewhere = Link { lower_elsewhere: true, ..link(9, "eth1.9", None, Some(2)) };
        assert_eq!(faces(&all[0], &[elsewhere]).len(), 1);
    }

    #[test]
    fn several_xdp_programs_are_named_by_the_native_one() {
        let attributes =
            [LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::DrvProgId(7), LinkXdp::SkbProgId(8)];
        assert_eq!(attached_xdp(&attributes), Some(AttachedXdp { program_id: 7, mode: "native" }));
        assert_eq!(attached_xdp(&[LinkXdp::Attached(XdpAttached::None)]), None);
    }
}
