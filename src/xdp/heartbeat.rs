//! Signs of life of the workers, in memory that the XDP program reads.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sys::SharedWords;

/// Words per entry of the `heartbeats` map (`struct xf_heartbeat`): a cache line.
const STRIDE: usize = 8;
/// Which of them is `served_ns`.
const SERVED: usize = 3;

/// The `heartbeats` map, one entry per RX queue.
#[derive(Debug)]
pub struct Heartbeats {
    words: SharedWords,
}

impl Heartbeats {
    /// Bytes per entry of the map.
    pub const ENTRY: usize = STRIDE * size_of::<u64>();

    /// Maps the `heartbeats` map, of `queues` entries.
    pub(super) fn map(fd: BorrowedFd<'_>, queues: u32) -> io::Result<Arc<Heartbeats>> {
        let words = SharedWords::map(fd, queues as usize * STRIDE)?;
        Ok(Arc::new(Heartbeats { words }))
    }

    /// That of the worker of `queue`; `None` if there is no such queue.
    pub fn of(self: &Arc<Self>, queue: u32) -> Option<Heartbeat> {
        let word = queue as usize * STRIDE;
        (word < self.words.as_slice().len()).then(|| Heartbeat { all: Arc::clone(self), word })
    }
}

/// Where one worker says that it is alive. Keeps the memory mapped.
#[derive(Debug)]
pub struct Heartbeat {
    all: Arc<Heartbeats>,
    word: usize,
}

impl Heartbeat {
    /// The worker was alive at `now_ns` (CLOCK_MONOTONIC); 0 says that it has ended.
    #[inline]
    pub fn beat(&self, now_ns: u64) {
        self.cell(0).store(now_ns, Ordering::Relaxed);
    }

    /// All frames with a time stamp up to `rx_ns` have been handed back, and the kernel has gone on with them.
    #[inline]
    pub fn served(&self, rx_ns: u64) {
        self.cell(SERVED).store(rx_ns, Ordering::Release);
    }

    /// When it was last alive, CLOCK_MONOTONIC ns; 0: never, or ended.
    #[inline]
    pub fn last(&self) -> u64 {
        self.cell(0).load(Ordering::Relaxed)
    }

    #[inline]
    fn cell(&self, at: usize) -> &AtomicU64 {
        &self.all.words.as_slice()[self.word + at]
    }
}
