//! nftables over netlink: the ruleset as the kernel has it, and a table that lives as long as its socket.

mod expression;
mod message;
pub mod ruleset;
mod table;

use std::io;
use std::os::fd::AsFd;

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_XFRM};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::changes;

pub use ruleset::Ruleset;
pub use table::{Table, Untracked};

/// NFNLGRP_NFTABLES of `linux/netfilter/nfnetlink.h` and XFRMNLGRP_POLICY of `linux/xfrm.h`.
const GROUPS: [(isize, u32); 2] = [(NETLINK_NETFILTER, 7), (NETLINK_XFRM, 4)];

/// Listens for changes of the ruleset and of XFRM policies. It says *that* something changed, not what.
#[derive(Debug)]
pub struct Monitor {
    sockets: Vec<Socket>,
}

impl Monitor {
    /// Subscribes to what the kernel has of the two, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN.
    pub fn open() -> io::Result<Monitor> {
        let mut sockets = Vec::new();
        for (protocol, group) in GROUPS {
            match changes::open(protocol, &[group]) {
                Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {}
                socket => sockets.push(socket?),
            }
        }
        Ok(Monitor { sockets })
    }

    /// Sleeps until something changes.
    ///
    /// # Errors
    /// If the kernel ends the subscription.
    pub fn wait(&mut self) -> io::Result<()> {
        let mut ready: Vec<_> =
            self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.sockets.iter().try_for_each(changes::drain)
    }
}
