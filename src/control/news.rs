//! Threads that wait for news of the kernel, with nothing to tell but that there is some.

use std::io;
use std::thread;

use crossbeam::channel::{Receiver, TrySendError, bounded};

use crate::worker::privileges;

/// Starts a thread that sends one message after each return of `wait`. One may wait to be read: it stands for all that
/// has changed until then. The channel ends when `wait` fails; the thread, with that, or when nobody reads any more
/// and there is news once more.
///
/// # Errors
/// If no thread can be made.
pub(super) fn watch(
    name: &str,
    mut wait: impl FnMut() -> io::Result<()> + Send + 'static,
) -> io::Result<Receiver<()>> {
    let (send, news) = bounded(1);
    thread::Builder::new().name(name.into()).spawn(move || {
        give_up_privileges();
        while wait().is_ok() {
            if let Err(TrySendError::Disconnected(())) = send.try_send(()) {
                break;
            }
        }
    })?;
    Ok(news)
}

/// Of a thread that starts before the set-up is done. What it keeps harms nothing that the main thread, which
/// says so, does not.
pub fn give_up_privileges() {
    let _ = privileges::lower();
}
