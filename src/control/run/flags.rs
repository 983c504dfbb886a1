//! Plans for tests, as the command line has them.

use clap::Parser;

use crate::config::{self, Plan, RunArgs};

#[derive(Parser)]
struct Run {
    #[command(flatten)]
    args: RunArgs,
}

/// Of `run --iface eth1` and these flags.
pub(super) fn plan(flags: &str) -> Plan {
    let line = format!("run --iface eth1 {flags}");
    config::plan(&Run::try_parse_from(line.split_whitespace()).unwrap().args).unwrap()
}
