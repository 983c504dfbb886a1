//! One bounded iteration of a worker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};

use super::counters::Counters;
use super::outlet::Outlet;
use super::settings::{Posted, Settings};
use super::tap::{Tap, Tapped};
use crate::config::{Scope, Treatment};
use crate::frame::Ledger;
use crate::handback::{Handback, HandbackError};
use crate::packet::{Reason, Transform};
use crate::port::{BATCH, Port};

/// While the RX ring is not empty, frames are collected for the hand-back up to this number: its calls
/// have a fixed cost (about 13 us for live frames).
pub const FLUSH_AT: usize = 256;

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Frames taken from the port.
    pub received: usize,
    /// Frames that wait for the next turn to be handed back.
    pub pending: usize,
    /// True if the kernel did not take them for the moment: the next turn should come after a
    /// [pause](super::FLUSH_PAUSE).
    pub blocked: bool,
}

impl Progress {
    /// True if there is nothing to do before the next frame arrives.
    pub fn idle(self) -> bool {
        self.received == 0 && self.pending == 0
    }
}

/// The state of a worker between turns.
#[derive(Debug)]
pub struct Turn<P, H> {
    port: P,
    outlet: Outlet<H>,
    followed: Cache<Arc<ArcSwap<Settings>>, Arc<Settings>>,
    counters: Arc<Counters>,
}

impl<P: Port, H: Handback> Turn<P, H> {
    /// Moves frames from `port` to `handback`. A frame's rule is the one its metadata names, else that
    /// of `treatment`.
    pub fn new(port: P, handback: H, transform: Transform, treatment: Arc<Treatment>) -> Turn<P, H> {
        let counters = Arc::new(Counters::default());
        let settings = Posted::new(Settings::new(transform, Scope::from(&*treatment)));
        let outlet = Outlet::new(handback, Arc::clone(&counters));
        Turn { port, outlet, followed: Cache::new(settings.followed()), counters }
    }

    /// Goes by `settings`, as they are when a turn begins, and not by those it was made with.
    pub fn following(mut self, settings: Arc<ArcSwap<Settings>>) -> Turn<P, H> {
        self.followed = Cache::new(settings);
        self
    }

    /// What the next turn goes by.
    pub fn settings(&mut self) -> &Settings {
        self.followed.load()
    }

    /// Leaves copies of frames at `tap` while somebody captures, as those of this interface and queue.
    pub fn tapped(mut self, tap: Arc<Tap>, interface: u32, queue: u32) -> Turn<P, H> {
        self.outlet.tapped = Some(Tapped::new(tap, interface, queue));
        self
    }

    /// Reap, receive, transform, hand back, refill. Never blocks.
    ///
    /// # Errors
    /// [`HandbackError::Fatal`] if the kernel takes no frames any more; what was pending is dropped and
    /// counted, and so is what further turns receive.
    pub fn turn(&mut self) -> Result<Progress, HandbackError> {
        let Turn { port, outlet, followed, counters } = self;
        let settings = followed.load();
        outlet.handback.reap();
        if outlet.blocked() {
            outlet.flush();
        }
        let mut received = 0;
        if !outlet.blocked() {
            let receipt = port.receive(BATCH, |frame| outlet.take(frame, settings));
            received = receipt.frames + receipt.truncated;
            counters.received(received as u64);
            if receipt.truncated > 0 {
                counters.ended(Reason::Truncated, receipt.truncated as u64);
            }
            let due = received < BATCH || outlet.handback.pending() >= FLUSH_AT;
            if due && !outlet.blocked() {
                outlet.flush();
            }
        }
        port.refill();
        match outlet.broken() {
            Some(error) => Err(error),
            None => {
                let (pending, blocked) = (outlet.handback.pending(), outlet.blocked());
                Ok(Progress { received, pending, blocked })
            }
        }
    }

    /// Sleeps until there is something to receive, at most for `timeout`.
    ///
    /// # Errors
    /// As [`Port::wait`].
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.port.wait(timeout)
    }

    /// The time stamp of the XDP program up to which all frames have gone on their way in the kernel; 0: not known.
    pub fn served_ns(&mut self) -> u64 {
        self.outlet.served_ns()
    }

    /// Publishes what the kernel lost before the port.
    ///
    /// # Errors
    /// As [`Port::drops`].
    pub fn publish_drops(&self) -> io::Result<()> {
        self.counters.socket_drops(self.port.drops()?);
        Ok(())
    }

    /// Drops what is pending, and counts it.
    pub fn abandon(&mut self) {
        self.outlet.abandon();
    }

    /// What this worker counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Where frames come from.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// Where frames come from, to change it between turns.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Where frames go.
    pub fn handback(&self) -> &H {
        &self.outlet.handback
    }

    /// Where frames go, to change it between turns.
    pub fn handback_mut(&mut self) -> &mut H {
        &mut self.outlet.handback
    }

    /// The memory of the port and of the hand-back.
    pub fn ledgers(&self) -> [Ledger; 2] {
        [self.port.ledger(), self.outlet.handback.ledger()]
    }
}
