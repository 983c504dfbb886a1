//! `--replace`: everything is prepared while another instance forwards; then that one is asked to let go.

use std::collections::BTreeMap;

use super::RunError;
use crate::config::Plan;
use crate::observe::client;
use crate::observe::snapshot::InterfaceSnapshot;

/// The running instances that are to be replaced.
#[derive(Debug, Default)]
pub(super) struct Predecessors {
    /// By process, one of the interfaces that it serves.
    instances: BTreeMap<u32, String>,
    interfaces: Vec<String>,
}

impl Predecessors {
    /// Those that serve interfaces of `plan`; none without `--replace`.
    ///
    /// # Errors
    /// If one serves other interfaces as well, which nobody would serve then, or does not answer.
    pub(super) fn find(plan: &Plan) -> Result<Predecessors, RunError> {
        let mut found = Predecessors::default();
        if !plan.replace {
            return Ok(found);
        }
        let running = client::interfaces()
            .map_err(|source| RunError::System { step: "--replace: looking for instances", source })?;
        for interface in plan.interfaces.iter().filter(|interface| running.contains(interface)) {
            let snapshot = client::fetch(interface).map_err(|error| RunError::Replace(error.to_string()))?;
            // What it has given up (its interface is gone, for one) is nobody's.
            let serves = |served: &InterfaceSnapshot| served.workers.iter().any(|worker| worker.alive);
            for served in snapshot.interfaces.into_iter().filter(serves) {
                if !plan.interfaces.contains(&served.name) {
                    return Err(RunError::Replace(format!(
                        "the instance on {interface} (process {}) serves {1}, too; add --iface {1}, or end it",
                        snapshot.pid, served.name
                    )));
                }
                found.interfaces.push(served.name);
            }
            found.instances.insert(snapshot.pid, interface.clone());
        }
        Ok(found)
    }

    /// True if one of them serves `interface`, and so owns its XDP slot.
    pub(super) fn serve(&self, interface: &str) -> bool {
        self.interfaces.iter().any(|served| served == interface)
    }

    /// Has them let go of their interfaces, and waits until they have.
    ///
    /// # Errors
    /// If one refuses, and goes on.
    pub(super) fn let_go(self, say: &dyn Fn(&str)) -> Result<(), RunError> {
        for (pid, interface) in self.instances {
            let outcome =
                client::replace(&interface).map_err(|error| RunError::Replace(error.to_string()))?;
            if !outcome.ok {
                return Err(RunError::Replace(outcome.message));
            }
            say(&format!("{interface}: taken over from process {pid}"));
        }
        Ok(())
    }
}
