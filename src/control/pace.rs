//! When the main thread may look at the machine again.

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, at, never};
use nix::time::{ClockId, clock_gettime};

/// Between two looks the thread rests this many times as long as it worked, lest large tables that change all the time
/// keep a core busy ...
const REST: u32 = 9;
/// ... but no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// A clock for looks at something, with rests between them.
#[derive(Debug)]
pub(super) struct Pace {
    /// It is time to look.
    pub(super) due: Receiver<Instant>,
    next: Option<Instant>,
    earliest: Instant,
}

impl Pace {
    /// Nothing is due.
    pub(super) fn new() -> Pace {
        Pace { due: never(), next: None, earliest: Instant::now() }
    }

    /// A look is wanted at `when`, if none is due before, and if the thread has rested by then.
    pub(super) fn ask(&mut self, when: Instant) {
        let when = when.max(self.earliest);
        let next = self.next.map_or(when, |next| next.min(when));
        self.next = Some(next);
        self.due = at(next);
    }

    /// Looks. Nothing is due then until it is asked for.
    pub(super) fn work<T>(&mut self, look: impl FnOnce() -> T) -> T {
        let before = cpu_time();
        let result = look();
        let worked = cpu_time().saturating_sub(before);
        self.earliest = Instant::now() + (worked * REST).min(LONGEST_REST);
        (self.next, self.due) = (None, never());
        result
    }
}

/// What this thread has used of a core, the kernel's work for it included.
fn cpu_time() -> Duration {
    // There is no kernel without this clock.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_while_one_rests_are_one_look_after_the_rest() {
        let mut pace = Pace::new();
        let work = Duration::from_millis(20);
        pace.work(|| {
            let before = cpu_time();
            while cpu_time() - before < work {}
        });
        assert!(pace.due.is_empty() && pace.next.is_none());
        let rested = Instant::now() + work * (REST - 1);
        for _ in 0..1000 {
            pace.ask(Instant::now());
        }
        assert!(pace.due.recv().unwrap() >= rested);
        assert!(pace.due.try_recv().is_err());
        pace.work(|| {});
        assert!(pace.next.is_none());
    }

    #[test]
    fn the_earlier_of_two_wishes_counts() {
        let mut pace = Pace::new();
        let (soon, late) = (Instant::now() + LONGEST_REST, Instant::now() + 2 * LONGEST_REST);
        pace.ask(late);
        pace.ask(soon);
        assert_eq!(pace.next, Some(soon));
        pace.ask(late);
        assert_eq!(pace.next, Some(soon));
    }
}
