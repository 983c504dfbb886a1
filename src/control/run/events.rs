//! What the main thread waits for, as messages.

use std::io;
use std::os::fd::AsFd;
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::control::news::give_up_privileges;
use crate::net::addresses::{Changes, Monitor};

/// SIGINT, SIGTERM and SIGHUP as messages. The thread lives as long as the process.
pub(super) fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let (send, receive) = bounded(1);
    thread::Builder::new().name("signals".into()).spawn(move || {
        give_up_privileges();
        for signal in signals.forever() {
            if send.send(signal).is_err() {
                break;
            }
        }
    })?;
    Ok(receive)
}

/// Changes of addresses and interfaces as messages, one at a time: while nobody takes it, further ones wait in the
/// socket and become one, too. The thread lives until the receiver is dropped and
/// something changes once more, or as long as the process.
pub(super) fn monitor() -> io::Result<Receiver<Changes>> {
    let mut monitor = Monitor::open()?;
    let (send, receive) = bounded(1);
    let watch = move |send: &Sender<Changes>| -> io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if send.send(monitor.changes()?).is_err() {
                return Ok(());
            }
        }
    };
    // The error closes the channel, which ends the run: nobody would know of new addresses.
    thread::Builder::new().name("monitor".into()).spawn(move || {
        give_up_privileges();
        let mut watch = watch;
        watch(&send)
    })?;
    Ok(receive)
}
