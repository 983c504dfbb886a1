//! TCP by one hand-back, everything else by another.

use super::{Flushed, Handback, Inject, Tap};
use crate::frame::Ledger;
use crate::packet::{Gathered, Segment, Sink};

/// TCP by a TAP device, in packets that the kernel cuts; the rest as live frames. No flow uses both.
#[derive(Debug)]
pub struct Mixed {
    tap: Tap,
    rest: Inject,
    /// What is being pushed is TCP.
    tcp: bool,
}

impl Mixed {
    /// Of two that are open.
    pub fn new(tap: Tap, rest: Inject) -> Mixed {
        Mixed { tap, rest, tcp: false }
    }
}

impl Sink for Mixed {
    #[inline]
    fn reserve(&mut self, frames: usize, len: usize) -> bool {
        if self.tcp { self.tap.reserve(frames, len) } else { self.rest.reserve(frames, len) }
    }

    #[inline]
    fn push(&mut self, len: usize) -> &mut [u8] {
        if self.tcp { self.tap.push(len) } else { self.rest.push(len) }
    }

    #[inline]
    fn begin(&mut self, tcp: bool) {
        self.tcp = tcp;
    }

    #[inline]
    fn gathers(&self) -> bool {
        self.tap.gathers()
    }

    #[inline]
    fn gather(&mut self, segment: &Segment<'_>) -> Gathered {
        self.tap.gather(segment)
    }
}

impl Handback for Mixed {
    fn flush(&mut self) -> Flushed {
        let (tcp, rest) = (self.tap.flush(), self.rest.flush());
        Flushed { lost: tcp.lost + rest.lost, result: tcp.result.and(rest.result) }
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

    fn ledger(&self) -> Ledger {
        self.rest.ledger()
    }
}
