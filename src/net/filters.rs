//! Filters of traffic control.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Connection;

/// TC_H_MIN_INGRESS and TC_H_MIN_EGRESS of `linux/pkt_sched.h`.
const HOOKS: [u16; 2] = [0xfff2, 0xfff3];

/// True if the clsact qdisc of the interface has a filter.
///
/// # Errors
/// `ENODEV` without the interface.
pub fn on_clsact(ifindex: u32) -> io::Result<bool> {
    let index = i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let mut connection = Connection::open(NETLINK_ROUTE)?;
    for minor in HOOKS {
        let mut request = TcMessage::with_index(index);
        request.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
        if !connection.dump(RouteNetlinkMessage::GetTrafficFilter(request))?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
