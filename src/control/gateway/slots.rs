//! That what was attached stays attached.
//!
//! Nobody else can take the place of a BPF link, but whoever may administer BPF can detach it or have it run another
//! program (`bpftool link detach`), and the kernel tells nobody. The workers would live on and get nothing, and what is
//! oversize would be lost. So the links are looked at every second.

use super::{GONE, Gateway, GatewayError};
use crate::config::Mode;
use crate::xdp::XdpMode;

impl Gateway {
    /// Attaches again what somebody else has detached, and says so; answers why the interface cannot be served any more,
    /// if it cannot.
    ///
    /// # Errors
    /// If the kernel does not say what is attached; the call can be made again.
    pub fn follow_programs(&mut self, say: &dyn Fn(&str)) -> Result<Option<String>, GatewayError> {
        let Some(attached) = &self.xdp else { return Ok(None) };
        if !self.program.is_attached(attached).map_err(|source| self.unread(source))? {
            // The kernel detaches as well, of an interface that goes.
            if self.current()?.is_none() {
                return Ok(Some(GONE.to_owned()));
            }
            let what = "somebody else has detached its XDP program, or put another in its place";
            // What the workers go by depends on the mode.
            let mode = match self.mode {
                XdpMode::Native => Mode::Native,
                XdpMode::Generic => Mode::Generic,
            };
            self.xdp = None;
            match self.program.attach(self.link.index, mode) {
                Ok(attached) => self.xdp = Some(attached),
                Err(error) => return Ok(Some(format!("{what}, and it cannot be attached again: {error}"))),
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
