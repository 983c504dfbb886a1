//! `stats --watch`: the table again and again, with colours where there is a terminal that wants them.

use std::io::{IsTerminal, Write, stdout};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};

use super::{Failure, output};
use crate::observe::table;

/// Cursor home, clear to the end of the screen.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Shows `text` in place of what was shown before; to anything but a terminal it is appended.
pub(super) fn show(text: &str) -> Result<(), Failure> {
    if !stdout().is_terminal() {
        return output::print(text);
    }
    // Takes the colours out again where the terminal does not want them (NO_COLOR, TERM=dumb).
    let mut painted = AutoStream::new(Vec::new(), AutoStream::choice(&stdout()));
    // What does not fit would push what stands above off the screen.
    let rows = rustix::termios::tcgetwinsize(stdout()).map_or(0, |size| usize::from(size.ws_row));
    for line in cut(text, rows) {
        let style = style(line);
        // Writing to memory does not fail.
        let _ = writeln!(painted, "{style}{line}{style:#}");
    }
    output::print(&format!("{REDRAW}{}", String::from_utf8_lossy(&painted.into_inner())))
}

/// Says that there is nothing to show: on a terminal in place of the table, else on standard error.
pub(super) fn say(message: &str) -> Result<(), Failure> {
    if stdout().is_terminal() {
        return show(message);
    }
    output::tell(message);
    Ok(())
}

/// The lines of `text` that a terminal of so many rows has room for, above the cursor; 0 is a terminal that does not say.
fn cut(text: &str, rows: usize) -> impl Iterator<Item = &str> {
    let (lines, room) = (text.lines().count(), rows.saturating_sub(1));
    let cut = rows > 0 && lines > room;
    let shown = if cut { room.saturating_sub(1) } else { lines };
    text.lines().take(shown).chain(cut.then_some("... more than this window holds: xdpfrag stats"))
}

/// Headers stand out, and so do losses.
fn style(line: &str) -> Style {
    if table::is_loss(line) {
        return AnsiColor::Red.on_default().bold();
    }
    let first = line.split_whitespace().next().unwrap_or_default();
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

    #[test]
    fn what_a_terminal_cannot_hold_is_cut_off_below() {
        let cut = |rows| cut("a\nb\nc\nd\n", rows).collect::<Vec<_>>();
        assert_eq!([cut(0), cut(5)], [["a", "b", "c", "d"]; 2]);
        let short = cut(4);
        assert_eq!(short[..2], ["a", "b"]);
        assert!(short.len() == 3 && short[2].contains("xdpfrag stats"), "{short:?}");
        assert_eq!(cut(1).len(), 1);
    }
}
