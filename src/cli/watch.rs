//! `stats --watch`: the table again and again, with colours where there is a terminal that wants them.

use std::io::{IsTerminal, Write, stdout};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};

use super::{Failure, output};

/// Cursor home, clear to the end of the screen.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Counters of frames or messages lost.
const LOSSES: &[&str] = &["handback_full", "handback_error", "truncated", "notify_errors"];

/// Shows `text` in place of what was shown before; to anything but a terminal it is appended.
pub(super) fn show(text: &str) -> Result<(), Failure> {
    if !stdout().is_terminal() {
        return output::print(text);
    }
    // Takes the colours out again where the terminal does not want them (NO_COLOR, TERM=dumb).
    let mut painted = AutoStream::new(Vec::new(), AutoStream::choice(&stdout()));
    for line in text.lines() {
        let style = style(line);
        // Writing to memory does not fail.
        let _ = writeln!(painted, "{style}{line}{style:#}");
    }
    output::print(&format!("{REDRAW}{}", String::from_utf8_lossy(&painted.into_inner())))
}

/// Headers stand out, and so do losses.
fn style(line: &str) -> Style {
    let first = line.split_whitespace().next().unwrap_or_default();
    if LOSSES.contains(&first) {
        return AnsiColor::Red.on_default().bold();
    }
    match first.len() > 1 && first.chars().all(|c| c.is_ascii_uppercase()) {
        true => Style::new().bold(),
        false => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_headers_stand_out() {
        assert_eq!(style("handback_error      0        3  dropped"), AnsiColor::Red.on_default().bold());
        assert_eq!(style("COUNTER           XDP  WORKERS  MEANING"), Style::new().bold());
        assert_eq!(style("fragmented          0        3  oversize"), Style::new());
        assert_eq!(style(""), Style::new());
    }
}
