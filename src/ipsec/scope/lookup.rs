//! Where packets go of which one knows the addresses: `xfrm_lookup_with_ifid()` for each hop of their route.

use std::collections::BTreeSet;

use super::{Action, Device, Hop, Mark, Policy, Sa, Via};

/// What packets go into.
pub(super) struct Goal {
    /// As in [`Tunnel`](super::Tunnel).
    pub(super) mtu: u16,
    pub(super) via: Via,
    pub(super) spis: BTreeSet<u32>,
    /// A policy of no interface encrypts them, in every case.
    pub(super) always: bool,
}

/// The tunnel of packets that all of `policies` select by address; `None` unless it is one in every case.
pub(super) fn tunnel(policies: &[&Policy], hops: &[Hop]) -> Option<Goal> {
    let mut found: Option<Goal> = None;
    for hop in hops {
        let encrypted = match hop.exempt {
            true => vec![Outcome::Unchanged],
            false => lookup(policies, 0, None, hop.oif),
        };
        for outcome in encrypted {
            match outcome {
                Outcome::Encrypted(sas) => add(&mut found, sas, hop.mtu, &Via::Policy)?,
                Outcome::Lost => return None,
                Outcome::Unchanged => {
                    let Device::Tunnel { name, if_id, mark, lower } = &hop.device else { return None };
                    for outcome in lookup(policies, *if_id, *mark, *lower) {
                        let Outcome::Encrypted(sas) = outcome else { return None };
                        add(&mut found, sas, hop.mtu, &Via::Interface(name.clone()))?;
                    }
                }
            }
        }
    }
    found
}

/// What may become of a packet at one lookup.
enum Outcome<'a> {
    /// It leaves by one of these SAs.
    Encrypted(&'a [Sa]),
    /// It goes on as it is.
    Unchanged,
    /// It is dropped, held, or otherwise not to be touched.
    Lost,
}

/// `xfrm_policy_lookup_bytype()` for packets of which marks (unless `mark` says) and ports are not known.
fn lookup<'a>(policies: &[&'a Policy], if_id: u32, mark: Option<u32>, oif: u32) -> Vec<Outcome<'a>> {
    let mut outcomes = Vec::new();
    for policy in policies {
        let Mark { value, mask } = policy.mark;
        let selected = match mark {
            Some(mark) => mark & mask == value,
            None => mask != 0 || value == 0,
        };
        if policy.if_id != if_id || !selected || (policy.oif != 0 && policy.oif != oif) {
            continue;
        }
        outcomes.push(match &policy.action {
            Action::Allow => Outcome::Unchanged,
            Action::Protect(sas) if !sas.is_empty() => Outcome::Encrypted(sas),
            Action::Protect(_) | Action::Block | Action::Other => Outcome::Lost,
        });
        if !policy.upper && (mask == 0 || mark.is_some()) {
            return outcomes;
        }
    }
    outcomes.push(Outcome::Unchanged);
    outcomes
}

/// Adds SAs to a goal, whose MTU is then the least of all and of the way to them. `None` if nothing fits.
fn add(goal: &mut Option<Goal>, sas: &[Sa], route_mtu: u32, via: &Via) -> Option<()> {
    let mtu = sas.iter().map(|sa| sa.mtu).fold(route_mtu, u32::min).min(u16::MAX.into());
    let mtu = u16::try_from(mtu).ok().filter(|mtu| *mtu > 0)?;
    let spis = sas.iter().map(|sa| sa.spi);
    match goal {
        None => {
            *goal = Some(Goal { mtu, via: via.clone(), spis: spis.collect(), always: *via == Via::Policy })
        }
        Some(goal) => {
            goal.mtu = goal.mtu.min(mtu);
            goal.spis.extend(spis);
            goal.always &= *via == Via::Policy;
        }
    }
    Some(())
}
