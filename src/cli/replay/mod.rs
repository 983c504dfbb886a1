//! `replay`: what `run` does to packets, on a capture file.

mod progress;
mod summary;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use clap::Args;

use super::files::{self, Output, Replacement};
use super::{Failure, output};
use crate::config::{TreatmentArgs, validate};
use crate::pcap::{self, Rewriter};
use progress::Progress;
use summary::Summary;

/// The arguments of `replay`.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Capture to read, - for standard input: pcap or pcapng, of Ethernet, IP, PPP, loopback or `any`
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// Capture to write, in the format of IN: a file, replaced if it exists and left as it was on failure; a pipe; or
    /// - for standard output, and the counts go to standard error
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
    let input = files::input(&args.input)?;
    let found = Output::find(&args.output)?;
    match &found {
        Output::Standard(out) | Output::Stream(out) => rewrite(args, input, out, &mut rewriter)?,
        Output::File(target) => {
            let new = Replacement::of(target.clone())?;
            rewrite(args, input, new.file(), &mut rewriter)?;
            new.publish().map_err(|error| cannot_write(&args.output, &error))?;
        }
    }
    let summary = Summary::from(rewriter.counts());
    let text = match args.json {
        true => output::json(&summary)?,
        false => summary.to_string(),
    };
    match found {
        Output::Standard(_) => {
            output::tell(text.trim_end());
            Ok(())
        }
        _ => output::print(&text),
    }
}

fn rewrite(args: &ReplayArgs, input: File, out: &File, rewriter: &mut Rewriter) -> Result<(), Failure> {
    let size = input.metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
    let mut progress = Progress::new(size);
    pcap::rewrite(input, out, rewriter, &mut |read| progress.reached(read)).map_err(|error| match error {
        // Whoever read the pipe has seen enough.
        pcap::Error::Write(error) if error.kind() == ErrorKind::BrokenPipe => Failure::OutputClosed,
        pcap::Error::Write(error) => cannot_write(&args.output, &error),
        error => Failure::Usage(format!("{}: {error}", args.input.display())),
    })
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::Running(anyhow::anyhow!("cannot write {}: {error}", path.display()))
}
