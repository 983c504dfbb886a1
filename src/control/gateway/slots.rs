//! That what was attached stays attached.
//!
//! Nobody else can take the place of a BPF link, but whoever may administer BPF can detach it or have it run another
//! program (`bpftool link detach`), and the kernel tells nobody. The workers would live on and get nothing, and what is
//! oversize would be lost. So the links are looked at every second.

use super::{GONE, Gateway, GatewayError, Shared};
use crate::config::{Mode, Plan};
use crate::xdp::XdpMode;

impl Gateway {
    /// Sees to it that what was attached still is, and that every queue has a worker: of neither does the kernel tell.
    /// Answers as [`follow_link`](Gateway::follow_link).
    ///
    /// # Errors
    /// As [`follow_link`](Gateway::follow_link).
    pub fn follow_device(
        &mut self,
        plan: &Plan,
        shared: &Shared,
        say: &dyn Fn(&str),
    ) -> Result<Option<String>, GatewayError> {
        let gone = self.follow_programs(say)?;
        if gone.is_none() && self.xdp.is_some() {
            self.follow_offloads(plan, shared, say)?;
            let workers = self.workers.len();
            self.follow_queues(plan, shared, say);
            // A veth has an XDP program on those queues only that it had when it was attached.
            if self.workers.len() > workers && self.link.is("veth") {
                if let Err(why) = self.attach_again() {
                    return Ok(Some(why));
                }
                say(&format!("{}: its XDP program is on all queues now", self.name()));
            }
        }
        Ok(gone)
    }

    /// Answers why it cannot be attached again.
    fn attach_again(&mut self) -> Result<(), String> {
        // What the workers go by depends on the mode.
        let mode = match self.mode {
            XdpMode::Native => Mode::Native,
            XdpMode::Generic => Mode::Generic,
        };
        self.xdp = None;
        let attached = self.program.attach(self.link.index, mode);
        self.xdp =
            Some(attached.map_err(|error| format!("its XDP program cannot be attached again: {error}"))?);
        Ok(())
    }

    /// Attaches again what somebody else has detached, and says so; answers why the interface cannot be served any more,
    /// if it cannot.
    ///
    /// # Errors
    /// If the kernel does not say what is attached; the call can be made again.
    fn follow_programs(&mut self, say: &dyn Fn(&str)) -> Result<Option<String>, GatewayError> {
        let Some(attached) = &self.xdp else { return Ok(None) };
        if !self.program.is_attached(attached).map_err(|source| self.unread(source))? {
            // The kernel detaches as well, of an interface that goes.
            if self.current()?.is_none() {
                return Ok(Some(GONE.to_owned()));
            }
            let what = "somebody else has detached its XDP program, or put another in its place";
            if let Err(why) = self.attach_again() {
                return Ok(Some(format!("{what}; {why}")));
            }
            say(&format!("{}: warning: {what}; it is attached again", self.name()));
        }
        self.follow_late(say)?;
        self.follow_clamp(say)?;
        Ok(None)
    }

    /// Without the program behind GRO the workers have to cut what it would have cut.
    fn follow_late(&mut self, say: &dyn Fn(&str)) -> Result<(), GatewayError> {
        let (Some(link), Some(late)) = (&self.late_link, &self.late) else { return Ok(()) };
        if link.is_attached().map_err(|source| self.unread(source))? {
            return Ok(());
        }
        let what = "warning: somebody else has detached the program behind GRO";
        match late.attach() {
            Ok(link) => {
                self.late_link = Some(link);
                say(&format!("{}: {what}; it is attached again", self.name()));
            }
            Err(error) => {
                self.stop_late()?;
                self.late_link = None;
                say(&format!("{}: {what}; the workers do it all from now on: {error}", self.name()));
            }
        }
        Ok(())
    }

    fn follow_clamp(&mut self, say: &dyn Fn(&str)) -> Result<(), GatewayError> {
        let Some(link) = &self.clamp_link else { return Ok(()) };
        if link.is_attached().map_err(|source| self.unread(source))? {
            return Ok(());
        }
        let what = "warning: somebody else has detached the MSS clamp on the way to the LAN";
        self.clamp_link = None;
        match self.clamp.attach(self.link.index) {
            Ok(link) => {
                self.clamp_link = Some(link);
                say(&format!("{}: {what}; it is attached again", self.name()));
            }
            Err(error) => say(&format!("{}: {what}: {error}", self.name())),
        }
        Ok(())
    }
}
