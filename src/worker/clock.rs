//! The clock that XDP programs and workers share.

use std::fs;
use std::sync::LazyLock;

use nix::time::{ClockId, clock_gettime};

/// What a time namespace (time_namespaces(7)) adds to CLOCK_MONOTONIC, ns. BPF programs know nothing of it.
static OFFSET: LazyLock<i64> = LazyLock::new(|| {
    // No such file: a kernel without time namespaces.
    fs::read_to_string("/proc/self/timens_offsets").ok().and_then(|table| offset(&table)).unwrap_or(0)
});

/// CLOCK_MONOTONIC in ns, as `bpf_ktime_get_ns` reads it.
#[inline]
pub fn monotonic_ns() -> u64 {
    // CLOCK_MONOTONIC exists wherever AF_XDP does.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        let here = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
        here.wrapping_add_signed(OFFSET.wrapping_neg())
    })
}

/// The offset of CLOCK_MONOTONIC, ns, in a table with lines such as `monotonic    86400    0`.
fn offset(table: &str) -> Option<i64> {
    let line = table.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let mut fields = line.split_whitespace().map(str::parse::<i64>);
    let (seconds, nanoseconds) = (fields.next()?.ok()?, fields.next()?.ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_time_namespace_is_read() {
        let table = "monotonic         -5         250000000\nboottime           7                 0\n";
        assert_eq!(offset(table), Some(-4_750_000_000));
        assert_eq!(offset("monotonic           0         0\nboottime            0         0\n"), Some(0));
        assert_eq!(offset(""), None);
    }
}
