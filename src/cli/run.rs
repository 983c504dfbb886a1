//! `run`: serve LAN interfaces until told to stop.

use super::{Failure, arguments, log, output};
use crate::config::RunArgs;
use crate::control::gateway::GatewayError;
use crate::control::{self, RunError};
use crate::observe::table::{self, Style};

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let plan = arguments::plan(args)?;
    log::start(args.log, args.log_level);
    let ended = control::run(&plan, &|| arguments::again(args), &log::say)?;
    if args.json {
        output::print_json(&ended.snapshot)?;
    } else {
        output::print(&table::render(&ended.snapshot, Style::default()))?;
    }
    Ok(ended.result?)
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        match error {
            RunError::Lost(_) | RunError::System { .. } => Failure::Running(error.into()),
            RunError::Setup(GatewayError::Gone(_) | GatewayError::Netlink { .. }) => {
                Failure::Running(error.into())
            }
            RunError::Refused(_)
            | RunError::Statistics(_)
            | RunError::Metrics { .. }
            | RunError::Capture { .. }
            | RunError::Replace(_)
            | RunError::Setup(_) => Failure::Unfit(error.to_string()),
        }
    }
}
