//! Keeps the gateways in step with the machine while they run.

use std::io;
use std::time::Duration;

use crossbeam::channel::{after, never};

use super::{RunError, Running, lock};
use crate::control::conntrack::{Exemption, Machine};
use crate::control::gateway::{Gateway, GatewayError};
use crate::control::tunnels::{self, Seen, Tunnels};
use crate::net::addresses::Changes;

/// When to look again at what could not be looked at, and how often at what the kernel does not tell.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Begins what is said of what could not be followed.
const BEHIND: &str = "cannot follow the tunnels and routes of this machine";

impl Running {
    /// Looks at what changed. What cannot be read or followed now (no descriptor left, no memory, a map without room) is
    /// tried again.
    pub(super) fn follow(&mut self, changes: Changes, say: &dyn Fn(&str)) -> Result<(), RunError> {
        if changes.links {
            self.follower.rules_changed();
        }
        let unread = self.unread.is_any();
        self.unread |= changes;
        self.again = never();
        match self.look(self.unread, say)? {
            Some(error) => {
                if !unread {
                    say(&format!("warning: {error}; trying again"));
                }
                self.again = after(RETRY);
            }
            None => self.unread = Changes::default(),
        }
        Ok(())
    }

    /// Looks at every interface, and gives up those that are gone. Answers what could not be done at the first of those
    /// where something could not.
    fn look(&mut self, changes: Changes, say: &dyn Fn(&str)) -> Result<Option<GatewayError>, RunError> {
        let (plan, shared) = (self.plan.clone(), self.shared.clone());
        let follow = |gateway: &mut Gateway| {
            let gone = if changes.links { gateway.follow_link(&plan, &shared, say)? } else { None };
            if changes.addresses && gone.is_none() {
                gateway.follow_addresses()?;
            }
            Ok(gone)
        };
        self.each(follow, say)
    }

    /// Sees to it that what was attached still is, and that every queue has a worker.
    pub(super) fn follow_programs(&mut self, say: &dyn Fn(&str)) -> Result<(), RunError> {
        self.follower.listen();
        // What the kernel does not say now is asked again a second later.
        let (plan, shared) = (self.plan.clone(), self.shared.clone());
        self.each(|gateway| gateway.follow_device(&plan, &shared, say), say).map(drop)
    }

    /// Does `work` for every interface that is served, and gives up those of which it says why they cannot be any more.
    fn each(
        &mut self,
        work: impl Fn(&mut Gateway) -> Result<Option<String>, GatewayError>,
        say: &dyn Fn(&str),
    ) -> Result<Option<GatewayError>, RunError> {
        let (mut failed, mut lost) = (None, Vec::new());
        for gateway in lock(&self.gateways).iter_mut().filter(|gateway| gateway.serves()) {
            match work(gateway) {
                Ok(None) => {}
                Ok(Some(why)) => lost.push((gateway.name().to_owned(), why)),
                Err(error) if error.may_pass() => failed = failed.or(Some(error)),
                Err(error) => return Err(error.into()),
            }
        }
        for (interface, why) in lost {
            self.give_up(&interface, &why, say)?;
        }
        Ok(failed)
    }

    /// Serves what is in scope of the machine as it is now, by the ways that it leaves, and exempts from connection
    /// tracking what needs it. What cannot be read or changed now is tried again; until then all is served as it was.
    pub(super) fn follow_machine(&mut self, say: &dyn Fn(&str)) {
        let Running { exemptions, gateways, plan, said, .. } = self;
        let looked = self.follower.look(plan, |tunnels, machine| {
            let (mut failed, tap) = (Vec::new(), plan.handback.may_be_tap());
            let mut gateways = lock(gateways);
            let each = exemptions.iter_mut().zip(said).zip(gateways.iter_mut());
            for ((exemption, said), gateway) in each.filter(|(_, gateway)| gateway.serves()) {
                if let Err(error) = follow_one(gateway, exemption, tunnels, machine, tap, say) {
                    failed.push(error.to_string());
                }
                let now = &gateway.found().table;
                for line in tunnels::changes(said, now) {
                    say(&format!("{}: {line}", gateway.name()));
                }
                if said != now {
                    said.clone_from(now);
                }
            }
            let advice = if plan.auto.is_some() { tunnels.advice(&plan.treatment) } else { Vec::new() };
            (failed, advice)
        });
        let (failed, advice) =
            looked.unwrap_or_else(|error| (vec![format!("cannot read them: {error}")], Vec::new()));
        match failed.is_empty() {
            true => self.follower.forget(BEHIND),
            false => self.follower.retry(),
        }
        let behind = |why: String| format!("{BEHIND}: {why}; all is served as it was, trying again");
        for line in self.follower.unsaid(failed.into_iter().map(behind).chain(advice).collect()) {
            say(&format!("warning: {line}"));
        }
    }
}

/// Fragments go back to the kernel only where they meet nobody who asks for ports: the ways come before the exemption, for
/// it may be withdrawn, and after it, for it may have been made.
fn follow_one(
    gateway: &mut Gateway,
    exemption: &mut Exemption,
    tunnels: &Tunnels,
    machine: Result<&Machine, &io::Error>,
    tap: bool,
    say: &dyn Fn(&str),
) -> Result<(), GatewayError> {
    let exempt = exemption.exempt();
    let followed = gateway.follow(&Seen { tunnels, machine, exempt: &exempt, tap });
    exemption.follow(machine, &gateway.prefixes(), tunnels.routing_asks(), say);
    followed?;
    let now = exemption.exempt();
    if now != exempt {
        gateway.follow(&Seen { tunnels, machine, exempt: &now, tap })?;
    }
    Ok(())
}
