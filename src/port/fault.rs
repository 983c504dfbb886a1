//! A port that misbehaves on request: for tests.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use nix::errno::Errno;

use super::{Port, Receipt, Received};
use crate::frame::Ledger;

/// What goes wrong in one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// At most this many frames are received.
    Short(usize),
    /// The first so many frames turn out to be truncated.
    Truncate(usize),
    /// The fill ring takes nothing.
    RefuseRefill,
    /// Waiting fails.
    Wait(Errno),
}

/// Another port, with a list of faults: one entry per turn.
#[derive(Debug)]
pub struct FaultPort<P> {
    inner: P,
    script: VecDeque<Option<Fault>>,
    now: Option<Fault>,
}

impl<P: Port> FaultPort<P> {
    /// Wraps `inner`; each call of [`Port::receive`] takes the next entry of `script`, and behaves when
    /// there is none.
    pub fn new(inner: P, script: impl IntoIterator<Item = Option<Fault>>) -> FaultPort<P> {
        FaultPort { inner, script: script.into_iter().collect(), now: None }
    }

    /// The port that is wrapped.
    pub fn inner_mut(&mut self) -> &mut P {
        &mut self.inner
    }
}

impl<P: Port> Port for FaultPort<P> {
    fn receive<F: FnMut(Received<'_>)>(&mut self, limit: usize, mut each: F) -> Receipt {
        self.now = self.script.pop_front().flatten();
        let (limit, truncate) = match self.now {
            Some(Fault::Short(most)) => (limit.min(most), 0),
            Some(Fault::Truncate(frames)) => (limit, frames),
            _ => (limit, 0),
        };
        let mut place = 0;
        let receipt = self.inner.receive(limit, |frame| {
            place += 1;
            if place > truncate {
                each(frame);
            }
        });
        let truncated = truncate.min(receipt.frames);
        Receipt { frames: receipt.frames - truncated, truncated: receipt.truncated + truncated }
    }

    fn refill(&mut self) {
        if self.now != Some(Fault::RefuseRefill) {
            self.inner.refill();
        }
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        match self.now {
            // As poll(2) interrupted by a signal: the caller looks again.
            Some(Fault::Wait(Errno::EINTR | Errno::EAGAIN)) => Ok(()),
            Some(Fault::Wait(errno)) => Err(errno.into()),
            _ => self.inner.wait(timeout),
        }
    }

    fn drops(&self) -> io::Result<u64> {
        self.inner.drops()
    }

    fn max_frame(&self) -> usize {
        self.inner.max_frame()
    }

    fn zero_copy(&self) -> bool {
        self.inner.zero_copy()
    }

    fn umem_bytes(&self) -> u64 {
        self.inner.umem_bytes()
    }

    fn ledger(&self) -> Ledger {
        self.inner.ledger()
    }
}
