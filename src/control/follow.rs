//! When `--mtu auto` looks at the tunnels again.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, never};

use super::news::watch;
use super::pace::Pace;
use super::tunnels::Tunnels;
use crate::config::Plan;
use crate::net::Changes;

/// The kernel does not report path MTUs that it learns, and `disable_xfrm`: looked at again after this time.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// The news and the clock.
#[derive(Debug)]
pub(super) struct Follower {
    /// Something changed. Ends if the kernel ends the subscription.
    pub(super) news: Receiver<()>,
    /// When to look.
    pub(super) pace: Pace,
    said: BTreeSet<String>,
}

impl Follower {
    /// Subscribes; before the tunnels are read, so that no change is missed. Without `--mtu auto` it is quiet for ever.
    ///
    /// # Errors
    /// If the kernel has no XFRM, or refuses.
    pub(super) fn start(plan: &Plan) -> io::Result<Follower> {
        let quiet = Follower { news: never(), pace: Pace::new(), said: BTreeSet::new() };
        if plan.auto.is_none() {
            return Ok(quiet);
        }
        let mut changes = Changes::open()?;
        let news = watch("tunnels", move || changes.wait())?;
        Ok(Follower { news, ..quiet })
    }

    /// Something changed: look soon.
    pub(super) fn changed(&mut self) {
        self.pace.ask(Instant::now());
    }

    /// Reads the tunnels, and sets the clock for the next time.
    ///
    /// # Errors
    /// If the kernel does not answer; the clock is set.
    pub(super) fn look<T>(&mut self, look: impl FnOnce(&Tunnels) -> T) -> io::Result<T> {
        let began = Instant::now();
        let result = self.pace.work(|| Tunnels::read().map(|tunnels| look(&tunnels)));
        self.pace.ask(began + INTERVAL);
        result
    }

    /// Those of `lines` that have not been said before.
    pub(super) fn unsaid(&mut self, lines: Vec<String>) -> Vec<String> {
        lines.into_iter().filter(|line| self.said.insert(line.clone())).collect()
    }

    /// Lets lines that begin with `start` be said again: what they told is over.
    pub(super) fn forget(&mut self, start: &str) {
        self.said.retain(|line| !line.starts_with(start));
    }
}
