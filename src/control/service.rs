//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, and that the workers live.
//!
//! Without a manager that asked to be told (`NOTIFY_SOCKET`) nothing is sent.

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, never, tick};
use sd_notify::NotifyState;

/// Forwarding has begun.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What is served is not what it was.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub(super) fn reloading() {
    // Without a clock the manager would wait for a time stamp: then it is not told.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Every worker has shown a sign of life.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Fires when [`alive`] is due: twice as often as the manager asks for; never if it does not.
pub(super) fn due() -> Receiver<Instant> {
    let mut usec = 0;
    match sd_notify::watchdog_enabled(false, &mut usec) {
        true => tick(Duration::from_micros((usec / 2).max(1000))),
        false => never(),
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // A manager that went away, or is full of messages, is no reason to stop forwarding.
    let _ = sd_notify::notify(false, state);
}
