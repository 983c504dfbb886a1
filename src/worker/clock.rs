//! The clock that XDP programs and workers share.

use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in ns, as `bpf_ktime_get_ns` reads it.
#[inline]
pub fn monotonic_ns() -> u64 {
    // CLOCK_MONOTONIC exists wherever AF_XDP does.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
