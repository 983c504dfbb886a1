//! `run`: forwards until a signal ends it.

use super::Failure;
use crate::config::{Plan, RunArgs, validate};
use crate::control::finding::Level;
use crate::control::preflight::{self, Options};

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let plan = validate::plan(args)?;
    preflight(&plan)?;
    Err(Failure::Running(anyhow::anyhow!("the gateway itself is wired at merge: control::run(plan, json)")))
}

/// Says every warning and refuses on whatever is fatal, before anything is changed.
fn preflight(plan: &Plan) -> Result<(), Failure> {
    let options = Options::from(plan);
    let mut fatal = String::new();
    for interface in &plan.interfaces {
        for finding in preflight::check(interface, &options) {
            match finding.level {
                Level::Fatal => fatal.push_str(&format!("\n  {interface}: {finding}")),
                Level::Warning => eprintln!("xdpfrag: warning: {interface}: {finding}"),
                Level::Note | Level::Ok => {}
            }
        }
    }
    match fatal.is_empty() {
        true => Ok(()),
        false => Err(Failure::Unfit(format!("nothing was changed, since this would not work:{fatal}"))),
    }
}
