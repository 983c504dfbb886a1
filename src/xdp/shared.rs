//! The words that the XDP program shares with user space (`struct xf_shared`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use libbpf_rs::MapHandle;
use nix::time::{ClockId, clock_getres};

use super::sys::SharedWords;

const GENERATION: usize = 0;
const LAST_REDIRECT: usize = 1;

/// The program's `.bss.shared`, mapped.
#[derive(Debug)]
pub struct Shared {
    map: MapHandle,
    words: SharedWords,
}

impl Shared {
    /// Bytes of `struct xf_shared`.
    pub const SIZE: usize = 16;
    /// `XF_HELD`.
    pub const HELD: u64 = 1 << 62;

    pub(super) fn map(map: MapHandle) -> io::Result<Shared> {
        let words = SharedWords::map(map.as_fd(), Shared::SIZE / size_of::<u64>())?;
        Ok(Shared { map, words })
    }

    /// The routes have changed: what the program remembers of them is void. Behind the change, not before it.
    pub(super) fn routes_changed(&self) {
        self.words.as_slice()[GENERATION].fetch_add(1, Ordering::SeqCst);
    }

    /// Has the program look every flow up, as if one had gone to a worker just now.
    pub(super) fn hold_flows(&self) {
        self.words.as_slice()[LAST_REDIRECT].store(Shared::HELD, Ordering::SeqCst);
    }
}

impl AsFd for Shared {
    /// The map.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// Ticks of the kernel in which `time` is over for sure. Ticks of a virtual machine may be late, and then come all at
/// once: hence 100 ms more.
pub(super) fn ticks(time: Duration) -> i32 {
    // The coarse clock goes by the tick; none is shorter than 1 ms.
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from);
    let tick = tick.max(Duration::from_millis(1));
    let ticks = time.saturating_add(Duration::from_millis(100)).as_nanos() / tick.as_nanos();
    i32::try_from(ticks).unwrap_or(i32::MAX - 2) + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_enough_and_never_too_many_to_count() {
        let tick = Duration::from(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).unwrap());
        for ms in [0, 1, 200, 60_000] {
            let time = Duration::from_millis(ms);
            assert!(tick * ticks(time) as u32 > time + Duration::from_millis(100), "{time:?}");
        }
        assert_eq!(ticks(Duration::MAX), i32::MAX);
    }
}
