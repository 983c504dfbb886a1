//! News of everything that decides which packets go into which tunnel, and what fits.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

/// Multicast groups of `linux/xfrm.h`: soft and hard expiry, SAs, policies, migration, NAT mappings.
const XFRM_GROUPS: [u32; 5] = [2, 3, 4, 7, 8];
/// Those of `linux/rtnetlink.h`.
const ROUTE_GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
];

/// A burst is over after this much silence ...
const SILENCE: u8 = 5;
/// ... and reported after this time at the latest.
const BURST: Duration = Duration::from_millis(50);

/// Listens for changes of SAs, policies, interfaces, addresses, routes and rules.
///
/// It says *that* something changed, not what: the reader looks at the whole state again, so that a lost
/// message cannot make the two disagree.
#[derive(Debug)]
pub struct Changes {
    sockets: Vec<Socket>,
}

impl Changes {
    /// Subscribes. Changes from now on are reported, so read the state after this. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// EPROTONOSUPPORT if the kernel has no XFRM, unless that may be `absent`.
    pub fn open(absent: bool) -> io::Result<Changes> {
        let mut sockets = vec![open(NETLINK_ROUTE, &ROUTE_GROUPS)?];
        match open(NETLINK_XFRM, &XFRM_GROUPS) {
            Err(error) if absent && error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {}
            socket => sockets.push(socket?),
        }
        Ok(Changes { sockets })
    }

    /// Sleeps until something changes, and on until the burst is over.
    ///
    /// # Errors
    /// If the kernel ends the subscription.
    pub fn wait(&mut self) -> io::Result<()> {
        let mut first: Option<Instant> = None;
        loop {
            let timeout = if first.is_some() { PollTimeout::from(SILENCE) } else { PollTimeout::NONE };
            let mut ready: Vec<_> =
                self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut ready, timeout) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            for socket in &self.sockets {
                drain(socket)?;
            }
            if first.get_or_insert_with(Instant::now).elapsed() >= BURST {
                return Ok(());
            }
        }
    }
}

/// A socket of `protocol` that hears `groups`, in the network namespace of the calling thread.
pub(super) fn open(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(socket)
}

/// Throws away what has arrived: one byte of each message, keys of SAs among them, is read.
pub(super) fn drain(socket: &Socket) -> io::Result<()> {
    loop {
        match recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            // The socket buffer overflowed: some messages are lost, the news is not.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
