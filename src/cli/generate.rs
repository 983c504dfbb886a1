//! `completions` and `man`: what packagers generate from the command line's own definition.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use clap_complete::Shell;

use super::{Failure, arguments, output};

/// The flags of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell to print completions for
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut arguments::command(), "xdpfrag", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

/// The flags of `man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write one page per command to this directory instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// One page for the program and one section per subcommand, so that `man -l` shows every flag.
pub(super) fn man(args: &ManArgs) -> Result<(), Failure> {
    let mut command = arguments::command();
    if let Some(dir) = &args.dir {
        let written = clap_mangen::generate_to(command.disable_help_subcommand(true), dir);
        return Ok(written.with_context(|| format!("cannot write manual pages to {}", dir.display()))?);
    }
    command.build();
    let mut page = Vec::new();
    let render = |command: clap::Command, page: &mut Vec<u8>| {
        clap_mangen::Man::new(command).render(page).context("cannot render the manual page")
    };
    render(command.clone(), &mut page)?;
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        render(subcommand.clone(), &mut page)?;
    }
    output::print(&String::from_utf8_lossy(&page))
}
