//! Keeps the gateways in step with the machine while they run.

use std::time::{Duration, Instant};

use crossbeam::channel::{after, never};

use super::{RunError, Running, lock};
use crate::control::conntrack::Machine;
use crate::control::gateway::{Gateway, GatewayError};
use crate::net::addresses::Changes;

/// When to look again at what could not be looked at, and how often at what the kernel does not tell.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Begins what is said of tunnels that could not be followed.
const BEHIND: &str = "cannot follow the tunnels of this machine";

impl Running {
    /// Looks at what changed. What cannot be read or followed now (no descriptor left, no memory, a map without room) is
    /// tried again.
    pub(super) fn follow(&mut self, changes: Changes, say: &dyn Fn(&str)) -> Result<(), RunError> {
        if changes.links {
            self.pace.ask(Instant::now());
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

    /// Exempts from connection tracking what needs it, by the rules, the policies and the scope of this moment.
    pub(super) fn follow_rules(&mut self, say: &dyn Fn(&str)) {
        let (exemptions, gateways) = (&mut self.exemptions, &self.gateways);
        let read = self.pace.work(|| {
            let machine = Machine::read();
            let gateways = lock(gateways);
            let pairs = exemptions.iter_mut().zip(gateways.iter());
            for (exemption, gateway) in pairs.filter(|(_, gateway)| gateway.serves()) {
                exemption.follow(machine.as_ref(), &gateway.prefixes(), say);
            }
            machine.is_ok()
        });
        if !read {
            self.pace.ask(Instant::now() + RETRY);
        }
    }

    /// Looks at every interface, and gives up those that are gone. Answers what could not be done at the first of those
    /// where something could not.
    fn look(&mut self, changes: Changes, say: &dyn Fn(&str)) -> Result<Option<GatewayError>, RunError> {
        let follow = |gateway: &mut Gateway| {
            let gone = if changes.links { gateway.follow_link(say)? } else { None };
            if changes.addresses && gone.is_none() {
                gateway.follow_addresses()?;
            }
            Ok(gone)
        };
        self.each(follow, say)
    }

    /// Sees to it that what was attached still is.
    pub(super) fn follow_programs(&mut self, say: &dyn Fn(&str)) -> Result<(), RunError> {
        // What the kernel does not say now is asked again a second later.
        self.each(|gateway| gateway.follow_programs(say), say).map(drop)
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

    /// Serves the tunnels as they are now. What cannot be read or changed now is tried again; until then the tunnels are
    /// served as they were.
    pub(super) fn follow_tunnels(&mut self, say: &dyn Fn(&str)) {
        let (gateways, treatment) = (&self.gateways, &self.plan.treatment);
        let looked = self.follower.look(|tunnels| {
            let (mut lines, mut failed) = (Vec::new(), Vec::new());
            for gateway in lock(gateways).iter_mut().filter(|gateway| gateway.serves()) {
                let interface = gateway.name().to_owned();
                match gateway.follow_tunnels(tunnels) {
                    Ok(changes) => {
                        lines
                            .extend(changes.into_iter().map(|change| format!("{interface}: auto: {change}")));
                    }
                    Err(error) => failed.push(error),
                }
            }
            (lines, failed, tunnels.advice(treatment))
        });
        let (lines, failed, advice): (_, Vec<String>, _) = match looked {
            Ok((lines, failed, advice)) => (lines, failed.iter().map(ToString::to_string).collect(), advice),
            Err(error) => (Vec::new(), vec![format!("cannot read them: {error}")], Vec::new()),
        };
        for line in &lines {
            say(line);
        }
        if !lines.is_empty() {
            self.pace.ask(Instant::now());
        }
        if failed.is_empty() {
            self.follower.forget(BEHIND);
        }
        let behind = |why: String| format!("{BEHIND}: {why}; they are served as they were, trying again");
        for line in self.follower.unsaid(failed.into_iter().map(behind).chain(advice).collect()) {
            say(&format!("warning: {line}"));
        }
    }
}
