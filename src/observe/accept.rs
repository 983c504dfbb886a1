//! What to do when the kernel does not let a client in.

use std::io;
use std::time::Duration;

/// How long to leave clients waiting then.
const PAUSE: Duration = Duration::from_millis(100);

/// The client, or none, after a pause where that is the kernel's doing. Out of descriptors, say, the client stays in
/// the queue, which polls as ready again at once.
pub(super) fn or_pause<T>(accepted: io::Result<T>) -> Option<T> {
    accepted
        .inspect_err(|error| {
            // The client has gone away.
            if error.kind() != io::ErrorKind::WouldBlock {
                std::thread::sleep(PAUSE);
            }
        })
        .ok()
}
