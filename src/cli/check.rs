//! `check`: what stands in the way of `run`, and the command that mends it.

use std::fmt::Write;

use clap::Args;
use serde::Serialize;

use super::{Failure, output};
use crate::config::values::{self, Destination, Mtu, Queues};
use crate::config::{HandbackChoice, Notrack};
use crate::control::finding::{Finding, Level};
use crate::control::preflight::{self, Options};
use crate::observe::layout;

/// The flags of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// LAN interface to check
    #[arg(long, value_name = "IF", value_parser = values::interface)]
    iface: String,

    /// SA MTU in bytes that `run` will be given (68 to 65535), or auto
    #[arg(long, value_name = "auto|BYTES", allow_negative_numbers = true)]
    mtu: Option<Mtu>,

    /// How frames will return to the kernel
    #[arg(long, value_enum, default_value_t)]
    handback: HandbackChoice,

    /// RX queues that will be served, such as 0,2-3
    #[arg(long, value_name = "all|LIST", default_value = "all")]
    queues: Queues,

    /// Destination prefix that will be in scope; may be repeated [default: all]
    #[arg(long, value_name = "CIDR[=BYTES]")]
    dst: Vec<Destination>,

    /// Whether fragments will be exempt from connection tracking
    #[arg(long, value_enum, default_value_t)]
    notrack: Notrack,

    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// `check --json`.
#[derive(Serialize)]
struct Report<'a> {
    interface: &'a str,
    ok: bool,
    findings: &'a [Finding],
}

pub(super) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let options = Options {
        mtus: match args.mtu {
            Some(Mtu::Bytes(mtu)) => vec![mtu],
            Some(Mtu::Auto) | None => Vec::new(),
        },
        auto: args.mtu == Some(Mtu::Auto),
        handback: args.handback,
        queues: args.queues.listed(),
        scope: args.dst.iter().map(|destination| destination.prefix).collect(),
        notrack: args.notrack,
        ..Options::default()
    };
    let findings = preflight::check(&args.iface, &options);
    let fatal = findings.iter().filter(|finding| finding.level == Level::Fatal).count();
    if args.json {
        output::print_json(&Report { interface: &args.iface, ok: fatal == 0, findings: &findings })?;
    } else {
        output::print(&report(&findings))?;
    }
    match fatal {
        0 => Ok(()),
        _ => Err(Failure::Unfit(format!("{}: run would refuse, see the findings marked fatal", args.iface))),
    }
}

/// The findings as a table, and below it the commands, unbroken, so that they can be pasted.
fn report(findings: &[Finding]) -> String {
    let mut table = layout::table(&["LEVEL", "CHECK", "FINDING"]);
    for finding in findings {
        table.add_row([finding.level.label(), &finding.what, &finding.why]);
    }
    let mut text = layout::text(&table);
    let remedies: Vec<_> =
        findings.iter().filter_map(|finding| Some((&finding.what, finding.remedy.as_ref()?))).collect();
    if !remedies.is_empty() {
        text.push_str("\nTo mend:\n");
        for (what, command) in remedies {
            let _ = writeln!(text, "  # {what}\n  {command}");
        }
    }
    text
}
