//! A port in memory, with the rings of an AF_XDP socket: for tests and benches.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::chain::{Chain, Link};
use super::{Port, Receipt, Received};
use crate::frame::{Ledger, Lent, Pool, Region};
use crate::xdp::Meta;

/// A filled buffer in the RX ring.
#[derive(Debug, Clone, Copy)]
struct Descriptor {
    index: u32,
    len: usize,
    more: bool,
}

/// Frames come from [`deliver`](MemPort::deliver), which plays the kernel.
#[derive(Debug)]
pub struct MemPort {
    region: Region,
    pool: Pool,
    fill: VecDeque<u32>,
    rx: VecDeque<Descriptor>,
    chain: Chain,
    drops: u64,
}

impl MemPort {
    /// `frames` buffers with room for `buffer` bytes each, all of them in the fill ring; longer frames up
    /// to `max_frame` bytes take several.
    pub fn new(frames: u32, buffer: usize, max_frame: usize) -> MemPort {
        let mut port = MemPort {
            region: Region::heap(frames as usize, Meta::SIZE + buffer),
            pool: Pool::new(frames),
            fill: VecDeque::with_capacity(frames as usize),
            rx: VecDeque::with_capacity(frames as usize),
            chain: Chain::new(max_frame),
            drops: 0,
        };
        port.refill();
        port
    }

    /// Receives `frame` as the kernel does: false, and a drop, if the fill ring has too few buffers.
    pub fn deliver(&mut self, frame: &[u8], meta: Option<Meta>) -> bool {
        let buffer = self.region.slot_size() - Meta::SIZE;
        let buffers = frame.len().div_ceil(buffer).max(1);
        if self.fill.len() < buffers {
            self.drops += 1;
            return false;
        }
        for place in 1..=buffers {
            // An empty frame, too, takes a buffer.
            let bytes = &frame[(place - 1) * buffer..frame.len().min(place * buffer)];
            let Some(index) = self.fill.pop_front() else { break };
            let slot = self.region.slot_mut(index as usize);
            slot[..Meta::SIZE].copy_from_slice(&meta.map_or([0; Meta::SIZE], Meta::to_bytes));
            slot[Meta::SIZE..Meta::SIZE + bytes.len()].copy_from_slice(bytes);
            self.rx.push_back(Descriptor { index, len: bytes.len(), more: place < buffers });
        }
        true
    }

    /// Buffers waiting in the RX ring.
    pub fn waiting(&self) -> usize {
        self.rx.len()
    }
}

impl Port for MemPort {
    fn receive<F: FnMut(Received<'_>)>(&mut self, limit: usize, mut each: F) -> Receipt {
        let mut receipt = Receipt::default();
        while receipt.frames + receipt.truncated < limit {
            let Some(Descriptor { index, len, more }) = self.rx.pop_front() else { break };
            let frame =
                self.pool.reclaim(u64::from(index), Lent::Fill).expect("deliver takes from the fill ring");
            let slot = self.region.slot(index as usize);
            let bytes = &slot[Meta::SIZE..Meta::SIZE + len];
            let meta = Meta::before_frame(&slot[..Meta::SIZE]);
            if !more && !self.chain.open() {
                each(Received { bytes, meta });
                receipt.frames += 1;
            } else {
                match self.chain.add(bytes, meta, more) {
                    Link::More => {}
                    Link::TooLong => receipt.truncated += 1,
                    Link::Complete => {
                        let (bytes, meta) = self.chain.frame();
                        each(Received { bytes, meta });
                        receipt.frames += 1;
                    }
                }
            }
            self.pool.put(frame);
        }
        receipt
    }

    fn refill(&mut self) {
        while let Some(frame) = self.pool.take() {
            self.fill.push_back(self.pool.lend(frame, Lent::Fill));
        }
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        if self.rx.is_empty() {
            std::thread::sleep(timeout);
        }
        Ok(())
    }

    fn drops(&self) -> io::Result<u64> {
        Ok(self.drops)
    }

    fn max_frame(&self) -> usize {
        self.chain.max_frame()
    }

    fn zero_copy(&self) -> bool {
        false
    }

    fn umem_bytes(&self) -> u64 {
        (self.region.slots() * self.region.slot_size()) as u64
    }

    fn ledger(&self) -> Ledger {
        self.pool.ledger()
    }
}
