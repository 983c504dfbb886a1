//! What a worker counts: written by it alone, read by others without stopping it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crossbeam::utils::CachePadded;
use hdrhistogram::Histogram;

use crate::observe::snapshot::{Latency, WorkerSnapshot};
use crate::packet::{Edit, Edits, Reason};

/// Longest latency that is told apart: 10 s.
const LATENCY_MAX_NS: u64 = 10_000_000_000;
/// Two digits: 1 % and about 28 KiB per worker.
const LATENCY_DIGITS: u8 = 2;

/// Counters of one worker.
#[derive(Debug)]
pub struct Counters {
    // One worker's counters share cache lines with nobody else's.
    counts: CachePadded<Counts>,
    latency: Mutex<Histogram<u64>>,
}

#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    handed_back: AtomicU64,
    reasons: [AtomicU64; Reason::COUNT],
    edits: [AtomicU64; Edit::COUNT],
    socket_drops: AtomicU64,
    handback_errors: AtomicU64,
    notify_errors: AtomicU64,
    /// Longest batch since the last publication, and in the time before it.
    batch: AtomicU64,
    batch_peak: AtomicU64,
    /// Longest hand-back call, ns, likewise.
    handback: AtomicU64,
    handback_peak: AtomicU64,
}

/// Adds without a locked instruction: there is one writer.
#[inline]
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Raises to `at_least`, likewise.
#[inline]
fn raise(peak: &AtomicU64, at_least: u64) {
    if at_least > peak.load(Relaxed) {
        peak.store(at_least, Relaxed);
    }
}

/// Publishes the peak of the time that ends.
fn publish(peak: &AtomicU64, published: &AtomicU64) {
    published.store(peak.load(Relaxed), Relaxed);
    peak.store(0, Relaxed);
}

impl Default for Counters {
    fn default() -> Counters {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, LATENCY_DIGITS)
            .expect("the bounds are constants that hdrhistogram accepts");
        Counters { counts: CachePadded::default(), latency: Mutex::new(latency) }
    }
}

impl Counters {
    /// Frames received.
    #[inline]
    pub(super) fn received(&self, frames: u64) {
        add(&self.counts.received, frames);
        raise(&self.counts.batch, frames);
    }

    /// A hand-back call took this long.
    #[inline]
    pub(super) fn flushed(&self, ns: u64) {
        raise(&self.counts.handback, ns);
    }

    /// Frames the kernel took.
    #[inline]
    pub(super) fn handed_back(&self, frames: u64) {
        add(&self.counts.handed_back, frames);
    }

    /// `frames` received frames ended for `reason`.
    #[inline]
    pub(super) fn ended(&self, reason: Reason, frames: u64) {
        add(&self.counts.reasons[reason as usize], frames);
    }

    /// `edits` were made to a frame that was handed back.
    #[inline]
    pub(super) fn edited(&self, edits: Edits) {
        if edits != Edits::NONE {
            for edit in edits.iter() {
                add(&self.counts.edits[edit as usize], 1);
            }
        }
    }

    /// A hand-back call failed.
    pub(super) fn handback_error(&self) {
        add(&self.counts.handback_errors, 1);
    }

    /// A sender was told what would have fitted. Counted at once: the message is out whatever becomes of
    /// the frame.
    pub(super) fn notified(&self) {
        add(&self.counts.edits[Edit::Notified as usize], 1);
    }

    /// The kernel did not take a message to a sender. No frame is lost by that.
    pub(super) fn notify_error(&self) {
        add(&self.counts.notify_errors, 1);
    }

    /// Frames the socket lost so far; called now and then, it also ends the time of a
    /// [`batch_peak`](WorkerSnapshot::batch_peak) and [`handback_peak_ns`](WorkerSnapshot::handback_peak_ns).
    pub(super) fn socket_drops(&self, total: u64) {
        self.counts.socket_drops.store(total, Relaxed);
        publish(&self.counts.batch, &self.counts.batch_peak);
        publish(&self.counts.handback, &self.counts.handback_peak);
    }

    /// The latency histogram, ns; `None` while somebody copies it. A worker must not wait for a thread that others
    /// of the machine may keep from its core.
    pub(super) fn try_latency(&self) -> Option<MutexGuard<'_, Histogram<u64>>> {
        match self.latency.try_lock() {
            Ok(histogram) => Some(histogram),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Frames received so far.
    pub fn frames(&self) -> u64 {
        self.counts.received.load(Relaxed)
    }

    /// Frames that ended for `reason` so far.
    pub fn count(&self, reason: Reason) -> u64 {
        self.counts.reasons[reason as usize].load(Relaxed)
    }

    /// Times that `edit` was made so far.
    pub fn edits(&self, edit: Edit) -> u64 {
        self.counts.edits[edit as usize].load(Relaxed)
    }

    /// Fills in what this worker counted; the rest of the snapshot is the caller's.
    pub fn snapshot(&self) -> WorkerSnapshot {
        let counts = &self.counts;
        WorkerSnapshot {
            received: counts.received.load(Relaxed),
            handed_back: counts.handed_back.load(Relaxed),
            reasons: Reason::ALL.iter().map(|reason| (reason.label().into(), self.count(*reason))).collect(),
            edits: Edit::ALL.iter().map(|edit| (edit.label().into(), self.edits(*edit))).collect(),
            socket_drops: counts.socket_drops.load(Relaxed),
            handback_errors: counts.handback_errors.load(Relaxed),
            notify_errors: counts.notify_errors.load(Relaxed),
            batch_peak: counts.batch_peak.load(Relaxed),
            handback_peak_ns: counts.handback_peak.load(Relaxed),
            latency: self.latency(),
            ..WorkerSnapshot::default()
        }
    }

    /// Percentiles from the XDP program's time stamp to the end of the hand-back.
    pub fn latency(&self) -> Option<Latency> {
        // Held for the time of a copy, not of an analysis.
        let histogram = self.latency.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Latency::of(&histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_names_every_reason_and_edit() {
        let counters = Counters::default();
        counters.received(3);
        counters.ended(Reason::Fits, 2);
        counters.ended(Reason::Truncated, 1);
        let mut edits = Edits::NONE;
        edits.insert(Edit::Df);
        counters.edited(edits);
        let snapshot = counters.snapshot();
        assert_eq!(snapshot.reasons.len(), Reason::COUNT);
        assert_eq!(snapshot.edits.len(), Edit::COUNT);
        assert_eq!(snapshot.reasons.values().sum::<u64>(), snapshot.received);
        assert_eq!((snapshot.reasons["fits"], snapshot.edits["df"]), (2, 1));
        assert_eq!(snapshot.latency, None);
    }

    #[test]
    fn peaks_are_those_of_the_time_before_the_last_publication() {
        let counters = Counters::default();
        let peaks = || (counters.snapshot().batch_peak, counters.snapshot().handback_peak_ns);
        for (frames, ns) in [(3, 7_000), (64, 900_000), (1, 20_000)] {
            counters.received(frames);
            counters.flushed(ns);
        }
        assert_eq!(peaks(), (0, 0));
        counters.socket_drops(0);
        assert_eq!(peaks(), (64, 900_000));
        counters.socket_drops(0);
        assert_eq!(peaks(), (0, 0));
    }

    #[test]
    fn latency_is_within_one_percent_and_saturates() {
        let counters = Counters::default();
        for sample in [0, 1_000_000, u64::MAX] {
            counters.try_latency().expect("nobody copies it").saturating_record(sample);
        }
        let latency = counters.latency().unwrap();
        assert_eq!(latency.count, 3);
        assert!(latency.p50_ns.abs_diff(1_000_000) <= 10_000, "{latency:?}");
        assert!(latency.max_ns.abs_diff(LATENCY_MAX_NS) <= LATENCY_MAX_NS / 50, "{latency:?}");
    }
}
