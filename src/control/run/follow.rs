//! Keeps the gateways in step with the machine while they run.

use std::time::{Duration, Instant};

use crossbeam::channel::{after, never};

use super::{RunError, Running, lock};
use crate::control::conntrack::Machine;
use crate::control::gateway::GatewayError;
use crate::net::addresses::Changes;

/// When to look again at what the kernel did not tell.
const RETRY: Duration = Duration::from_secs(1);

impl Running {
    /// Looks at what changed. What cannot be read now (no descriptor left, no memory) is tried again.
    pub(super) fn follow(&mut self, changes: Changes, say: &dyn Fn(&str)) -> Result<(), RunError> {
        if changes.links {
            self.pace.ask(Instant::now());
        }
        let unread = self.unread.is_any();
        self.unread |= changes;
        self.again = never();
        match self.look(self.unread, say) {
            Err(RunError::Setup(error @ GatewayError::Netlink { .. })) => {
                if !unread {
                    say(&format!("warning: {error}; trying again"));
                }
                self.again = after(RETRY);
            }
            result => {
                result?;
                self.unread = Changes::default();
            }
        }
        Ok(())
    }

    /// Exempts from connection tracking what needs it, by the rules, the policies and the scope of this moment.
    pub(super) fn follow_rules(&mut self, say: &dyn Fn(&str)) {
        let (exemptions, gateways) = (&mut self.exemptions, &self.gateways);
        let read = self.pace.work(|| {
            let machine = Machine::read();
            for (exemption, gateway) in exemptions.iter_mut().zip(lock(gateways).iter()) {
                exemption.follow(machine.as_ref(), &gateway.prefixes(), say);
            }
            machine.is_ok()
        });
        if !read {
            self.pace.ask(Instant::now() + RETRY);
        }
    }

    fn look(&self, changes: Changes, say: &dyn Fn(&str)) -> Result<(), RunError> {
        for gateway in lock(&self.gateways).iter_mut() {
            if changes.addresses {
                gateway.follow_addresses()?;
            }
            if changes.links && !gateway.follow_link(say)? {
                return Err(RunError::Lost(format!("{}: the interface is gone", gateway.name())));
            }
        }
        Ok(())
    }

    /// Serves the tunnels as they are now. What cannot be read now is tried again; until then the tunnels are served as
    /// they were.
    pub(super) fn follow_tunnels(&mut self, say: &dyn Fn(&str)) -> Result<(), RunError> {
        let (gateways, treatment) = (&self.gateways, &self.plan.treatment);
        let looked = self.follower.look(|tunnels| {
            let mut lines = Vec::new();
            for gateway in lock(gateways).iter_mut() {
                let interface = gateway.name().to_owned();
                let changes = gateway.follow_tunnels(tunnels)?;
                lines.extend(changes.into_iter().map(|change| format!("{interface}: auto: {change}")));
            }
            Ok::<_, GatewayError>((lines, tunnels.advice(treatment)))
        });
        match looked {
            Ok(Ok((lines, advice))) => {
                for line in &lines {
                    say(line);
                }
                if !lines.is_empty() {
                    self.pace.ask(Instant::now());
                }
                for line in self.follower.unsaid(advice) {
                    say(&format!("warning: {line}"));
                }
                Ok(())
            }
            Ok(Err(GatewayError::Netlink { source, .. })) | Err(source) => {
                let line =
                    format!("warning: cannot read the tunnels of this machine: {source}; trying again");
                for line in self.follower.unsaid(vec![line]) {
                    say(&line);
                }
                Ok(())
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }
}
