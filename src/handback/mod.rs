//! How frames return to the kernel.
//!
//! The transform writes into buffers that the hand-back lends ([`Sink`]), so a received frame is copied
//! once and its memory is free again in the same turn.

pub mod choose;
mod gather;
pub mod inject;
pub mod mem;
pub mod mixed;
mod pair;
mod redirect;
mod skeleton;
pub mod tap;
pub mod veth;

use std::io;

use nix::errno::Errno;
use thiserror::Error;

use crate::frame::Ledger;
use crate::packet::Sink;

pub use choose::{AnyHandback, Chosen, choose};
pub use inject::Inject;
pub use mem::MemHandback;
pub use mixed::Mixed;
pub use tap::Tap;
pub use veth::Veth;

/// What is needed to open any hand-back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandbackConfig {
    /// Name of the LAN interface, in the network namespace of the calling thread.
    pub interface: String,
    /// Its index: the stack sees the frames as received there.
    pub ifindex: u32,
    /// RX queue that is served.
    pub queue: u32,
    /// Longest frame to hand back, Ethernet header included, bytes.
    pub max_frame: usize,
    /// Longest frame with a datagram for the kernel to cut, bytes.
    pub max_datagram: usize,
    /// By which the program behind GRO tells what is handed back through a device.
    pub token: u64,
}

impl HandbackConfig {
    /// The longest frame asked for, which `backend` can carry if it is not over `limit` bytes.
    fn frames_up_to(&self, backend: &'static str, limit: usize) -> Result<usize, OpenError> {
        let wanted = self.max_frame;
        if wanted > limit {
            return Err(OpenError::TooLong { interface: self.interface.clone(), backend, wanted, limit });
        }
        Ok(wanted)
    }

    /// Makes an error of a failed `step`.
    fn failed(&self, step: &'static str) -> impl Fn(std::io::Error) -> OpenError {
        move |source| OpenError::Step { interface: self.interface.clone(), step, source }
    }
}

/// What a [`Handback::flush`] did. How many frames the kernel took is what [`Handback::pending`] lost by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "frames may be lost, or not taken"]
pub struct Flushed {
    /// Of the frames that the kernel took, those that it could not place, and dropped.
    pub lost: usize,
    /// Why it did not go on. It may have taken, and lost, frames before.
    pub result: Result<(), HandbackError>,
}

/// Why the kernel did not take frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandbackError {
    /// It may take them next time; what it did not take is still pending.
    #[error("the kernel did not take frames for the moment: {0}")]
    Transient(Errno),
    /// It will take none any more: the device is gone or the program was refused.
    #[error("the kernel takes no frames any more: {0}")]
    Fatal(Errno),
}

impl From<Errno> for HandbackError {
    fn from(errno: Errno) -> HandbackError {
        match errno {
            Errno::EAGAIN | Errno::ENOBUFS | Errno::EBUSY | Errno::EINTR | Errno::ENOMEM => {
                HandbackError::Transient(errno)
            }
            _ => HandbackError::Fatal(errno),
        }
    }
}

impl HandbackError {
    /// The errno behind it.
    pub fn errno(self) -> Errno {
        match self {
            HandbackError::Transient(errno) | HandbackError::Fatal(errno) => errno,
        }
    }
}

/// A way back into the kernel's receive path. Frames keep the order in which they were pushed.
pub trait Handback: Sink {
    /// Hands the pending frames to the kernel. Frames it did not take stay pending, in order: with
    /// [`HandbackError::Transient`] repeating the call may help.
    fn flush(&mut self) -> Flushed;

    /// Frames pushed that the kernel has not taken yet.
    fn pending(&self) -> usize;

    /// Drops the pending frames.
    fn discard(&mut self);

    /// Most frames that can be pending.
    fn capacity(&self) -> usize;

    /// Longest frame that can be handed back, Ethernet header included.
    fn max_frame(&self) -> usize;

    /// Takes back memory that the kernel is done with and wakes it if it has work left. Cheap when
    /// there is nothing to do; called once per turn.
    fn reap(&mut self);

    /// True if the kernel has sent a frame on its way, or queued it behind what it received before, by the time that
    /// [`flush`](Handback::flush) has taken it: what the LAN interface receives later cannot overtake it.
    fn synchronous(&self) -> bool {
        false
    }

    /// Where its memory is.
    fn ledger(&self) -> Ledger;
}

/// A hand-back could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A step failed.
    #[error("hand-back on {interface}: {step}: {source}{}", remedy(.source))]
    Step {
        /// LAN interface.
        interface: String,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The frames are too long for this hand-back.
    #[error(
        "hand-back on {interface}: frames of {wanted} bytes are longer than the {limit} that {backend} can carry; \
         lower --mtu or choose the other --handback"
    )]
    TooLong {
        /// LAN interface.
        interface: String,
        /// Which one.
        backend: &'static str,
        /// Longest frame asked for, bytes.
        wanted: usize,
        /// Longest frame possible, bytes.
        limit: usize,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            " (needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON, and CAP_SYS_ADMIN for its private \
             network namespace)"
        }
        io::ErrorKind::InvalidInput => " (the kernel is too old for it)",
        // Of what hand-backs open, only /dev/net/tun can be missing.
        io::ErrorKind::NotFound => " (no /dev/net/tun: modprobe tun)",
        _ => "",
    }
}

/// Keeps the kind of a libbpf error, and its whole chain as text.
fn bpf_error(error: libbpf_rs::Error) -> io::Error {
    let kind = match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        libbpf_rs::ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
        libbpf_rs::ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_transient_and_a_lost_device_is_fatal() {
        for errno in [Errno::EAGAIN, Errno::ENOBUFS, Errno::EBUSY, Errno::EINTR, Errno::ENOMEM] {
            assert_eq!(HandbackError::from(errno), HandbackError::Transient(errno));
        }
        for errno in [Errno::ENODEV, Errno::ENXIO, Errno::ENETDOWN, Errno::EPERM] {
            assert_eq!(HandbackError::from(errno), HandbackError::Fatal(errno));
        }
    }
}
