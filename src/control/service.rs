//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, and that the workers live.
//!
//! Without a manager that asked to be told (`NOTIFY_SOCKET`) nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
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

/// How long a message may wait for a manager whose queue is full.
const PATIENCE: Duration = Duration::from_millis(100);

fn tell(state: &[NotifyState<'_>]) {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let message: String = state.iter().map(|state| format!("{state}\n")).collect();
    // A manager that went away, or is full of messages, is no reason to stop forwarding.
    let _ = send(&manager, &message);
}

/// What `sd_notify::notify` does, but for the time that it may take: a stopped manager would stop the caller.
fn send(manager: &OsStr, message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let address = match manager.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(manager)?,
    };
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        // As many as its queue holds (net.unix.max_dgram_qlen), each read again below.
        let sent = std::iter::repeat_with(|| send(path.as_os_str(), "WATCHDOG=1\n"))
            .take_while(Result::is_ok)
            .count();
        assert!(sent > 0);
        let begun = Instant::now();
        assert_eq!(send(path.as_os_str(), "full").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(begun.elapsed() < 20 * PATIENCE);
        for _ in 0..sent {
            let mut message = [0; 64];
            let length = manager.recv(&mut message).unwrap();
            assert_eq!(message[..length], *b"WATCHDOG=1\n");
        }
        send(path.as_os_str(), "READY=1\n").unwrap();
    }
}
