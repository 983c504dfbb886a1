//! Policies and SAs, as far as they decide which packets go into which tunnel.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::ipsec::scope::{Action, Mark, Policy, Sa};
use crate::net::links::{self, Link};
use crate::net::xfrm;
use crate::net::{addresses, route};

/// What the kernel has.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) policies: Vec<xfrm::Policy>,
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) local: BTreeSet<IpAddr>,
    /// Outbound SAs, each with its SA MTU, or why that is not known.
    pub(super) sas: Vec<(xfrm::Sa, Result<Sa, String>)>,
}

impl Kernel {
    /// Reads it all; of a kernel without XFRM nothing of that, if it may be `absent` (else it is EPROTONOSUPPORT).
    pub(super) fn read(absent: bool) -> io::Result<Kernel> {
        let local = addresses::local()?;
        let links: BTreeMap<u32, Link> = links::all()?.into_iter().map(|link| (link.index, link)).collect();
        let mut paths = BTreeMap::new();
        let mut sas = Vec::new();
        for sa in or_none(xfrm::states(), absent)? {
            if !local.contains(&sa.src) {
                continue;
            }
            let path_mtu = match paths.entry((sa.dst, sa.src, sa.output_mark)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let hop = route::first_hop(sa.dst, Some(sa.src), sa.output_mark)?;
                    *new.insert(hop.and_then(|hop| hop.path_mtu(links.get(&hop.oif))))
                }
            };
            let found = sa.sizes(path_mtu, sa.dst).map(|sizes| Sa { spi: sa.spi, mtu: sizes.mtu });
            sas.push((sa, found));
        }
        let policies = or_none(xfrm::policies(), absent)?;
        Ok(Kernel { policies, links, local, sas })
    }

    pub(super) fn policies(&self) -> Vec<Policy> {
        self.policies.iter().filter_map(|policy| self.policy(policy)).collect()
    }

    fn policy(&self, policy: &xfrm::Policy) -> Option<Policy> {
        Some(Policy {
            src: net(policy.src)?,
            dst: net(policy.dst)?,
            priority: policy.priority,
            index: policy.index,
            if_id: policy.if_id,
            mark: Mark { value: policy.mark.0, mask: policy.mark.1 },
            oif: policy.oif,
            upper: policy.upper,
            protocol: policy.protocol,
            ports: policy.asks_for_ports(),
            action: self.action(policy),
        })
    }

    fn action(&self, policy: &xfrm::Policy) -> Action {
        if !policy.allow {
            return Action::Block;
        }
        match policy.templates.as_slice() {
            [] => Action::Allow,
            [template] if template.tunnel() => {
                let sas: Result<Vec<Sa>, _> =
                    self.used_by(policy).map(|(_, sized)| sized.as_ref().copied()).collect();
                sas.map_or(Action::Other, Action::Protect)
            }
            _ => Action::Other,
        }
    }

    /// The SAs that packets of a policy may leave by.
    pub(super) fn used_by(
        &self,
        policy: &xfrm::Policy,
    ) -> impl Iterator<Item = &(xfrm::Sa, Result<Sa, String>)> {
        self.sas.iter().filter(move |(sa, _)| policy.uses(sa))
    }
}

/// Nothing instead of an error, if the kernel has no XFRM and may have none.
fn or_none<T>(answer: io::Result<Vec<T>>, absent: bool) -> io::Result<Vec<T>> {
    match answer {
        Err(error) if absent && error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(Vec::new()),
        answer => answer,
    }
}

/// A selector's prefix, host bits cleared.
pub(super) fn net((address, len): (IpAddr, u8)) -> Option<IpNet> {
    Some(IpNet::new(address, len).ok()?.trunc())
}
