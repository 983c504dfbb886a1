//! Files that hold captures: `-` is standard input and output; what exists and is no regular file is written to or
//! refused, and never replaced.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::Failure;

const STANDARD: &str = "-";

/// Opens a capture for reading.
pub(super) fn input(path: &Path) -> Result<File, Failure> {
    if path.as_os_str() != STANDARD {
        return File::open(path).map_err(|error| {
            Failure::Usage(format!("cannot open {}: {error}; give a pcap or pcapng file", path.display()))
        });
    }
    if io::stdin().is_terminal() {
        let what = "standard input is a terminal; pipe a capture into it: tcpdump -r IN -w - | xdpfrag replay - OUT ...";
        return Err(Failure::Usage(what.into()));
    }
    Ok(standard(io::stdin())?)
}

/// A descriptor of its own for a standard stream, without the buffer of [`io::Stdin`] and [`io::Stdout`].
fn standard(stream: impl AsFd) -> anyhow::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned().context("cannot use a standard stream")?.into())
}

/// Where a capture goes.
#[derive(Debug)]
pub(super) enum Output {
    /// Standard output, where nothing else may go.
    Standard(File),
    /// A pipe or device.
    Stream(File),
    /// A regular file, which is there already or not: links are followed.
    File(PathBuf),
}

impl Output {
    /// Finds out what `path` is.
    pub(super) fn find(path: &Path) -> Result<Output, Failure> {
        let refused = |why: &str| Err(Failure::Usage(format!("cannot write {}: {why}", path.display())));
        if path.as_os_str() == STANDARD {
            return Output::standard();
        }
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() != ErrorKind::NotFound => return refused(&error.to_string()),
            // As cp(1): who made the link may have meant something else.
            Err(_) if path.is_symlink() => {
                return refused("it is a link to a file that is not there; name that file");
            }
            Err(_) if path.file_name().is_none() => return refused("it is not the name of a file"),
            Err(_) => return Ok(Output::File(path.to_owned())),
        };
        let kind = found.file_type();
        // By whatever name, such as /dev/stdout.
        if (kind.is_file() || kind.is_fifo()) && is_standard_output(&found) {
            return Output::standard();
        }
        let write = || OpenOptions::new().write(true).open(path);
        if kind.is_file() {
            return match (write(), fs::canonicalize(path)) {
                (Err(error), _) => refused(&error.to_string()),
                // Deleted, and reached by its descriptor (/dev/fd/3).
                (Ok(file), Err(_)) => Ok(Output::Stream(file)),
                (Ok(_), Ok(target)) => Ok(Output::File(target)),
            };
        }
        if kind.is_fifo() || kind.is_char_device() {
            return match write() {
                Ok(file) if file.is_terminal() => refused(TERMINAL),
                Ok(file) => Ok(Output::Stream(file)),
                Err(error) => refused(&error.to_string()),
            };
        }
        refused(match kind {
            kind if kind.is_dir() => "it is a directory; name a file in it",
            kind if kind.is_block_device() => "it is a block device; name a file",
            _ => "it is a socket; name a file or a pipe",
        })
    }

    fn standard() -> Result<Output, Failure> {
        match io::stdout().is_terminal() {
            true => Err(Failure::Usage(format!("cannot write to standard output: {TERMINAL}"))),
            false => Ok(Output::Standard(standard(io::stdout())?)),
        }
    }
}

const TERMINAL: &str =
    "it is a terminal, and a capture is not text; name a file, or read it with: ... | tcpdump -nr -";

fn is_standard_output(found: &Metadata) -> bool {
    let Ok(output) = standard(io::stdout()).and_then(|file| Ok(file.metadata()?)) else { return false };
    (output.dev(), output.ino()) == (found.dev(), found.ino())
}

/// A new file that takes the place of another once it is complete, or vanishes: at the end of this value, and at a
/// signal that ends the process.
#[derive(Debug)]
pub(super) struct Replacement {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
}

impl Replacement {
    /// Of the file at `target`, with its owner and mode if it exists.
    pub(super) fn of(target: PathBuf) -> Result<Replacement, Failure> {
        let refused = |why: &dyn std::fmt::Display| {
            Failure::Usage(format!("cannot write {}: no file beside it: {why}", target.display()))
        };
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".xdpfrag-{}", std::process::id()));
        let temporary = target.with_file_name(name);
        vanish_at_signals(temporary.clone()).map_err(|error| refused(&error))?;
        let file = File::create_new(&temporary).map_err(|error| refused(&error))?;
        let replacement = Replacement { file, temporary, target };
        if let Ok(old) = fs::metadata(&replacement.target) {
            // Only root may give files away; the mode must not open it to more than could read it before.
            let _ = fchown(&replacement.file, Some(old.uid()), Some(old.gid()));
            replacement.file.set_permissions(old.permissions()).context("cannot set its mode")?;
        }
        Ok(replacement)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Puts it in the place of the other.
    pub(super) fn publish(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.target)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // Gone already if it was published.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A bit for each signal that this process was started to ignore, as in proc(5).
fn ignored_signals() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| ErrorKind::InvalidData.into())
}

fn vanish_at_signals(temporary: PathBuf) -> io::Result<()> {
    let ignored = ignored_signals()?;
    // Whoever started it under nohup(1), or in the background of a script, wants it to go on.
    let ends = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(ends)?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _ = fs::remove_file(&temporary);
            // It ends the process as if nobody had waited for the signal.
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}
