//! `reload`: has a running instance read its configuration file again.

use clap::Args;

use super::{Failure, instance, output};
use crate::config::values;
use crate::observe::client;

/// The flags of `reload`.
#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// Interface of the instance; may be left out if one instance runs in this network namespace
    #[arg(long, value_name = "IF", value_parser = values::interface)]
    iface: Option<String>,

    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    let interface = instance::find(args.iface.as_deref())?;
    let outcome = client::reload(&interface).map_err(|error| Failure::Running(error.into()))?;
    if args.json {
        output::print_json(&outcome)?;
    } else if outcome.ok {
        output::print(&format!("{}\n", outcome.message))?;
    }
    match outcome.ok {
        true => Ok(()),
        false => Err(Failure::Usage(outcome.message)),
    }
}
