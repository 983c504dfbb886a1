//! `stats`: the counters of a running instance.

use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::{Failure, instance, output, watch};
use crate::config::values;
use crate::observe::client::{self, ClientError};
use crate::observe::snapshot::Snapshot;
use crate::observe::table::{self, Style};

/// The flags of `stats`.
#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    /// Interface of the instance; may be left out if one instance runs in this network namespace
    #[arg(long, value_name = "IF", value_parser = values::interface)]
    iface: Option<String>,

    /// Show the counters again and again, per second (1 to 3600 seconds apart)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,

    /// Show counters that are zero as well
    #[arg(long)]
    all: bool,

    /// Print the snapshot as JSON; with --watch one line each time, counters always in total
    #[arg(long)]
    json: bool,
}

pub(super) fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let interface = instance::find(args.iface.as_deref())?;
    let fetch = || client::fetch(&interface).map_err(|error| Failure::Running(error.into()));
    let first = fetch()?;
    let Some(seconds) = args.watch else {
        return match args.json {
            true => output::print_json(&first),
            false => output::print(&table::render(&first, Style { zeros: args.all, ..Style::default() })),
        };
    };
    let mut before = first;
    let mut gone = false;
    if args.json {
        print_line(&before)?;
    }
    loop {
        std::thread::sleep(Duration::from_secs(seconds));
        let now = match client::fetch(&interface) {
            Ok(now) => now,
            Err(error) if passing(&error) => {
                if !gone {
                    watch::say(&format!("{error}\nLooking for it again every {seconds} s"))?;
                }
                gone = true;
                continue;
            }
            Err(error) => return Err(Failure::Running(error.into())),
        };
        gone = false;
        let since = same_instance(&before, &now);
        if args.json {
            print_line(&now)?;
        } else {
            let restarted = if since.is_none() { "It was started again.\n" } else { "" };
            let text = table::render(&now, Style { since, zeros: args.all, live: true });
            watch::show(&format!("{restarted}{text}"))?;
        }
        before = now;
    }
}

fn print_line(snapshot: &Snapshot) -> Result<(), Failure> {
    let line = serde_json::to_string(snapshot).context("cannot write the snapshot as JSON")?;
    output::print(&(line + "\n"))
}

/// True if the next attempt may succeed: an instance that restarts is gone, or hangs up, for a moment.
fn passing(error: &ClientError) -> bool {
    match error {
        ClientError::NotRunning(_) | ClientError::Refused(_) | ClientError::Io { .. } => true,
        ClientError::Foreign { .. } | ClientError::Format { .. } => false,
    }
}

/// A restarted instance counts from zero again: there is no difference to show.
fn same_instance<'a>(before: &'a Snapshot, now: &Snapshot) -> Option<&'a Snapshot> {
    (before.pid == now.pid && before.uptime_s < now.uptime_s).then_some(before)
}
