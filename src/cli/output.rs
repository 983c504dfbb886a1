//! Standard output, and messages of short commands on standard error.

use std::io::{ErrorKind, Write};

use anyhow::Context;
use serde::Serialize;

use super::Failure;

/// Writes `text` to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => anyhow::Error::new(error).context("cannot write to standard output").into(),
    })
}

/// Writes `line` and a newline to standard error. If nobody reads there is nobody to tell.
pub(super) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes `value` as indented JSON and a newline to standard output.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&json(value)?)
}

/// `value` as indented JSON and a newline.
pub(super) fn json(value: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
    text.push('\n');
    Ok(text)
}
