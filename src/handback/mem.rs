//! Hand-back into memory, with failures on request: for tests and benches.

use std::collections::VecDeque;

use nix::errno::Errno;

use super::{Flushed, Handback};
use crate::frame::{Frame, Ledger, Lent, Pool, Region};
use crate::packet::Sink;

/// What the next flush does instead of taking everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushFault {
    /// Takes `taken` frames, drops the last `lost` of them, and then fails with `errno`.
    Fail {
        /// Frames taken before.
        taken: usize,
        /// How many of them are dropped.
        lost: usize,
        /// Errno; [`HandbackError`](super::HandbackError) says whether it is transient.
        errno: Errno,
    },
    /// Takes everything but drops this many frames.
    Lose(usize),
    /// Takes everything but keeps the memory until [`MemHandback::complete`].
    Withhold,
}

/// Keeps what it is given (or only counts it).
#[derive(Debug)]
pub struct MemHandback {
    region: Region,
    pool: Pool,
    reserved: VecDeque<Frame>,
    pending: VecDeque<(Frame, usize)>,
    withheld: VecDeque<u32>,
    faults: VecDeque<Option<FlushFault>>,
    record: bool,
    taken: Vec<Vec<u8>>,
    frames: usize,
    bytes: usize,
}

impl MemHandback {
    /// `slots` buffers of `max_frame` bytes.
    pub fn new(slots: usize, max_frame: usize) -> MemHandback {
        MemHandback {
            region: Region::heap(slots, max_frame),
            pool: Pool::new(slots as u32),
            reserved: VecDeque::with_capacity(slots),
            pending: VecDeque::with_capacity(slots),
            withheld: VecDeque::with_capacity(slots),
            faults: VecDeque::new(),
            record: true,
            taken: Vec::new(),
            frames: 0,
            bytes: 0,
        }
    }

    /// Counts frames but does not keep them: then nothing is allocated.
    pub fn counting(mut self) -> MemHandback {
        self.record = false;
        self
    }

    /// One entry per flush to come; `None` for a flush that succeeds.
    pub fn script(&mut self, faults: impl IntoIterator<Item = Option<FlushFault>>) {
        self.faults.extend(faults);
    }

    /// Completes every withheld frame: its memory can be used again.
    pub fn complete(&mut self) {
        while let Some(index) = self.withheld.pop_front() {
            if let Ok(frame) = self.pool.reclaim(u64::from(index), Lent::Tx) {
                self.pool.put(frame);
            }
        }
    }

    /// The frames that were handed back, in order, if they are kept.
    pub fn taken(&self) -> &[Vec<u8>] {
        &self.taken
    }

    /// How many frames and bytes were handed back.
    pub fn totals(&self) -> (usize, usize) {
        (self.frames, self.bytes)
    }

    fn take(&mut self, count: usize, lost: usize, withhold: bool) {
        for place in 0..count {
            let Some((frame, len)) = self.pending.pop_front() else { return };
            if place + lost < count {
                self.frames += 1;
                self.bytes += len;
                if self.record {
                    self.taken.push(self.region.slot(frame.index() as usize)[..len].to_vec());
                }
            }
            if withhold {
                self.withheld.push_back(self.pool.lend(frame, Lent::Tx));
            } else {
                self.pool.put(frame);
            }
        }
    }
}

impl Sink for MemHandback {
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        while let Some(frame) = self.reserved.pop_front() {
            self.pool.put(frame);
        }
        if len > self.region.slot_size() || self.pool.free() < frames {
            return false;
        }
        self.reserved.extend((0..frames).map_while(|_| self.pool.take()));
        true
    }

    fn push(&mut self, len: usize) -> &mut [u8] {
        let frame = self.reserved.pop_front().expect("the caller reserved the frame");
        let slot = frame.index() as usize;
        self.pending.push_back((frame, len));
        &mut self.region.slot_mut(slot)[..len]
    }
}

impl Handback for MemHandback {
    fn flush(&mut self) -> Flushed {
        let pending = self.pending.len();
        let fault = self.faults.pop_front().flatten();
        let (taken, lost, result) = match fault {
            Some(FlushFault::Fail { taken, lost, errno }) => (taken.min(pending), lost, Err(errno.into())),
            Some(FlushFault::Lose(lost)) => (pending, lost, Ok(())),
            Some(FlushFault::Withhold) | None => (pending, 0, Ok(())),
        };
        let lost = lost.min(taken);
        self.take(taken, lost, fault == Some(FlushFault::Withhold));
        Flushed { lost, result }
    }

    fn pending(&self) -> usize {
        self.pending.len()
    }

    fn discard(&mut self) {
        while let Some((frame, _)) = self.pending.pop_front() {
            self.pool.put(frame);
        }
    }

    fn capacity(&self) -> usize {
        self.region.slots()
    }

    fn max_frame(&self) -> usize {
        self.region.slot_size()
    }

    fn reap(&mut self) {}

    fn ledger(&self) -> Ledger {
        self.pool.ledger()
    }
}
