//! What workers go by: exchanged as a whole, between two turns.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::notify::Notifier;
use crate::config::Scope;
use crate::packet::{Rule, Transform};

/// `--stall` unless told otherwise.
const STALL: Duration = Duration::from_millis(100);

/// What a worker goes by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose rule a frame without metadata has.
    pub scope: Arc<Scope>,
    /// While the XDP program goes from one scope to another: the one before, for what `scope` has no rule for. Either may
    /// have been why a frame came.
    pub before: Option<Arc<Scope>>,
    /// `--df` and `--tcp`, with the run's one stock of identifications.
    pub transform: Transform,
    /// `--notify`.
    pub notifier: Option<Arc<Notifier>>,
    /// Age at which a heartbeat is stale: a worker beats four times as often at least.
    pub stall: Duration,
}

impl Settings {
    /// Nobody is notified, and a heartbeat is stale after the default time.
    pub fn new(transform: Transform, scope: Scope) -> Settings {
        Settings { scope: Arc::new(scope), before: None, transform, notifier: None, stall: STALL }
    }

    /// The rule of a frame without metadata.
    #[inline]
    pub fn rule(&self, source: IpAddr, destination: IpAddr) -> Option<Rule> {
        let before = || self.before.as_ref()?.rule(source, destination);
        self.scope.rule(source, destination).or_else(before)
    }
}

/// Where an interface's workers find their settings. A look costs them one load; a change is taken over by each
/// worker between two of its turns, so that a frame is treated by one setting or the other.
#[derive(Debug)]
pub struct Posted {
    newest: Arc<ArcSwap<Settings>>,
    /// Those before, while a worker may have them: freeing a large scope is not a worker's work.
    before: Vec<Arc<Settings>>,
}

impl Posted {
    /// For workers to be started.
    pub fn new(settings: Settings) -> Posted {
        Posted { newest: Arc::new(ArcSwap::from_pointee(settings)), before: Vec::new() }
    }

    /// For [`Turn::following`](super::Turn::following).
    pub fn followed(&self) -> Arc<ArcSwap<Settings>> {
        Arc::clone(&self.newest)
    }

    /// The newest settings: a copy, so that what [`taken`](Posted::taken) counts are workers.
    pub fn now(&self) -> Settings {
        (**self.newest.load()).clone()
    }

    /// Replaces them.
    pub fn change(&mut self, settings: Settings) {
        self.before.push(self.newest.swap(Arc::new(settings)));
        self.taken();
    }

    /// True once no worker goes by older settings any more.
    pub fn taken(&mut self) -> bool {
        self.before.retain_mut(|settings| Arc::get_mut(settings).is_none());
        self.before.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::Cache;

    use super::*;
    use crate::packet::{Df, Idents, Tcp};

    #[test]
    fn settings_are_taken_when_the_last_worker_has_looked_or_is_gone() {
        let transform =
            Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::with_seed(1)) };
        let mut posted = Posted::new(Settings::new(transform, Scope::default()));
        let (mut first, mut second) = (Cache::new(posted.followed()), Cache::new(posted.followed()));
        let stall = |seconds| Settings { stall: Duration::from_secs(seconds), ..posted.now() };
        let (one, two) = (stall(1), stall(2));
        posted.change(one);
        assert!(!posted.taken());
        assert_eq!(first.load().stall, Duration::from_secs(1));
        assert!(!posted.taken(), "the second has not looked yet");
        posted.change(two);
        assert_eq!(second.load().stall, Duration::from_secs(2));
        assert!(!posted.taken(), "the first is one behind");
        drop(first);
        assert!(posted.taken());
    }
}
