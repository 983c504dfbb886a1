//! Lines on their way to standard error, which a thread of their own writes.
//!
//! Who reads them may be gone, slow or stopped, and their disk may be full. Nobody who has something to say waits for
//! that, or fails because of it: a line that finds no room, or cannot be written, is counted, and the log says so as
//! soon as it can.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::control;

/// Lines that may wait: what a busy start and a hundred tunnels have to say.
const ROOM: usize = 1024;
/// How long the end of the program waits for a reader.
const PATIENCE: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Sender<Message>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

enum Message {
    Line(Vec<u8>),
    /// All before it is written.
    Flushed(Sender<()>),
}

/// Starts the thread that writes to `out`, once per process.
///
/// # Errors
/// If there can be no thread.
pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<()> {
    let (send, receive) = bounded(ROOM);
    if QUEUE.set(send).is_ok() {
        thread::Builder::new().name("log".into()).spawn(move || {
            control::give_up_privileges();
            write(&receive, out);
        })?;
    }
    Ok(())
}

fn write(lines: &Receiver<Message>, mut out: impl Write) {
    for message in lines {
        match message {
            Message::Line(line) => match out.write_all(&line) {
                Ok(()) => match LOST.swap(0, Ordering::Relaxed) {
                    0 => {}
                    lost => {
                        tracing::warn!("{lost} messages are lost: nobody read them, or the disk was full")
                    }
                },
                Err(_) => count_lost(),
            },
            // Whoever asked may have stopped to wait.
            Message::Flushed(done) => drop(done.send(())),
        }
    }
}

fn count_lost() {
    LOST.fetch_add(1, Ordering::Relaxed);
}

/// Waits until all lines are written, or a second.
pub(super) fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (done, written) = bounded(1);
    if queue.send_timeout(Message::Flushed(done), PATIENCE).is_ok() {
        // Nobody reads: the program ends all the same.
        let _ = written.recv_timeout(PATIENCE);
    }
}

/// Takes one line by each call of `write`; never fails, never waits.
#[derive(Debug)]
pub(super) struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let queued = QUEUE.get().is_some_and(|queue| queue.try_send(Message::Line(line.to_vec())).is_ok());
        if !queued {
            count_lost();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
