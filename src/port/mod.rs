//! Where frames come from.

pub mod chain;
pub mod fault;
pub mod mem;
pub mod xsk;

use std::io;
use std::time::Duration;

use crate::frame::Ledger;
use crate::xdp::Meta;

pub use chain::Chain;
pub use fault::{Fault, FaultPort};
pub use mem::MemPort;
pub use xsk::{XskConfig, XskError, XskPort};

/// Frames that one call of [`Port::receive`] lends out at most.
pub const BATCH: usize = 64;

/// A frame as it was received, lent for the time of a call.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// From the Ethernet header on, without FCS.
    pub bytes: &'a [u8],
    /// What the XDP program put in front of it.
    pub meta: Option<Meta>,
}

/// What one call of [`Port::receive`] took from the RX ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Frames that were lent out.
    pub frames: usize,
    /// Multi-buffer frames that were dropped, because their end never came or they are longer than
    /// [`Port::max_frame`].
    pub truncated: usize,
}

/// A source of frames with memory of its own.
///
/// Received frames are lent to a closure and released before the call returns, so that a worker cannot
/// keep one: all it wants to keep it copies into the hand-back.
pub trait Port {
    /// Lends up to `limit` received frames ([`BATCH`] at most) to `each`, in the order of their arrival, and releases their
    /// memory. Does not block.
    fn receive<F: FnMut(Received<'_>)>(&mut self, limit: usize, each: F) -> Receipt;

    /// Gives free memory to the kernel to receive into, and wakes the driver if it asks for that.
    fn refill(&mut self);

    /// Sleeps until there is something to receive, at most for `timeout`. Returns early on a signal.
    ///
    /// # Errors
    /// As poll(2).
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;

    /// Frames that were lost before they could be received, since the port was opened.
    ///
    /// # Errors
    /// `ENETDOWN` if the device is gone.
    fn drops(&self) -> io::Result<u64>;

    /// Longest frame that can be received, Ethernet header included.
    fn max_frame(&self) -> usize;

    /// True if the driver writes to the port's memory itself.
    fn zero_copy(&self) -> bool;

    /// Memory for frames, bytes.
    fn umem_bytes(&self) -> u64;

    /// Where the memory is.
    fn ledger(&self) -> Ledger;
}
