//! Hand-back by a TAP device with `IFF_VNET_HDR`: what the kernel is to cut to the size of the SA. TCP segments of one flow
//! become one packet, so that the stack is crossed once for up to 64 KB; a UDP datagram stays one.
//!
//! What the device receives is redirected to the LAN interface's ingress, as with [`veth`](super::veth). The device goes
//! with its descriptor: after SIGKILL too.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use super::gather::Gather;
use super::pair::{disable_ipv6, set_up};
use super::redirect::attach_redirect;
use super::{Flushed, Handback, HandbackConfig, HandbackError, OpenError};
use crate::frame::Ledger;
use crate::net::netlink::Connection;
use crate::packet::{Datagram, Gathered, Segment, Sink};
use crate::xdp::sys::Link;

/// What makes them.
pub const DEVICE: &str = "/dev/net/tun";
/// Most segments and frames that can wait.
const FRAMES: usize = 512;

/// TAP hand-back of one worker.
#[derive(Debug)]
pub struct Tap {
    gather: Gather,
    device: File,
    _redirect: Option<Link>,
}

impl Tap {
    /// Makes the device and attaches the redirect.
    ///
    /// # Errors
    /// [`OpenError`] names the step.
    pub fn open(config: &HandbackConfig) -> Result<Tap, OpenError> {
        let step = |step| config.failed(step);
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
        let device = file.map_err(step("opening /dev/net/tun (mode 0666 on most systems)"))?;
        let name = make(&device, config.ifindex).map_err(step("making a TAP device"))?;
        let ifindex = nix::net::if_::if_nametoindex(name.as_str());
        let ifindex = ifindex.map_err(io::Error::from).map_err(step("finding the TAP device"))?;
        disable_ipv6(&name).map_err(step("switching IPv6 off on the TAP device"))?;
        let redirect =
            attach_redirect(ifindex, config, None).map_err(step("attaching the redirect program"))?;
        Connection::open(netlink_sys::protocols::NETLINK_ROUTE)
            .and_then(|mut netlink| set_up(&mut netlink, ifindex))
            .map_err(step("setting the TAP device up"))?;
        Ok(Tap {
            gather: Gather::new(FRAMES, config.max_frame, config.max_datagram),
            device,
            _redirect: redirect,
        })
    }
}

/// Makes `file` a TAP device, which lives as long as it is open; answers its name.
fn make(file: &File, lan: u32) -> io::Result<String> {
    // SAFETY: plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The kernel puts the first number that is free: another instance may be there yet.
    let pattern = format!("xdpfrag{lan:x}t%d");
    // At most 15 bytes, and a zero behind them.
    for (to, from) in request.ifr_name.iter_mut().zip(pattern.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes a struct ifreq.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte as u8));
    Ok(name.collect())
}

/// write(2) fails with an errno, whatever else [`io::Error`] could hold.
fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

impl Sink for Tap {
    #[inline]
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        self.gather.reserve(frames, len)
    }

    #[inline]
    fn push(&mut self, len: usize) -> &mut [u8] {
        self.gather.push(len)
    }

    #[inline]
    fn gathers(&self) -> bool {
        self.gather.gathers()
    }

    #[inline]
    fn gather(&mut self, segment: &Segment<'_>) -> Gathered {
        self.gather.gather(segment)
    }

    #[inline]
    fn takes_datagrams(&self) -> bool {
        true
    }

    #[inline]
    fn datagram(&mut self, datagram: &Datagram<'_>) -> Gathered {
        self.gather.datagram(datagram)
    }
}

impl Handback for Tap {
    fn flush(&mut self) -> Flushed {
        self.gather.seal();
        let mut lost = 0;
        while let Some(front) = self.gather.front() {
            match self.device.write_vectored(front.as_slice()).map_err(|error| errno(&error)) {
                Ok(_) => {
                    self.gather.pop();
                }
                // The kernel does not like this one packet.
                Err(Errno::EINVAL) => lost += self.gather.pop(),
                // Somebody set the device down.
                Err(Errno::EIO) => {
                    return Flushed { lost, result: Err(HandbackError::Transient(Errno::EIO)) };
                }
                Err(errno) => return Flushed { lost, result: Err(errno.into()) },
            }
        }
        Flushed { lost, result: Ok(()) }
    }

    fn pending(&self) -> usize {
        self.gather.pending()
    }

    fn discard(&mut self) {
        self.gather.clear();
    }

    fn capacity(&self) -> usize {
        self.gather.capacity()
    }

    fn max_frame(&self) -> usize {
        self.gather.max_frame()
    }

    fn reap(&mut self) {}

    fn ledger(&self) -> Ledger {
        let (total, held) = (FRAMES as u32, self.gather.pending() as u32);
        Ledger { total, free: total - held, held, ..Ledger::default() }
    }
}
