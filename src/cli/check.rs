//! `check`: what stands in the way of `run`, and the command that mends it.

use std::fmt::Write;

use clap::Args;
use serde::Serialize;

use super::{Failure, arguments, output};
use crate::config::RunArgs;
use crate::control::finding::{Finding, Level};
use crate::control::preflight::{self, Options};
use crate::control::run::scope;
use crate::observe::layout;

/// Flags of `run` on which the verdict depends. The others are taken, so that a command line of `run` can be judged as
/// it is, and not shown.
const JUDGED: &[&str] = &[
    "config",
    "iface",
    "mtu",
    "dst",
    "tcp",
    "redirect",
    "handback",
    "queues",
    "cores",
    "mode",
    "zero_copy",
    "notrack",
    "json",
];

/// The flags of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) run: RunArgs,

    /// Without an SA MTU all else can be judged.
    #[arg(skip)]
    pub(super) mtu_given: bool,
}

/// Makes the flags of `run` those of `check`.
pub(super) fn adapt(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| match arg.get_id().as_str() {
        "iface" => arg.help("LAN interface to check; may be repeated"),
        "json" => arg.help("Print verdict and findings as JSON"),
        "mtu" => {
            let help =
                "As for `run`: SA MTU in bytes (68 to 65535), or auto; without it sizes are not judged";
            arg.required(false).default_value("auto").hide_default_value(true).help(help).long_help(help)
        }
        name if JUDGED.contains(&name) => arg,
        _ => arg.hide(true),
    })
}

/// What to make of the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Go,
    Warnings,
    No,
}

/// `check --json`.
#[derive(Serialize)]
struct Report<'a> {
    interfaces: &'a [String],
    verdict: Verdict,
    findings: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    /// None if it is about the machine or the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// What was looked at, `None` for the machine, and what was found there.
type Section<'a> = (Option<&'a str>, Vec<Finding>);

pub(super) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let plan = arguments::plan(&args.run)?;
    let mut options = Options { start: false, ..Options::from(&plan) };
    if !args.mtu_given {
        options.auto = false;
    }
    let mut machine = preflight::machine(&options);
    machine.extend(plan.warnings.iter().map(|warning| Finding::warning("settings", warning)));
    machine.extend(scope::too_wide(&plan).map(|warning| Finding::warning("scope", warning)));
    let interfaces = plan.interfaces.iter();
    let judge = |name: &'_ String| {
        let mut findings = preflight::interface(name, &options);
        if args.mtu_given {
            findings.extend(preflight::ways(name, &plan));
        }
        findings
    };
    let sections: Vec<Section<'_>> = [(None, machine)]
        .into_iter()
        .chain(interfaces.map(|name| (Some(name.as_str()), judge(name))))
        .collect();
    let verdict =
        sections.iter().flat_map(|(_, findings)| findings).map(verdict).max().unwrap_or(Verdict::Go);
    if args.run.json {
        let rows = sections
            .iter()
            .flat_map(|(interface, findings)| {
                findings.iter().map(|finding| Row { interface: *interface, finding })
            })
            .collect();
        output::print_json(&Report { interfaces: &plan.interfaces, verdict, findings: rows })?;
    } else {
        output::print(&report(&sections))?;
    }
    let names = plan.interfaces.join(", ");
    match verdict {
        Verdict::Go => Ok(()),
        Verdict::Warnings => {
            Err(Failure::Warned(format!("{names}: go, with warnings: see the findings marked warning")))
        }
        Verdict::No => {
            Err(Failure::Unfit(format!("{names}: no go: run would refuse, see the findings marked fatal")))
        }
    }
}

fn verdict(finding: &Finding) -> Verdict {
    match finding.level {
        Level::Ok | Level::Note => Verdict::Go,
        Level::Warning => Verdict::Warnings,
        Level::Fatal => Verdict::No,
    }
}

/// The findings as a table, one for each interface where there are several, and below it the commands, unbroken, so that
/// they can be pasted.
fn report(sections: &[Section<'_>]) -> String {
    let mut text = String::new();
    let header = ["LEVEL", "CHECK", "FINDING"];
    let mut table = layout::table(&header);
    let several = sections.len() > 2;
    for (interface, findings) in sections {
        if let (Some(name), true) = (interface, several) {
            text.push_str(&layout::text(&table));
            let _ = writeln!(text, "\n{name}:");
            table = layout::table(&header);
        }
        for finding in findings {
            table.add_row([finding.level.label(), &finding.what, &finding.why]);
        }
    }
    text.push_str(&layout::text(&table));
    let remedies = sections.iter().flat_map(|(interface, findings)| {
        let of = interface.filter(|_| several).map(|name| format!(" of {name}")).unwrap_or_default();
        findings.iter().filter_map(move |finding| {
            Some(format!("  # {}{of}\n  {}\n", finding.what, finding.remedy.as_ref()?))
        })
    });
    let remedies: String = remedies.collect();
    if !remedies.is_empty() {
        let _ = write!(text, "\nTo mend:\n{remedies}");
    }
    text
}
