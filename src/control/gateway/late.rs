//! `--redirect late`, and `auto`.

use super::{Gateway, GatewayError, random};
use crate::config::{Force, Plan, Redirect};
use crate::net::Ethtool;
use crate::packet::Tcp;
use crate::xdp::{LateConfig, LateProgram, Method, XdpMode};

impl Gateway {
    /// True if oversize TCP is left to GRO and cut behind it.
    pub fn cuts_late(&self) -> bool {
        self.late.is_some()
    }

    /// Leaves oversize TCP to GRO and the kernel, if the plan says so and they can; else the workers do it.
    pub(super) fn start_late(&mut self, plan: &Plan, say: &dyn Fn(&str)) -> Result<(), GatewayError> {
        let asked = match plan.redirect {
            Redirect::Late => true,
            Redirect::Auto if plan.treatment.tcp == Tcp::Resegment => false,
            _ => return Ok(()),
        };
        let instead = |why: &str| {
            let what = format!("--redirect oversize instead of late: {why}");
            match asked {
                true => say(&format!("{}: warning: {what}", self.name())),
                false => tracing::debug!("{}: {what}", self.name()),
            }
        };
        if self.mode == XdpMode::Generic {
            instead("generic XDP runs behind GRO");
            return Ok(());
        }
        let features = Ethtool::open().and_then(|mut ethtool| ethtool.features(self.name()));
        let merges = features.map_or(asked, |features| features.has("rx-gro"));
        if !merges && !asked {
            instead("GRO is off");
            return Ok(());
        }
        // Asked with a program that every kernel loads: the verifier of those without tcx refuses the other one.
        if let Err(error) = self.clamp.attach_with(self.link.index, Method::Tcx) {
            instead(&format!("it needs tcx, which Linux has since 6.6: {error}"));
            return Ok(());
        }
        let config = LateConfig {
            ifindex: self.link.index,
            sticky: plan.sticky,
            flow_seed: random(),
            token: random(),
            deaf_only: plan.force == Force::Deaf,
        };
        let program = LateProgram::load(config, &self.program);
        match program.and_then(|program| Ok((program.attach()?, program))) {
            Ok((link, program)) => {
                (self.late_link, self.late) = (Some(link), Some(program));
                self.program.set_late(true)?;
                say(&format!("{}: oversize TCP is left to GRO, and cut behind it", self.name()));
                if !merges {
                    say(&format!(
                        "{0}: GRO is off: nothing is merged, and every segment cut by itself; mend it with: \
                         ethtool -K {0} gro on",
                        self.name()
                    ));
                }
            }
            Err(error) => instead(&error.to_string()),
        }
        Ok(())
    }
}
