//! From a received frame to the kernel: transform, hand-back, and the account of both.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::clock::monotonic_ns;
use super::counters::Counters;
use super::settings::Settings;
use super::tap::Tapped;
use crate::handback::{Flushed, Handback, HandbackError};
use crate::packet::{self, Edits, Outcome, Reason, Rule, Sink, Transform, Verdict};
use crate::port::Received;

/// Consecutive flushes that may fail for the moment before the pending frames are given up. No turn makes more than one
/// of them, and no frame is received meanwhile: the RX ring is the buffer.
pub const FLUSH_ATTEMPTS: u32 = 50;
/// What a worker sleeps between two of them, so that they are some 50 ms: memory is not reclaimed on a core that does
/// nothing but ask for it.
pub const FLUSH_PAUSE: Duration = Duration::from_millis(1);

/// A received frame whose output the kernel has not taken yet.
#[derive(Debug, Clone, Copy)]
struct Open {
    rx_ns: Option<u64>,
    reason: Reason,
    edits: Edits,
    frames: u16,
}

/// What a worker does with received frames. A frame is counted when its fate is settled: once.
#[derive(Debug)]
pub(super) struct Outlet<H> {
    pub(super) handback: H,
    pub(super) tapped: Option<Tapped>,
    counters: Arc<Counters>,
    open: VecDeque<Open>,
    /// Latencies, ns, that are not in the histogram yet. What finds no room is lost: it is full only if the histogram
    /// is copied all the time.
    latencies: Vec<u64>,
    /// Output of the oldest open frame that the kernel took already.
    taken: usize,
    /// Output frames the kernel lost that are not counted yet.
    lost: usize,
    failures: u32,
    broken: Option<HandbackError>,
    /// Time stamp of the last frame received, 0 if it has none; and the same when nothing was pending last.
    last_rx_ns: u64,
    served_ns: u64,
}

impl<H: Handback> Outlet<H> {
    pub(super) fn new(handback: H, counters: Arc<Counters>) -> Self {
        // An open frame has one pending output at least, so this never grows.
        let open = VecDeque::with_capacity(handback.capacity() + 1);
        let latencies = Vec::with_capacity(4 * open.capacity());
        Outlet {
            handback,
            tapped: None,
            counters,
            open,
            latencies,
            taken: 0,
            lost: 0,
            failures: 0,
            broken: None,
            last_rx_ns: 0,
            served_ns: 0,
        }
    }

    /// See [`Turn::served_ns`](super::Turn::served_ns).
    pub(super) fn served_ns(&mut self) -> u64 {
        if self.handback.synchronous() && self.open.is_empty() {
            self.served_ns = self.last_rx_ns;
        }
        self.served_ns
    }

    /// True if the last flush did not get everything to the kernel.
    pub(super) fn blocked(&self) -> bool {
        self.failures > 0
    }

    /// The error after which the kernel takes no frame any more.
    pub(super) fn broken(&self) -> Option<HandbackError> {
        self.broken
    }

    /// Transforms `received` into the hand-back's buffers.
    #[inline]
    pub(super) fn take(&mut self, received: Received<'_>, settings: &Settings) {
        if self.broken.is_some() {
            return self.counters.ended(Reason::HandbackError, 1);
        }
        self.last_rx_ns = received.meta.map_or(0, |meta| meta.rx_ns);
        let rule = rule(received, settings);
        let tapped = self.tapped.as_ref().is_some_and(|tapped| tapped.wants(received.bytes));
        let mut outcome = self.apply(&settings.transform, received.bytes, rule, tapped);
        let full = outcome.verdict == Verdict::Drop(Reason::HandbackFull);
        // Once a flush failed, the next attempt is the next turn's.
        if full && self.handback.pending() > 0 && !self.blocked() {
            self.flush();
            if self.broken.is_some() {
                return self.counters.ended(Reason::HandbackError, 1);
            }
            outcome = self.apply(&settings.transform, received.bytes, rule, tapped);
        }
        if let Some(tap) = self.tapped.as_ref().filter(|_| tapped) {
            tap.record(received.bytes, outcome);
        }
        let Outcome { verdict, edits, frames } = outcome;
        if let (Some(notifier), Ok(rule), Verdict::Forward(reason)) = (&settings.notifier, rule, verdict)
            && reason != Reason::Fits
        {
            let now = received.meta.map_or_else(monotonic_ns, |meta| meta.rx_ns);
            match notifier.tell(received.bytes, rule.mtu, now) {
                None => {}
                Some(Ok(())) => self.counters.notified(),
                Some(Err(_)) => self.counters.notify_error(),
            }
        }
        match verdict {
            Verdict::Drop(reason) => self.counters.ended(reason, 1),
            Verdict::Forward(reason) | Verdict::Pass(reason) => self.open.push_back(Open {
                rx_ns: received.meta.map(|meta| meta.rx_ns),
                reason,
                edits,
                frames,
            }),
        }
    }

    #[inline]
    fn apply(
        &mut self,
        transform: &Transform,
        bytes: &[u8],
        rule: Result<Rule, Reason>,
        tapped: bool,
    ) -> Outcome {
        let handback = &mut self.handback;
        match self.tapped.as_mut().filter(|_| tapped) {
            None => treat(transform, bytes, rule, handback),
            Some(tap) => tap.through(handback, |scratch| treat(transform, bytes, rule, scratch)),
        }
    }

    /// Hands over what is pending. A failure that may pass leaves it pending until the attempts are used
    /// up; any other failure ends the hand-back ([`broken`](Outlet::broken)).
    pub(super) fn flush(&mut self) {
        let before = self.handback.pending();
        if before == 0 || self.broken.is_some() {
            self.failures = 0;
            return;
        }
        let start = monotonic_ns();
        let Flushed { lost, result } = self.handback.flush();
        let end = monotonic_ns();
        self.counters.flushed(end - start);
        self.settle(before - self.handback.pending(), lost, end);
        match result {
            Ok(()) => self.failures = 0,
            Err(error) => {
                self.counters.handback_error();
                self.failures += 1;
                if let HandbackError::Fatal(_) = error {
                    self.broken = Some(error);
                }
                if self.broken.is_some() || self.failures >= FLUSH_ATTEMPTS {
                    self.abandon();
                }
            }
        }
    }

    /// Drops what is pending.
    pub(super) fn abandon(&mut self) {
        self.handback.discard();
        self.counters.ended(Reason::HandbackError, self.open.len() as u64);
        self.open.clear();
        (self.taken, self.lost, self.failures) = (0, 0, 0);
    }

    /// The kernel took `taken` more output frames until `now`, and lost `lost` of them. A loss is counted against the
    /// oldest frame that is settled: the kernel does not say which it was.
    fn settle(&mut self, taken: usize, lost: usize, now: u64) {
        let lost = lost.min(taken);
        self.taken += taken;
        self.lost += lost;
        self.counters.handed_back((taken - lost) as u64);
        while let Some(&Open { rx_ns, reason, edits, frames }) = self.open.front() {
            let frames = usize::from(frames);
            if self.taken < frames {
                break;
            }
            self.taken -= frames;
            self.open.pop_front();
            if self.lost > 0 {
                self.lost -= self.lost.min(frames);
                self.counters.ended(Reason::HandbackError, 1);
                continue;
            }
            self.counters.ended(reason, 1);
            self.counters.edited(edits);
            if let Some(rx_ns) = rx_ns
                && self.latencies.len() < self.latencies.capacity()
            {
                self.latencies.push(now.saturating_sub(rx_ns));
            }
        }
        if let Some(mut histogram) = self.counters.try_latency() {
            self.latencies.drain(..).for_each(|latency| histogram.saturating_record(latency));
        }
    }
}

#[inline]
fn rule(Received { bytes, meta }: Received<'_>, settings: &Settings) -> Result<Rule, Reason> {
    match meta {
        Some(meta) => Ok(meta.rule),
        // A driver without metadata.
        None => packet::parse(bytes).and_then(|(_, packet)| {
            settings.rule(packet.source(), packet.destination()).ok_or(Reason::OutOfScope)
        }),
    }
}

#[inline]
fn treat<S: Sink>(transform: &Transform, bytes: &[u8], rule: Result<Rule, Reason>, sink: &mut S) -> Outcome {
    match rule {
        Ok(rule) => transform.apply(bytes, rule, sink),
        Err(reason) => packet::pass(bytes, reason, sink),
    }
}
