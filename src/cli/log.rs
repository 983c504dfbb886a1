//! Messages of `run` on standard error: text for people and journald, JSON for collectors.
//!
//! A message that cannot be written is no reason to stop forwarding, and nobody waits for its reader ([`queue`]).

mod queue;

use std::fmt;
use std::io::{self, stderr};

use nix::sys::signal::{SigSet, Signal};
use tracing::dispatcher::has_been_set;
use tracing::subscriber::set_global_default;
use tracing::{Event, Level, Subscriber, error, info, warn};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, fmt};
use tracing_subscriber::registry::LookupSpan;

use super::{Failure, output};
use crate::config::{LogFormat, LogLevel};

/// What begins a message of level WARN.
const WARNING: &str = "warning: ";

/// Messages go to standard error from here on.
///
/// # Errors
/// If there can be no thread that writes them.
pub(super) fn start(format: LogFormat, level: LogLevel) -> io::Result<()> {
    ignore_signals_of_output()?;
    queue::start(stderr())?;
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    let subscriber = fmt()
        .with_writer(|| queue::Line)
        .with_max_level(level)
        .with_ansi(false)
        // It would be said on standard error, by a panic where that is closed.
        .log_internal_errors(false);
    let installed = match format {
        LogFormat::Json => {
            set_global_default(subscriber.json().flatten_event(true).with_target(false).finish())
        }
        LogFormat::Text => {
            // Set by systemd where standard error leads to the journal (systemd.exec(5)).
            let journal = std::env::var_os("JOURNAL_STREAM").is_some();
            set_global_default(subscriber.event_format(Line { journal }).finish())
        }
    };
    // It fails only if messages go somewhere already.
    let _ = installed;
    Ok(())
}

/// The kernel stops a process of the background that writes to its terminal (`stty tostop`), and kills one whose file
/// grows beyond `ulimit -f`: threads that block these signals get an error or are let through instead. This one does,
/// and all that it starts.
fn ignore_signals_of_output() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTTOU);
    signals.add(Signal::SIGXFSZ);
    Ok(signals.thread_block()?)
}

/// Dropped at the end of the program, it sees to it that what was said is written.
pub(super) struct Flush;

impl Drop for Flush {
    fn drop(&mut self) {
        queue::flush();
    }
}

/// Why the program ends: by way of the log once there is one, a message for each line.
pub(super) fn fail(failure: &Failure) {
    if has_been_set() {
        failure.to_string().lines().for_each(|line| error!("{line}"));
    } else {
        output::tell(&format!("xdpfrag: {failure}"));
    }
}

/// A message of control.
pub(super) fn say(line: &str) {
    match line.split_once(WARNING) {
        Some((before, rest)) if before.is_empty() || before.ends_with(": ") => warn!("{before}{rest}"),
        _ => info!("{line}"),
    }
}

/// One line per message: `xdpfrag: warning: ...`.
struct Line {
    /// Begin it with its priority as in sd-daemon(3), which journald takes off again.
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.journal {
            write!(out, "<{}>", priority(level))?;
        } else {
            write!(out, "xdpfrag: ")?;
        }
        if level == Level::WARN {
            write!(out, "{WARNING}")?;
        }
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// syslog(3): err, warning, info, debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}
