//! What libbpf says while it works: kept quiet, and shown with the error if it fails.

use std::collections::VecDeque;
use std::sync::Mutex;

use libbpf_rs::{PrintLevel, set_print};

/// The end of a verifier log says what is wrong; all of it can be megabytes.
const LINES: usize = 24;

static LAST: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Runs `work` and answers its result; an error comes with libbpf's last warnings, a line each.
///
/// The warnings are the process's: of two loads at a time each may show the other's.
pub(super) fn captured<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, (E, String)> {
    set_print(Some((PrintLevel::Warn, keep)));
    lines().clear();
    work().map_err(|error| {
        let said: Vec<String> = lines().drain(..).collect();
        (error, said.join("\n"))
    })
}

fn keep(_level: PrintLevel, message: String) {
    let mut lines = lines();
    for line in message.lines().filter(|line| !line.trim().is_empty()) {
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

fn lines() -> std::sync::MutexGuard<'static, VecDeque<String>> {
    LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
