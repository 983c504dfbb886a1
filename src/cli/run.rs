//! `run`: serve LAN interfaces until told to stop.

use anyhow::Context;

use super::{Failure, arguments, log, output};
use crate::config::RunArgs;
use crate::control::{self, RunError};
use crate::observe::table::{self, Style};

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let plan = arguments::plan(args)?;
    log::start(args.log, args.log_level).context("cannot start the log")?;
    let ended = control::run(&plan, &|| arguments::again(args), &log::say)?;
    if args.json {
        output::print_json(&ended.snapshot)?;
    } else {
        output::print(&table::render(&ended.snapshot, Style::default()))?;
    }
    // What forwarded for a while can again, as far as anybody knows.
    ended.result.map_err(|error| Failure::Running(error.into()))
}

impl From<RunError> for Failure {
    /// Of a start.
    fn from(error: RunError) -> Failure {
        match error {
            RunError::Lost(_) | RunError::System { .. } => Failure::Running(error.into()),
            RunError::Setup(cause) if cause.may_pass() => Failure::Running(cause.into()),
            RunError::Refused(_)
            | RunError::Statistics(_)
            | RunError::Metrics { .. }
            | RunError::Capture { .. }
            | RunError::Replace(_)
            | RunError::Setup(_) => Failure::Unfit(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::control::gateway::GatewayError;

    #[test]
    fn what_may_be_otherwise_in_a_moment_is_no_verdict_on_the_machine() {
        let interface = || "eth1".to_owned();
        let spawn = GatewayError::Spawn {
            interface: interface(),
            queue: 0,
            source: io::ErrorKind::OutOfMemory.into(),
        };
        for passing in [spawn, GatewayError::Gone(interface())] {
            assert!(matches!(Failure::from(RunError::Setup(passing)), Failure::Running(_)));
        }
        let lasting = GatewayError::NoQueue { interface: interface(), available: 1 };
        assert!(matches!(Failure::from(RunError::Setup(lasting)), Failure::Unfit(_)));
    }
}
