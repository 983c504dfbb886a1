//! `config check`: judges a configuration file without touching anything.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::arguments::{self, ArgumentError};
use super::{Command, Failure, output};
use crate::config::Plan;
use crate::control::run::scope;

/// The flags of `config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether `run --config FILE` would accept FILE; the machine is not looked at (see `xdpfrag check`)
    Check(CheckArgs),
}

/// The flags of `config check`.
#[derive(Debug, Args)]
struct CheckArgs {
    /// File to judge
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

/// `config check --json`.
#[derive(Debug, Default, Serialize)]
struct Verdict {
    file: PathBuf,
    ok: bool,
    interfaces: Vec<String>,
    /// Prefixes whose SA MTU the file has.
    scope: Vec<Scope>,
    /// All that is in scope, in words.
    serves: Vec<String>,
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Blame>,
}

#[derive(Debug, Serialize)]
struct Scope {
    prefix: String,
    mtu: u16,
}

#[derive(Debug, Serialize)]
struct Blame {
    line: Option<usize>,
    column: Option<usize>,
    message: String,
}

pub(super) fn config(args: &ConfigArgs) -> Result<(), Failure> {
    let ConfigCommand::Check(CheckArgs { file, json }) = &args.command;
    let judged = judge(file);
    if *json {
        let verdict = match &judged {
            Ok(plan) => accepted(file, plan),
            Err(error) => Verdict { file: file.clone(), error: Some(blame(error)), ..Verdict::default() },
        };
        output::print_json(&verdict)?;
    }
    let verdict = accepted(file, &judged?);
    if *json {
        return Ok(());
    }
    let mut text = format!("{} is right: serves {}\n", file.display(), verdict.interfaces.join(", "));
    for words in &verdict.serves {
        text += &format!("  {words}\n");
    }
    text += "  by which ways depends on the machine: xdpfrag check --config FILE tells\n";
    for warning in &verdict.warnings {
        text += &format!("warning: {warning}\n");
    }
    output::print(&text)
}

/// What `run --config FILE` would do.
fn judge(file: &std::path::Path) -> Result<Plan, ArgumentError> {
    let argv = ["xdpfrag".into(), "run".into(), "--config".into(), OsString::from(file)];
    match arguments::parse(argv.into())?.command {
        Command::Run(args) => arguments::plan(&args),
        _ => unreachable!("the command line above says run"),
    }
}

fn accepted(file: &std::path::Path, plan: &Plan) -> Verdict {
    let scope = plan.treatment.scope.iter();
    Verdict {
        file: file.to_owned(),
        ok: true,
        interfaces: plan.interfaces.clone(),
        scope: scope.map(|(prefix, rule)| Scope { prefix: prefix.to_string(), mtu: rule.mtu }).collect(),
        serves: scope::words(plan),
        warnings: plan.warnings.clone(),
        error: None,
    }
}

fn blame(error: &ArgumentError) -> Blame {
    match error {
        ArgumentError::File(error) => Blame {
            line: error.place.map(|place| place.line),
            column: error.place.map(|place| place.column),
            message: error.message.clone(),
        },
        ArgumentError::Usage(error) => Blame { line: None, column: None, message: error.to_string() },
    }
}
