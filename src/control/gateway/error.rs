//! Why a gateway could not be brought up.

use std::io;

use thiserror::Error;

use crate::handback::OpenError;
use crate::port::XskError;
use crate::xdp::{AttachError, Error as XdpError};

/// A gateway could not be brought up; what had been done is undone.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// Reading the interface or its addresses failed.
    #[error("cannot read the state of {interface}: {source}")]
    Netlink {
        /// LAN interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface went away since the preflight check.
    #[error("there is no interface {0} any more")]
    Gone(String),
    /// A queue that the interface does not have.
    #[error("--queues: {interface} has {available} RX queues now that XDP is attached, none of those listed")]
    NoQueue {
        /// LAN interface.
        interface: String,
        /// RX queues in use.
        available: u32,
    },
    /// Queues that the driver gives back with the XDP program, zero-copy sockets or not: virtio_net (7.3) then keeps
    /// using their freed buffers (`virtnet_xsk_pool_disable`).
    #[error(
        "--zero-copy on: {interface} has {own_queues} queues of its own, and more only while XDP is attached, where \
         zero-copy can crash the kernel; use --zero-copy auto, or serve its own with --queues"
    )]
    LentQueues {
        /// LAN interface.
        interface: String,
        /// RX queues without XDP.
        own_queues: u32,
    },
    /// Attaching the XDP program.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Loading or feeding a BPF program.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// Opening a hand-back.
    #[error(transparent)]
    Handback(#[from] OpenError),
    /// Opening an AF_XDP socket.
    #[error(transparent)]
    Socket(#[from] XskError),
    /// A worker goes on by settings that were to be replaced.
    #[error("{0}: a worker has not taken the new settings over: it hangs, or has no core to run on")]
    Unheard(String),
    /// What loads programs was given up or never there.
    #[error("{interface}: another XDP program cannot be loaded: {why}")]
    Privileges {
        /// LAN interface.
        interface: String,
        /// What is missing.
        why: String,
    },
    /// Starting a worker.
    #[error("cannot start the worker of {interface} queue {queue}: {source}")]
    Spawn {
        /// LAN interface.
        interface: String,
        /// RX queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

impl GatewayError {
    /// True for what may be otherwise in a moment with nothing mended: no descriptor or memory left, a map without room,
    /// an interface that comes and goes.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            GatewayError::Netlink { .. }
                | GatewayError::Gone(_)
                | GatewayError::Spawn { .. }
                | GatewayError::Xdp(XdpError::Map { .. })
        )
    }
}
