//! Routes: where packets go, and what fits on the way.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType,
};
use netlink_packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::links::Link;
use super::netlink::Connection;

/// Where one of a route's hops leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Index of the out-device.
    pub oif: u32,
    /// MTU that the route sets, bytes.
    pub mtu: Option<u32>,
}

/// A route of some table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination prefix.
    pub destination: IpNet,
    /// Source prefix (IPv6 only).
    pub source: Option<IpNet>,
    /// True for addresses of this machine, broadcast ones included.
    pub local: bool,
    /// Where it leads; nowhere, if it says that there is no way.
    pub hops: Vec<Hop>,
    /// It leads into a tunnel that the route itself describes (`encap`).
    pub encap: bool,
}

/// A rule that chooses routing tables, as far as this program minds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// For IPv4.
    pub v4: bool,
    /// Source prefix that it asks for.
    pub source: Option<IpNet>,
    /// Destination prefix that it asks for.
    pub destination: Option<IpNet>,
    /// It asks for a mark, a protocol or ports, of which the routing table does not tell.
    pub more: bool,
}

impl Hop {
    /// MTU of the path that begins with it, bytes: what path MTU discovery learnt or the route says, or that of its
    /// interface, one of `links`.
    pub fn path_mtu<'a>(&self, links: impl IntoIterator<Item = &'a Link>) -> Option<u32> {
        self.mtu.or_else(|| links.into_iter().find(|link| link.index == self.oif).map(|link| link.mtu))
    }
}

/// The first hop to `destination`; `None` without a route. A source (an address of this machine) and a mark count where
/// policy routing asks for them.
pub fn first_hop(destination: IpAddr, source: Option<IpAddr>, mark: u32) -> io::Result<Option<Hop>> {
    let mut request = request(destination);
    if let Some(source) = source {
        request.header.source_prefix_length = if source.is_ipv4() { 32 } else { 128 };
        request.attributes.push(RouteAttribute::Source(address(source)));
    }
    if mark != 0 {
        request.attributes.push(RouteAttribute::Mark(mark));
    }
    Ok(ask(request)?.and_then(|route| route.hops.first().copied()))
}

/// The hops of packets from `source` to `destination` that `iif` receives; none if the kernel drops them (no
/// route, or a source that does not belong there) or they are for this machine.
pub fn forward(iif: u32, source: IpAddr, destination: IpAddr) -> io::Result<Option<Route>> {
    let mut request = request(destination);
    request.header.flags = RouteFlags::FibMatch;
    request.header.source_prefix_length = if source.is_ipv4() { 32 } else { 128 };
    request.attributes.push(RouteAttribute::Source(address(source)));
    request.attributes.push(RouteAttribute::Iif(iif));
    Ok(ask(request)?.filter(|route| !route.local))
}

/// Every route of every table.
pub fn all() -> io::Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        routes.extend(dump(RouteNetlinkMessage::GetRoute(request))?.into_iter().filter_map(route));
    }
    Ok(routes)
}

/// Every rule of policy routing.
pub fn rules() -> io::Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RuleMessage::default();
        request.header.family = family;
        rules.extend(dump(RouteNetlinkMessage::GetRule(request))?.into_iter().filter_map(rule));
    }
    Ok(rules)
}

/// All objects; none of a family that the kernel does not have (`ipv6.disable=1`, no policy routing).
fn dump(request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    match Connection::open(NETLINK_ROUTE)?.dump(request) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        answer => answer,
    }
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn request(destination: IpAddr) -> RouteMessage {
    let mut request = RouteMessage::default();
    (request.header.address_family, request.header.destination_prefix_length) = match destination {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request.attributes.push(RouteAttribute::Destination(address(destination)));
    request
}

/// The route that the kernel takes; `None` if it takes none: unreachable, prohibited (EACCES), a black hole or a
/// source that no host has (EINVAL), or one that comes from elsewhere (EXDEV, rp_filter).
fn ask(request: RouteMessage) -> io::Result<Option<Route>> {
    const NONE: [i32; 5] = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::EXDEV];
    match Connection::open(NETLINK_ROUTE)?.request(RouteNetlinkMessage::GetRoute(request)) {
        Err(error) if error.raw_os_error().is_some_and(|code| NONE.contains(&code)) => Ok(None),
        answer => Ok(answer?.into_iter().find_map(route)),
    }
}

fn route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = message.header;
    let any = crate::ipsec::scope::any(header.address_family == AddressFamily::Inet);
    let (mut destination, mut source) = (any, None);
    let (mut oif, mut mtu, mut encap, mut paths) = (None, None, false, Vec::new());
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                destination = net(&address, header.destination_prefix_length)?;
            }
            RouteAttribute::Source(address) => source = net(&address, header.source_prefix_length),
            RouteAttribute::Oif(index) => oif = Some(index),
            RouteAttribute::EncapType(_) => encap = true,
            RouteAttribute::MultiPath(hops) => paths = hops,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    encap |= paths
        .iter()
        .any(|hop| hop.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::EncapType(_))));
    let oifs = oif.into_iter().chain(paths.iter().map(|hop| hop.interface_index));
    let local = matches!(
        header.kind,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
    );
    let hops = match header.kind {
        RouteType::Unicast | RouteType::Local => oifs.map(|oif| Hop { oif, mtu }).collect(),
        _ => Vec::new(),
    };
    Some(Route { destination, source, local, hops, encap })
}

fn net(address: &RouteAddress, len: u8) -> Option<IpNet> {
    let address: IpAddr = match address {
        RouteAddress::Inet(address) => (*address).into(),
        RouteAddress::Inet6(address) => (*address).into(),
        _ => return None,
    };
    Some(IpNet::new(address, len).ok()?.trunc())
}

fn rule(message: RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = message else { return None };
    let v4 = message.header.family == AddressFamily::Inet;
    let mut rule = Rule { v4, ..Rule::default() };
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Source(address) => {
                rule.source = Some(IpNet::new(address, message.header.src_len).ok()?.trunc());
            }
            RuleAttribute::Destination(address) => {
                rule.destination = Some(IpNet::new(address, message.header.dst_len).ok()?.trunc());
            }
            // "Not from all fwmark M", as strongSwan has it: packets without a mark are meant.
            RuleAttribute::FwMark(_) => {
                rule.more |= !message.header.flags.contains(RuleFlags::Invert);
            }
            RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => rule.more = true,
            _ => {}
        }
    }
    rule.more |= message.header.tos != 0;
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::links;

    #[test]
    fn the_path_to_oneself_is_the_loopbacks() {
        let lo = links::find("lo").unwrap().unwrap();
        let hop = first_hop("127.0.0.1".parse().unwrap(), None, 0).unwrap().unwrap();
        assert_eq!(hop, Hop { oif: lo.index, mtu: None });
        assert_eq!(hop.path_mtu([&lo]), Some(lo.mtu));
        assert_eq!(hop.path_mtu([]), None);
        assert_eq!(Hop { mtu: Some(1400), ..hop }.path_mtu([&lo]), Some(1400));
    }

    #[test]
    fn the_loopbacks_addresses_are_in_a_table() {
        let lo = links::find("lo").unwrap().unwrap();
        if !lo.up {
            return;
        }
        let routes = all().unwrap();
        let own = routes.iter().find(|route| route.destination == "127.0.0.1/32".parse().unwrap()).unwrap();
        assert!(own.local && own.hops == [Hop { oif: 1, mtu: None }], "{own:?}");
        assert!(
            rules().unwrap().contains(&Rule { v4: true, ..Rule::default() }),
            "everything looks into some table"
        );
    }
}
