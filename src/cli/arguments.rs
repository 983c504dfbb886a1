//! The command line, completed by the file that `--config` names.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::{Cli, Command, Failure, check};
use crate::config::{self, ConfigError, ConfigFile, FileError, Plan, RunArgs};

/// Commands with the flags of `run`, `--config` among them.
const TAKE_FILES: [&str; 2] = ["run", "check"];

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

/// The command line's definition, for parsing, completions and manual pages.
pub(super) fn command() -> clap::Command {
    Cli::command().mut_subcommand("check", check::adapt)
}

/// Parses `argv`; with `--config FILE` the settings of FILE stand behind it, but for those that it gives itself.
pub(super) fn parse(mut argv: Vec<OsString>) -> Result<Cli, ArgumentError> {
    let Some(file) = file_of(&argv)? else { return parsed(argv) };
    argv.extend(file.arguments().map(OsString::from));
    let mut cli = parsed(argv).map_err(|error| match error {
        ArgumentError::Usage(error) if error.kind() == ErrorKind::MissingRequiredArgument => {
            let line = error.to_string();
            let missing = line.split("--").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            let message = format!("{missing} is missing; add a line such as: {}", example(missing));
            ArgumentError::File(file.error(message))
        }
        _ => error,
    })?;
    match &mut cli.command {
        Command::Run(args) => args.file = Some(file),
        Command::Check(check) => check.run.file = Some(file),
        _ => {}
    }
    Ok(cli)
}

fn parsed(argv: Vec<OsString>) -> Result<Cli, ArgumentError> {
    let matches = command().try_get_matches_from(argv)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let (Command::Check(check), Some(matches)) = (&mut cli.command, matches.subcommand_matches("check")) {
        check.mtu_given = given(matches, "mtu");
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

/// The file that `--config` names, without what the command line replaces.
fn file_of(argv: &[OsString]) -> Result<Option<ConfigFile>, FileError> {
    // What is required may stand in the file.
    let optional = |command: clap::Command| command.mut_args(|arg| arg.required(false));
    let lenient = TAKE_FILES.iter().fold(command(), |command, name| command.mut_subcommand(name, optional));
    // What else is wrong the real parser says.
    let Ok(matches) = lenient.try_get_matches_from(argv) else { return Ok(None) };
    let Some((name, command)) = matches.subcommand() else { return Ok(None) };
    if !TAKE_FILES.contains(&name) {
        return Ok(None);
    }
    let Some(path) = command.get_one::<std::path::PathBuf>("config") else { return Ok(None) };
    Ok(Some(ConfigFile::read(path)?.overridden(|flag| given(command, flag))))
}

fn given(matches: &ArgMatches, flag: &str) -> bool {
    matches.value_source(&flag.replace('-', "_")) == Some(ValueSource::CommandLine)
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
