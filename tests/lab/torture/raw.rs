//! What neither std nor a kept crate does: frames as they are onto the wire, and a thread before all others.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, sendto, socket,
};
use xdpfrag::lab::topology::{APPLIANCE_MAC, LAN_MAC};

/// An Ethernet header from the appliance to the gateway.
pub(crate) fn ethernet(ether_type: u16) -> Vec<u8> {
    let mac = |text: &str| text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let (to, from): (Vec<u8>, Vec<u8>) = (mac(LAN_MAC), mac(APPLIANCE_MAC));
    [to, from, ether_type.to_be_bytes().to_vec()].concat()
}

/// A packet socket that sends.
pub(crate) struct RawSocket {
    socket: OwnedFd,
    to: LinkAddr,
}

impl RawSocket {
    /// Sends out of `interface` of the calling thread's network namespace.
    pub(crate) fn open(interface: &str) -> Result<RawSocket> {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: if_nametoindex(interface)? as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the pointer is to a whole address of the family that it names, which is copied.
        let to = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(len)) };
        Ok(RawSocket { socket, to: to.context("a link-layer address")? })
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) -> nix::Result<()> {
        sendto(self.socket.as_raw_fd(), frame, &self.to, MsgFlags::empty()).map(drop)
    }
}

/// Has the calling thread run whenever it wants to, before the workers.
pub(crate) fn before_all_others() -> std::io::Result<()> {
    let highest = libc::sched_param { sched_priority: 99 };
    // SAFETY: the kernel reads a whole struct through the pointer during the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const highest) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
