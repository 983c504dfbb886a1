//! How an idle worker waits: whether it looks for frames a little longer, or sleeps.
//!
//! Looking saves a wake-up of some 10 us where frames come from another core. It does harm where the
//! driver's NAPI runs on the worker's own core in a thread (threaded NAPI, ksoftirqd): nothing can arrive
//! there before the worker sleeps. Which of the two it is shows in whether looking finds anything.

use crate::config::Poll;

/// With `--poll adaptive`: how long to look for frames before sleeping, ns.
const LOOK_NS: u64 = 50_000;
/// Looks in a row that found nothing after which the worker sleeps at once ...
const MISSES: u32 = 8;
/// ... so many times, before it tries again.
const SLEEPS: u32 = 1000;

/// What the last looks found.
#[derive(Debug)]
pub(super) struct Spin {
    poll: Poll,
    looking: bool,
    misses: u32,
    sleeps_left: u32,
}

impl Spin {
    pub(super) fn new(poll: Poll) -> Spin {
        Spin { poll, looking: false, misses: 0, sleeps_left: 0 }
    }

    /// Frames came.
    #[inline]
    pub(super) fn found(&mut self) {
        if self.looking {
            (self.looking, self.misses) = (false, 0);
        }
    }

    /// Nothing came for `idle_ns`: true to look again at once, false to sleep.
    #[inline]
    pub(super) fn look(&mut self, idle_ns: u64) -> bool {
        match self.poll {
            Poll::Busy => return true,
            Poll::Wait => return false,
            Poll::Adaptive => {}
        }
        if self.sleeps_left > 0 {
            self.sleeps_left -= 1;
            return false;
        }
        if idle_ns < LOOK_NS {
            self.looking = true;
            return true;
        }
        if self.looking {
            self.looking = false;
            self.misses += 1;
            if self.misses == MISSES {
                (self.misses, self.sleeps_left) = (0, SLEEPS);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One idle phase: looks until it sleeps; false if it did not look at all.
    fn misses(spin: &mut Spin) -> bool {
        let looked = spin.look(0);
        while spin.look(LOOK_NS) {}
        looked
    }

    #[test]
    fn looking_that_finds_nothing_is_given_up_for_a_while() {
        let mut spin = Spin::new(Poll::Adaptive);
        for _ in 0..MISSES {
            assert!(misses(&mut spin));
        }
        for _ in 0..SLEEPS {
            assert!(!spin.look(0));
        }
        assert!(misses(&mut spin), "it tries again");
    }

    #[test]
    fn looking_that_finds_something_goes_on() {
        let mut spin = Spin::new(Poll::Adaptive);
        for round in 0..10 * MISSES {
            if round % MISSES == 0 {
                assert!(spin.look(0));
                spin.found();
            } else {
                assert!(misses(&mut spin), "round {round}");
            }
        }
    }

    #[test]
    fn a_long_silence_is_one_miss() {
        let mut spin = Spin::new(Poll::Adaptive);
        assert!(misses(&mut spin));
        for _ in 0..10 * MISSES {
            assert!(!spin.look(LOOK_NS));
        }
        assert!(spin.look(0));
    }

    #[test]
    fn the_other_policies_do_not_adapt() {
        let (mut busy, mut wait) = (Spin::new(Poll::Busy), Spin::new(Poll::Wait));
        for idle_ns in [0, LOOK_NS, u64::MAX] {
            assert!(busy.look(idle_ns) && !wait.look(idle_ns));
        }
    }
}
