//! `stats`: the counters of a running instance.

use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::{Failure, instance, output, watch};
use crate::config::values;
use crate::observe::client;
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
            false => output::print(&table::render(&first, Style { since: None, zeros: args.all })),
        };
    };
    let mut before = first;
    loop {
        if args.json {
            let line = serde_json::to_string(&before).context("cannot write the snapshot as JSON")?;
            output::print(&(line + "\n"))?;
        }
        std::thread::sleep(Duration::from_secs(seconds));
        let now = fetch()?;
        if !args.json {
            let text = table::render(&now, Style { since: same_instance(&before, &now), zeros: args.all });
            watch::show(&text)?;
        }
        before = now;
    }
}

/// A restarted instance counts from zero again: there is no difference to show.
fn same_instance<'a>(before: &'a Snapshot, now: &Snapshot) -> Option<&'a Snapshot> {
    (before.pid == now.pid && before.uptime_s < now.uptime_s).then_some(before)
}
