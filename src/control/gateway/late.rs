//! `--redirect late`, and `auto`.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::utsname::uname;

use super::{Gateway, GatewayError, Shared};
use crate::config::{Force, Plan, Redirect};
use crate::net::Ethtool;
use crate::packet::{Df, Tcp};
use crate::worker::privileges;
use crate::xdp::{LateConfig, LateProgram, Leave, Method, XdpMode};

/// Several times as long as drivers and `gro_flush_timeout` keep packets to merge.
const LEFT_IN_GRO: Duration = Duration::from_millis(10);

/// What GRO does on the LAN interface, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gro {
    /// It merges segments.
    merges: bool,
    /// It keeps them apart behind each other (`rx-gro-list`), so that their sizes cannot be changed.
    as_list: bool,
    /// It merges datagrams, too (`rx-udp-gro-forwarding`).
    datagrams: bool,
}

impl Gro {
    fn read(interface: &str) -> io::Result<Gro> {
        let features = Ethtool::open()?.features(interface)?;
        Ok(Gro {
            merges: features.has("rx-gro"),
            as_list: features.has("rx-gro-list"),
            datagrams: features.has("rx-udp-gro-forwarding"),
        })
    }

    /// What `plan` leaves to the kernel where GRO does this.
    fn leaves(self, plan: &Plan) -> Leave {
        let whole = edits_whole(plan);
        let asked = plan.redirect == Redirect::Late;
        let segments = plan.treatment.tcp == Tcp::Resegment && !self.as_list;
        // Unless asked for, TCP is left alone where nothing would be merged.
        let tcp = segments && (asked || (self.merges && !plan.notify && lowers_safely(&release())));
        // What is merged keeps DF, like what is resegmented.
        let fitting = !self.as_list && (plan.treatment.df != Df::Clear || (tcp && !self.datagrams));
        let edits = whole && plan.treatment.df != Df::Keep && plan.force == Force::Always;
        Leave { tcp, whole, fitting, oversize: fitting && tcp && edits && !self.datagrams, marked: true }
    }
}

/// True if XDP may edit what is oversize: only workers tell senders.
fn edits_whole(plan: &Plan) -> bool {
    !plan.notify && plan.redirect != Redirect::All
}

impl Gateway {
    /// Leaves to the kernel what it can make fit now that somebody has switched offloads of the interface.
    ///
    /// # Errors
    /// As [`start_late`](Gateway::start_late).
    pub(super) fn follow_offloads(
        &mut self,
        plan: &Plan,
        shared: &Shared,
        say: &dyn Fn(&str),
    ) -> Result<(), GatewayError> {
        let Some(before) = self.gro else { return Ok(()) };
        // What cannot be read now is read again a second later.
        let Ok(now) = Gro::read(self.name()) else { return Ok(()) };
        self.gro = Some(now);
        if now.leaves(plan) == before.leaves(plan) {
            return Ok(());
        }
        self.start_late(plan, shared, say)?;
        say(&format!(
            "{}: somebody has switched what GRO does: what is left to the kernel is settled anew",
            self.name()
        ));
        Ok(())
    }

    /// Has the workers see everything.
    ///
    /// # Errors
    /// If the kernel refuses the map update.
    pub fn stop_late(&self) -> Result<(), GatewayError> {
        Ok(self.program.set_late(Leave { marked: self.late_link.is_some(), ..Leave::NOTHING })?)
    }

    /// Leaves to the kernel what the plan says and it can make fit behind GRO; else the workers do it. Under traffic,
    /// too: the workers do it all in between.
    ///
    /// # Errors
    /// If the kernel refuses a map update; what else fails is said, and done by the workers.
    pub fn start_late(
        &mut self,
        plan: &Plan,
        shared: &Shared,
        say: &dyn Fn(&str),
    ) -> Result<(), GatewayError> {
        self.stop_late()?;
        if self.late_link.is_some() {
            // GRO may still hold what the XDP program has left to it.
            sleep(LEFT_IN_GRO);
            self.late_link = None;
        }
        self.gro = None;
        let by_xdp = Leave { whole: edits_whole(plan), ..Leave::NOTHING };
        self.program.set_late(by_xdp)?;
        let asked = match plan.redirect {
            Redirect::Late => true,
            Redirect::Auto => false,
            Redirect::Oversize | Redirect::All => return Ok(()),
        };
        let interface = self.name().to_owned();
        let instead = |why: &str| {
            let what = format!("--redirect oversize instead of late: {why}");
            match asked {
                true => say(&format!("{interface}: warning: {what}")),
                false => tracing::debug!("{interface}: {what}"),
            }
        };
        if self.mode == XdpMode::Generic {
            instead("generic XDP runs behind GRO");
            return Ok(());
        }
        let gro = Gro::read(self.name());
        let gro = gro.unwrap_or(Gro { merges: asked, as_list: false, datagrams: false });
        let leave = gro.leaves(plan);
        if !leave.tcp {
            instead("with --tcp fragment, --notify, rx-gro-list or without GRO the workers cut TCP");
        }
        self.gro = Some(gro);
        if !leave.tcp && !leave.fitting {
            return Ok(());
        }
        if let Err(why) = self.has_tcx() {
            instead(&format!("it needs tcx, which Linux has since 6.6: {why}"));
            return Ok(());
        }
        let idents = &shared.transform.idents;
        let config = LateConfig {
            ifindex: self.link.index,
            leave,
            seed: idents.seed(),
            partition: idents.partition(),
            token: self.token,
            deaf_only: plan.force == Force::Deaf,
            df: plan.treatment.df,
        };
        let program = match privileges::loading(|| LateProgram::load(config, &self.program)) {
            Ok(program) => program,
            Err(why) => {
                instead(&why);
                return Ok(());
            }
        };
        // What XDP has counted the program does not count again, from its first packet on.
        self.program.set_late(Leave { marked: true, ..by_xdp })?;
        match program.and_then(|program| Ok((program.attach()?, program))) {
            Ok((link, program)) => {
                (self.late_link, self.late) = (Some(link), Some(program));
                self.program.set_late(leave)?;
                say(&format!("{}: {}", self.name(), describe(leave)));
                if leave.tcp && !gro.merges {
                    say(&format!(
                        "{0}: GRO is off: nothing is merged, and every segment cut by itself; mend it with: \
                         ethtool -K {0} gro on",
                        self.name()
                    ));
                }
            }
            Err(error) => {
                instead(&error.to_string());
                self.program.set_late(by_xdp)?;
            }
        }
        Ok(())
    }

    /// Asked with a program that every kernel loads: the verifier of those without tcx refuses the other one.
    fn has_tcx(&self) -> Result<(), String> {
        match &self.clamp_link {
            Some(link) if link.method() == Method::Tcx => Ok(()),
            Some(link) => Err(format!("the MSS clamp had to be attached by {}", link.method().label())),
            None => self.clamp.attach_with(self.link.index, Method::Tcx).map(drop).map_err(|e| e.to_string()),
        }
    }
}

/// Of the running kernel, such as `6.12.95+deb12-amd64`.
fn release() -> String {
    uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// False for kernels that may crash when they cut a merged packet whose gso_size was lowered, for a link that takes
/// scattered frames and no TSO (CVE-2024-42281, mended in 6.6.44 and 6.10.3).
fn lowers_safely(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let mut next = || numbers.next().unwrap_or_default();
    match (next(), next(), next()) {
        (6, 6, patch) => patch >= 44,
        (6, 10, patch) => patch >= 3,
        version => version >= (6, 11, 0),
    }
}

fn describe(leave: Leave) -> &'static str {
    match (leave.tcp, leave.fitting) {
        (true, true) => "what fits is edited after GRO, and so is oversize TCP, which the kernel then cuts",
        (true, false) => "oversize TCP is left to GRO, and edited for the kernel to cut",
        _ => "what fits is edited after GRO",
    }
}

#[cfg(test)]
mod tests {
    use super::lowers_safely;

    #[test]
    fn kernels_that_cut_lowered_packets_right_are_known() {
        for safe in
            ["6.6.44", "6.10.3-amd64", "6.12.95+deb12-amd64", "6.18.44-fc-v657", "7.3.4+deb13-amd64", "10.0"]
        {
            assert!(lowers_safely(safe), "{safe}");
        }
        for not in ["6.6.43", "6.7.12", "6.9.0-rc1", "6.10.2", "6.10", "", "odd"] {
            assert!(!lowers_safely(not), "{not}");
        }
    }
}
