//! At most one event per host and second, decided by all workers together without a lock.

use std::hash::{BuildHasher, Hash, RandomState};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Power of two; 32 KiB in all. A model checker needs the same slot in every execution.
const SLOTS: usize = if cfg!(loom) { 1 } else { 4096 };

/// The kernel's default for ICMP errors to one host (net.ipv4.icmp_ratelimit), without its bursts.
pub const INTERVAL_NS: u64 = 1_000_000_000;

/// When each host last had its event: a fixed table, indexed by a hash with a random key.
///
/// No host can use up another's allowance, unless the two share a slot: 1 in 4096, and nobody can aim at it.
/// They then have one event per second between them.
#[derive(Debug)]
pub struct RateLimit {
    key: RandomState,
    /// CLOCK_MONOTONIC in ns; 0 for never.
    last: Box<[AtomicU64]>,
}

impl RateLimit {
    /// Nobody has had anything yet.
    pub fn new() -> RateLimit {
        RateLimit { key: RandomState::new(), last: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// True if it is `host`'s turn at `now_ns`; of several workers that ask, one is told so.
    ///
    /// A clock that is behind another worker's is no reason for an event.
    #[inline]
    pub fn allow(&self, host: impl Hash, now_ns: u64) -> bool {
        let last = &self.last[self.key.hash_one(host) as usize % SLOTS];
        let seen = last.load(Relaxed);
        // Relaxed: the slot orders nothing but itself. Who loses the exchange lost it to an event.
        (seen == 0 || now_ns.saturating_sub(seen) >= INTERVAL_NS)
            && last.compare_exchange(seen, now_ns, Relaxed, Relaxed).is_ok()
    }
}

impl Default for RateLimit {
    fn default() -> RateLimit {
        RateLimit::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_per_second_and_host() {
        let limit = RateLimit::new();
        let allowed: Vec<u64> =
            (0..50).map(|tenth| 1 + tenth * INTERVAL_NS / 10).filter(|now| limit.allow(1, *now)).collect();
        assert_eq!(allowed, [0, 1, 2, 3, 4].map(|second| 1 + second * INTERVAL_NS));
    }

    #[test]
    fn hosts_do_not_use_up_each_others_allowance() {
        let limit = RateLimit::new();
        let allowed = (0..400).filter(|host| limit.allow(host, 5)).count();
        // 400 of 4096 slots: 19 collisions are expected.
        assert!((350..=400).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_clock_that_is_behind_changes_nothing() {
        let limit = RateLimit::new();
        assert!(limit.allow(1, 3 * INTERVAL_NS));
        assert!(!limit.allow(1, INTERVAL_NS));
        assert!(!limit.allow(1, 4 * INTERVAL_NS - 1));
        assert!(limit.allow(1, 4 * INTERVAL_NS));
    }
}
