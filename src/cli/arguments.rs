//! The command line, completed by the file that `--config` names.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, Parser};

use super::{Cli, Command, Failure};
use crate::config::{self, ConfigError, ConfigFile, FileError, Plan, RunArgs};

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArgumentError {
    /// The command line, or `--help`.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Parses `argv`; with `run --config FILE` the settings of FILE stand behind it, but for those that it gives itself.
pub(super) fn parse(mut argv: Vec<OsString>) -> Result<Cli, ArgumentError> {
    let Some(file) = file_of(&argv)? else { return Ok(Cli::try_parse_from(argv)?) };
    argv.extend(file.arguments().map(OsString::from));
    let mut cli = Cli::try_parse_from(argv).map_err(|error| match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            let line = error.to_string();
            let missing = line.split("--").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            let message = format!("{missing} is missing; add a line such as: {}", example(missing));
            ArgumentError::File(file.error(message))
        }
        _ => error.into(),
    })?;
    if let Command::Run(args) = &mut cli.command {
        args.file = Some(file);
    }
    Ok(cli)
}

fn example(setting: &str) -> String {
    match setting {
        "mtu" => "mtu = 1422".into(),
        "iface" => "iface = [\"eth1\"]".into(),
        other => format!("{other} = ..."),
    }
}

/// The file that `run --config` names, without what the command line replaces.
fn file_of(argv: &[OsString]) -> Result<Option<ConfigFile>, FileError> {
    // What is required may stand in the file.
    let lenient = Cli::command().mut_subcommand("run", |run| run.mut_args(|arg| arg.required(false)));
    // What else is wrong the real parser says.
    let Ok(matches) = lenient.try_get_matches_from(argv) else { return Ok(None) };
    let Some(run) = matches.subcommand_matches("run") else { return Ok(None) };
    let Some(path) = run.get_one::<std::path::PathBuf>("config") else { return Ok(None) };
    Ok(Some(ConfigFile::read(path)?.overridden(|flag| given(run, flag))))
}

fn given(run: &ArgMatches, flag: &str) -> bool {
    run.value_source(&flag.replace('-', "_")) == Some(ValueSource::CommandLine)
}

/// The plan of `args`; what does not go together is blamed on a line of the file if it comes from there.
pub(super) fn plan(args: &RunArgs) -> Result<Plan, ArgumentError> {
    config::plan(args).map_err(|error| refused(args, &error))
}

/// The plan as this process's command line and the file say now.
pub(super) fn again(args: &RunArgs) -> Result<Plan, String> {
    if args.file.is_none() {
        return Err("it was started without --config: there is nothing to read again".into());
    }
    let cli = parse(std::env::args_os().collect()).map_err(|error| error.to_string())?;
    match cli.command {
        Command::Run(args) => plan(&args).map_err(|error| error.to_string()),
        _ => unreachable!("this process runs `run`"),
    }
}

fn refused(args: &RunArgs, error: &ConfigError) -> ArgumentError {
    match &args.file {
        Some(file) => file.blame(error).into(),
        None => clap::Error::raw(ErrorKind::ArgumentConflict, error).into(),
    }
}

impl From<ArgumentError> for Failure {
    fn from(error: ArgumentError) -> Failure {
        Failure::Usage(error.to_string())
    }
}
