//! When the machine is looked at again: what goes into which tunnel, and what meets it on its way.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use super::conntrack::{Machine, Silent};
use super::news::watch;
use super::pace::Pace;
use super::tunnels::Tunnels;
use crate::config::Plan;
use crate::net::{Changes, nft};

/// With `--mtu auto`: the kernel does not report path MTUs that it learns, and `disable_xfrm`; looked at again after this
/// time.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// When to look again at what could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// The news and the clock.
#[derive(Debug)]
pub(super) struct Follower {
    /// Tunnels, routes or interfaces have changed. Ends if the kernel ends the subscription.
    pub(super) news: Receiver<()>,
    /// The same for rules of nftables and policies.
    pub(super) rules: Receiver<()>,
    /// When to look.
    pub(super) pace: Pace,
    auto: bool,
    /// The rules as they were read last; `None` if they have to be read again.
    machine: Option<io::Result<Machine>>,
    silent: Silent,
    said: BTreeSet<String>,
}

impl Follower {
    /// Subscribes; before anything is read, so that no change is missed.
    ///
    /// # Errors
    /// If the kernel refuses, or has no XFRM and the plan says `--mtu auto`.
    pub(super) fn start(plan: &Plan) -> io::Result<Follower> {
        let auto = plan.auto.is_some();
        let mut monitor = nft::Monitor::open()?;
        let rules = watch("rules", move || monitor.wait())?;
        let (pace, silent) = (Pace::new(), Silent::default());
        Ok(Follower { news: tunnels(auto)?, rules, pace, auto, machine: None, silent, said: BTreeSet::new() })
    }

    /// Subscribes to what `plan` needs, if that is something else.
    ///
    /// # Errors
    /// As [`start`](Follower::start).
    pub(super) fn news_for(&self, plan: &Plan) -> io::Result<Option<Receiver<()>>> {
        let auto = plan.auto.is_some();
        (auto != self.auto).then(|| tunnels(auto)).transpose()
    }

    /// Follows what `plan` needs from now on, by its `news` if they are others.
    pub(super) fn change(&mut self, plan: &Plan, news: Option<Receiver<()>>) {
        self.auto = plan.auto.is_some();
        if let Some(news) = news {
            self.news = news;
        }
    }

    /// Tunnels, routes or interfaces have changed: look soon.
    pub(super) fn changed(&mut self) {
        self.pace.ask(Instant::now());
    }

    /// Rules, policies or interfaces have changed: look soon.
    pub(super) fn rules_changed(&mut self) {
        self.machine = None;
        self.changed();
    }

    /// Looks at what the kernel does not tell.
    pub(super) fn listen(&mut self) {
        if Silent::read().differs(&self.silent) {
            self.rules_changed();
        }
    }

    /// Reads what `plan` depends on, and sets the clock for the next time.
    ///
    /// # Errors
    /// If the kernel does not answer for tunnels and routes; the clock is set.
    pub(super) fn look<T>(
        &mut self,
        plan: &Plan,
        look: impl FnOnce(&Tunnels, Result<&Machine, &io::Error>) -> T,
    ) -> io::Result<T> {
        let began = Instant::now();
        let Follower { pace, machine, silent, .. } = self;
        let result = pace.work(|| {
            if machine.is_none() {
                *silent = Silent::read();
            }
            let machine = machine.get_or_insert_with(Machine::read).as_ref();
            Tunnels::read(plan).map(|tunnels| look(&tunnels, machine))
        });
        let unread = matches!(machine, Some(Err(_)));
        if unread {
            self.machine = None;
        }
        if unread || result.is_err() {
            self.pace.ask(began + RETRY);
        } else if self.auto {
            self.pace.ask(began + INTERVAL);
        }
        result
    }

    /// Something could not be changed: look again later.
    pub(super) fn retry(&mut self) {
        self.pace.ask(Instant::now() + RETRY);
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

/// News of tunnels, routes and interfaces; of a kernel without XFRM of the latter, unless `auto`.
fn tunnels(auto: bool) -> io::Result<Receiver<()>> {
    let mut changes = Changes::open(!auto)?;
    watch("tunnels", move || changes.wait())
}
