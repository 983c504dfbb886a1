//! A plan that changes under traffic.
//!
//! The XDP program and the workers both go by it, and there is no moment for both at once. So the workers first go by
//! a bridge, which can treat whatever the old program sends and whatever the new one will; once the last of them
//! does, the programs are exchanged on their link; then the workers go by the plan itself. A frame is treated by the
//! old plan or by the new one, and none meets a worker that leaves alone what its program took off the kernel's
//! path: in generic mode it would come again, without end.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Found, Gateway, GatewayError, Seen};
use crate::config::{Force, Plan, Redirect, Scope};
use crate::packet::{Df, Tcp, Transform, Ways};
use crate::worker::clock::monotonic_ns;
use crate::worker::{Notifier, Settings, privileges, thread};
use crate::xdp::{LanConfig, Patience, Variant};

/// How long workers may take to go by new settings: several times their longest sleep.
const PATIENCE: Duration = thread::LONGEST_NAP.saturating_mul(6);
/// How long the exchange of two programs may take.
const EXCHANGE: Duration = Duration::from_millis(50);

/// `base` with what `plan` says.
pub(super) fn constants(plan: &Plan, base: LanConfig) -> LanConfig {
    LanConfig {
        df: plan.treatment.df,
        redirect_all: plan.redirect == Redirect::All,
        resegment: plan.treatment.tcp == Tcp::Resegment,
        deaf_only: (plan.force == Force::Deaf).then(Patience::default),
        sticky: plan.sticky,
        stall: plan.stall,
        ..base
    }
}

/// What can treat the frames of the program for `before` and of that for `after`: cuts what either may cut, beats as
/// often as either needs.
fn bridge(before: &Settings, after: &Settings) -> Settings {
    let (old, new) = (&before.transform, &after.transform);
    let df = if new.df == Df::Keep { old.df } else { new.df };
    let tcp = if old.tcp == Tcp::Resegment { old.tcp } else { new.tcp };
    Settings {
        transform: Transform { df, tcp, ..new.clone() },
        stall: before.stall.min(after.stall),
        ..after.clone()
    }
}

fn same(one: &Settings, other: &Settings) -> bool {
    let of = |settings: &Settings| {
        let Transform { df, tcp, .. } = settings.transform;
        (df, tcp, settings.stall, settings.notifier.as_ref().map(Arc::as_ptr), Arc::as_ptr(&settings.scope))
    };
    of(one) == of(other)
}

impl Gateway {
    /// Loads the XDP program that `plan` needs, and changes nothing yet; `None` if it is the one that runs.
    ///
    /// # Errors
    /// If the kernel refuses it, or it does not go with generic mode.
    pub fn variant(&self, plan: &Plan) -> Result<Option<Variant>, GatewayError> {
        let config = constants(plan, *self.program.config());
        match &self.xdp {
            Some(attached) if config != *self.program.config() => {
                let variant = privileges::loading(|| self.program.variant(attached, config));
                let unprivileged = |why| GatewayError::Privileges { interface: self.name().to_owned(), why };
                Ok(Some(variant.map_err(unprivileged)??))
            }
            _ => Ok(None),
        }
    }

    /// Goes by `plan` from now on, `variant` being its XDP program if it needs another one, and the machine being as
    /// `seen`. Frames go on meanwhile, each
    /// under the old plan or the new one. Answers the program of before, if it was replaced.
    ///
    /// # Errors
    /// If a map is full, the clamp cannot be attached, a driver does not take the program, or a worker hangs. Everything
    /// is as before then.
    pub fn reload(
        &mut self,
        plan: &Plan,
        notifier: Option<Arc<Notifier>>,
        variant: Option<Variant>,
        seen: Option<&Seen<'_>>,
    ) -> Result<Option<Variant>, GatewayError> {
        if self.lost {
            return Ok(None);
        }
        let treatment = Arc::new(plan.treatment.clone());
        let (scope, before) = (self.scope_now(), self.settings.now());
        let transform = Transform { df: treatment.df, tcp: treatment.tcp, ..before.transform.clone() };
        let after = Settings { transform, notifier, stall: plan.stall, ..before.clone() };
        let replaced = self.exchange(&after, variant)?;
        let next = match (&plan.auto, &self.auto, seen) {
            // Tunnels come with the next look at them; until then those of before stay.
            (Some(_), Some(_), _) => Ok(Found { scope: scope.clone(), ..self.found.clone() }),
            (_, _, Some(seen)) => self.find(seen, plan.auto.as_ref(), &treatment),
            // Until it is known what meets these packets.
            (_, _, None) => Ok(Found { scope: Scope::from(&*treatment).by(Ways::PASS), ..Found::default() }),
        };
        let applied = next.and_then(|next| {
            self.apply(next.scope.clone())?;
            self.attach_clamp(plan)?;
            Ok(next)
        });
        let found = match applied {
            Ok(found) => found,
            Err(error) => {
                // What fitted before fits again.
                self.apply(scope)?;
                self.exchange(&before, replaced)?;
                return Err(error);
            }
        };
        self.treatment = treatment;
        self.auto = plan.auto.clone();
        self.found = found;
        Ok(replaced)
    }

    /// Has workers and XDP program go by `after` and `variant`, in the order above; or leaves both as they were.
    fn exchange(
        &mut self,
        after: &Settings,
        variant: Option<Variant>,
    ) -> Result<Option<Variant>, GatewayError> {
        let before = self.settings.now();
        let bridge = bridge(&before, after);
        let mut replaced = None;
        let result = self
            .post(&bridge)
            .and_then(|()| {
                replaced = variant.map(|variant| self.replace(variant)).transpose()?;
                Ok(())
            })
            .and_then(|()| self.post(after));
        match result {
            Ok(()) => Ok(replaced),
            Err(error) => {
                if let Some(old) = replaced {
                    self.settings.change(bridge);
                    self.replace(old)?;
                }
                self.settings.change(before);
                Err(error)
            }
        }
    }

    /// Has the workers go by `settings`, and waits until they do.
    fn post(&mut self, settings: &Settings) -> Result<(), GatewayError> {
        if same(&self.settings.now(), settings) {
            return Ok(());
        }
        self.settings.change(settings.clone());
        let deadline = Instant::now() + PATIENCE;
        while !self.settings.taken() {
            if Instant::now() > deadline {
                return Err(GatewayError::Unheard(self.name().to_owned()));
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn replace(&mut self, variant: Variant) -> Result<Variant, GatewayError> {
        let Some(attached) = &self.xdp else { return Err(GatewayError::Gone(self.name().to_owned())) };
        let (old, new) = (self.program.config(), variant.config());
        if old.redirect_all && !new.redirect_all && !new.sticky.is_zero() {
            self.program.hold_flows(monotonic_ns() + EXCHANGE.as_nanos() as u64)?;
        }
        Ok(self.program.exchange(attached, variant)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Idents;

    fn settings(df: Df, tcp: Tcp, stall: u64) -> Settings {
        let transform = Transform { df, tcp, idents: Arc::new(Idents::with_seed(1)) };
        Settings { stall: Duration::from_millis(stall), ..Settings::new(transform, Scope::default()) }
    }

    #[test]
    fn the_bridge_cuts_what_either_side_may_cut_and_beats_as_often_as_either_needs() {
        for old in [Df::Clear, Df::Oversize, Df::Keep] {
            for new in [Df::Clear, Df::Oversize, Df::Keep] {
                for (was, becomes) in [
                    (Tcp::Fragment, Tcp::Fragment),
                    (Tcp::Fragment, Tcp::Resegment),
                    (Tcp::Resegment, Tcp::Fragment),
                ] {
                    let bridge = bridge(&settings(old, was, 100), &settings(new, becomes, 5000));
                    let keeps = old == Df::Keep && new == Df::Keep;
                    assert_eq!(bridge.transform.df == Df::Keep, keeps, "{old:?} to {new:?}");
                    assert!([old, new].contains(&bridge.transform.df), "{old:?} to {new:?}");
                    let cuts = [was, becomes].contains(&Tcp::Resegment);
                    assert_eq!(bridge.transform.tcp == Tcp::Resegment, cuts, "{was:?} to {becomes:?}");
                    assert_eq!(bridge.stall, Duration::from_millis(100));
                }
            }
        }
        let shorter =
            bridge(&settings(Df::Clear, Tcp::Fragment, 5000), &settings(Df::Clear, Tcp::Fragment, 50));
        assert_eq!(shorter.stall, Duration::from_millis(50));
    }
}
