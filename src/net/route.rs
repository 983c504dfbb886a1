//! The path to a destination.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::links;
use super::netlink::Connection;

/// MTU of the path to `destination`, bytes: what path MTU discovery learnt or the route says, or that of
/// the interface. `None` without a route.
pub fn path_mtu(destination: IpAddr) -> io::Result<Option<u32>> {
    let mut request = RouteMessage::default();
    let (family, len, address) = match destination {
        IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
    };
    request.header.address_family = family;
    request.header.destination_prefix_length = len;
    request.attributes.push(RouteAttribute::Destination(address));
    let answer = match Connection::open(NETLINK_ROUTE)?.request(RouteNetlinkMessage::GetRoute(request)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
            return Ok(None);
        }
        answer => answer?,
    };
    let (mut interface, mut mtu) = (None, None);
    for message in answer {
        let RouteNetlinkMessage::NewRoute(route) = message else { continue };
        for attribute in route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => interface = Some(index),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
    }
    if mtu.is_none() && interface.is_some() {
        mtu = links::all()?.into_iter().find(|link| Some(link.index) == interface).map(|link| link.mtu);
    }
    Ok(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_to_oneself_is_the_loopbacks() {
        let lo = links::find("lo").unwrap().unwrap();
        assert_eq!(path_mtu("127.0.0.1".parse().unwrap()).unwrap(), Some(lo.mtu));
    }
}
