//! Messages of `run` on standard error: text for people and journald, JSON for collectors.

use std::fmt;
use std::io::stderr;

use tracing::dispatcher::has_been_set;
use tracing::subscriber::set_global_default;
use tracing::{Event, Level, Subscriber, error, info, warn};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, fmt};
use tracing_subscriber::registry::LookupSpan;

use super::Failure;
use crate::config::{LogFormat, LogLevel};

/// What begins a message of level WARN.
const WARNING: &str = "warning: ";

/// Messages go to standard error from here on.
pub(super) fn start(format: LogFormat, level: LogLevel) {
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    let subscriber = fmt().with_writer(stderr).with_max_level(level).with_ansi(false);
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
}

/// Why the program ends: by way of the log once there is one, a message for each line.
pub(super) fn fail(failure: &Failure) {
    if has_been_set() {
        failure.to_string().lines().for_each(|line| error!("{line}"));
    } else {
        eprintln!("xdpfrag: {failure}");
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
