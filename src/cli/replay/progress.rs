//! How far `replay` got, on a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use crate::observe::layout::grouped;

/// How often a person wants to see a change.
const INTERVAL: Duration = Duration::from_millis(200);
const MEGABYTE: u64 = 1_000_000;

/// One line on standard error that is written again and again; nothing if that is no terminal.
pub(super) struct Progress {
    /// Bytes of the file, if it is one.
    total: Option<u64>,
    begun: Instant,
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    pub(super) fn new(total: Option<u64>) -> Progress {
        let begun = Instant::now();
        Progress { total, begun, next: stderr().is_terminal().then(|| begun + INTERVAL), shown: false }
    }

    /// `read` bytes are done.
    pub(super) fn reached(&mut self, read: u64) {
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now < next {
            return;
        }
        self.next = Some(now + INTERVAL);
        self.shown = true;
        show(&format!("\r{}\x1b[K", line(read, self.total, now - self.begun)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            show("\r\x1b[K");
        }
    }
}

/// Nobody who looks away ends the work.
fn show(text: &str) {
    let mut out = stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line(read: u64, total: Option<u64>, elapsed: Duration) -> String {
    let megabytes = |bytes: u64| grouped(bytes / MEGABYTE);
    let Some(total) = total.filter(|total| *total > 0) else { return format!("{} MB", megabytes(read)) };
    let done = read.min(total) as f64 / total as f64;
    let left = elapsed.as_secs_f64() / done.max(f64::EPSILON) * (1.0 - done);
    format!("{:3.0} %, {} of {} MB, {left:.0} s left", done * 100.0, megabytes(read), megabytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_of_a_file_is_done_and_how_long_the_rest_takes() {
        let second = Duration::from_secs(1);
        assert_eq!(line(250 * MEGABYTE, Some(1000 * MEGABYTE), second), " 25 %, 250 of 1,000 MB, 3 s left");
        assert_eq!(line(5, Some(0), second), "0 MB");
        assert_eq!(line(7_500_000, None, second), "7 MB");
    }
}
