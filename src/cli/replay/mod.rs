//! `replay`: what `run` does to packets, on a capture file.

mod capture;
mod pcapng;
mod rewriter;

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, output};
use crate::config::{TreatmentArgs, validate};
use capture::CaptureError;
use rewriter::Rewriter;

/// The arguments of `replay`.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Capture to read: pcap or pcapng, of Ethernet frames
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// Capture to write, in the format of IN; replaced if it exists, left as it was on failure
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// Scope, SA MTU and policies.
    #[command(flatten)]
    treatment: TreatmentArgs,

    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    let mut rewriter = Rewriter::new(&validate::treatment(&args.treatment)?);
    let shown = args.input.display();
    let input = File::open(&args.input).map_err(|error| {
        Failure::Usage(format!("cannot open {shown}: {error}; give a pcap or pcapng file"))
    })?;
    let output = Replacement::of(&args.output)?;
    let rewritten = capture::rewrite(BufReader::new(input), BufWriter::new(&output.file), &mut rewriter);
    rewritten.map_err(|error| match error {
        CaptureError::Write(error) => cannot_write(&args.output, &error),
        error => Failure::Usage(format!("{shown}: {error}")),
    })?;
    output.publish()?;
    let counts = rewriter.into_counts();
    match args.json {
        true => output::print_json(&counts),
        false => output::print(&counts.to_string()),
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Running(anyhow::anyhow!("cannot write {}: {error}", path.display()))
}

/// A new file that takes the place of another once it is complete, or vanishes.
struct Replacement {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
}

impl Replacement {
    fn of(path: &Path) -> Result<Replacement, Failure> {
        let refused = |why: &str| Failure::Usage(format!("cannot write {}: {why}", path.display()));
        // Renaming onto a link or a device would replace the thing itself.
        let target = match fs::canonicalize(path) {
            Ok(target) if target.is_file() => target,
            Ok(_) => return Err(refused("it exists and is not a regular file; name another")),
            Err(_) => path.to_owned(),
        };
        let Some(name) = target.file_name() else { return Err(refused("it is not the name of a file")) };
        let mut temporary_name = name.to_owned();
        temporary_name.push(format!(".xdpfrag-{}", std::process::id()));
        let temporary = target.with_file_name(temporary_name);
        let file = File::create_new(&temporary).map_err(|error| refused(&error.to_string()))?;
        Ok(Replacement { file, temporary, target })
    }

    fn publish(mut self) -> Result<(), Failure> {
        self.file
            .flush()
            .and_then(|()| fs::rename(&self.temporary, &self.target))
            .map_err(|error| cannot_write(&self.target, &error))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // Gone already if it was published.
        let _ = fs::remove_file(&self.temporary);
    }
}
