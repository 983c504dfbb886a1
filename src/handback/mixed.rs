//! What the kernel is to cut by one hand-back, everything else by another.

use std::time::{Duration, Instant};

use super::{Flushed, Handback, Inject, Tap};
use crate::frame::Ledger;
use crate::packet::{Datagram, Gathered, Segment, Sink};

/// What a TAP device was written is past the CPU's backlog after so long.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// By a TAP device what the kernel cuts, and its flow; the rest as live frames. No flow uses both.
#[derive(Debug)]
pub struct Mixed {
    tap: Tap,
    rest: Inject,
    /// What is being pushed goes by the TAP device.
    gso: bool,
    /// When that was written to last.
    written: Option<Instant>,
}

impl Mixed {
    /// Of two that are open.
    pub fn new(tap: Tap, rest: Inject) -> Mixed {
        Mixed { tap, rest, gso: false, written: None }
    }
}

impl Sink for Mixed {
    #[inline]
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        if self.gso { self.tap.reserve(frames, len) } else { self.rest.reserve(frames, len) }
    }

    #[inline]
    fn push(&mut self, len: usize) -> &mut [u8] {
        if self.gso { self.tap.push(len) } else { self.rest.push(len) }
    }

    #[inline]
    fn begin(&mut self, gso: bool) {
        self.gso = gso;
    }

    #[inline]
    fn gathers(&self) -> bool {
        self.tap.gathers()
    }

    #[inline]
    fn gather(&mut self, segment: &Segment<'_>) -> Gathered {
        self.tap.gather(segment)
    }

    #[inline]
    fn takes_datagrams(&self) -> bool {
        true
    }

    #[inline]
    fn datagram(&mut self, datagram: &Datagram<'_>) -> Gathered {
        self.tap.datagram(datagram)
    }
}

impl Handback for Mixed {
    fn flush(&mut self) -> Flushed {
        if self.tap.pending() > 0 {
            self.written = Some(Instant::now());
        }
        let (tap, rest) = (self.tap.flush(), self.rest.flush());
        Flushed { lost: tap.lost + rest.lost, result: tap.result.and(rest.result) }
    }

    fn pending(&self) -> usize {
        self.tap.pending() + self.rest.pending()
    }

    fn discard(&mut self) {
        self.tap.discard();
        self.rest.discard();
    }

    fn capacity(&self) -> usize {
        self.tap.capacity() + self.rest.capacity()
    }

    fn max_frame(&self) -> usize {
        self.tap.max_frame().min(self.rest.max_frame())
    }

    fn reap(&mut self) {
        self.tap.reap();
        self.rest.reap();
    }

    fn synchronous(&self) -> bool {
        self.written.is_none_or(|written| written.elapsed() >= UNDER_WAY)
    }

    fn ledger(&self) -> Ledger {
        self.rest.ledger()
    }
}
