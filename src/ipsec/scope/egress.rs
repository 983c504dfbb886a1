//! What packets meet between their route and the wire: policies that ask for ports, and a device that they are cut for.

use super::{Device, Hop, Policy};
use crate::ipsec::ways::{Asked, Wide};

/// IPPROTO_UDP.
const UDP: u8 = 17;

/// Whether the kernel cuts packets for the device by which they leave, to `mtu` bytes at most and before it encrypts
/// them, whichever of `hops` they take: in words what says so. It does unless a policy of no interface selects them (then
/// it encrypts first), or a policy of the interface asks for more than addresses (it then sees fragments). All of
/// `policies` select the packets by address; `marks` if they may carry a mark.
///
/// # Errors
/// The tunnel's device, if its MTU alone is in the way.
pub(super) fn edit(
    policies: &[&Policy],
    hops: &[Hop],
    mtu: u16,
    marks: bool,
) -> Result<String, Option<Wide>> {
    let obstacle = |hop: &Hop| {
        let first = policies.iter().any(|policy| {
            let (_, of_vti) = own(policy, &hop.device);
            policy.if_id == 0 && by_device(policy, hop.oif) && (marks || !of_vti)
        });
        hop.encap || first || policies.iter().any(|policy| behind(policy, hop) && policy.upper)
    };
    if hops.is_empty() || hops.iter().any(obstacle) {
        return Err(None);
    }
    if let Some(hop) = hops.iter().find(|hop| hop.mtu > u32::from(mtu)) {
        let wide = Wide { device: hop.name.clone(), mtu: hop.mtu, of_route: hop.mtu_of_route };
        return Err(matches!(hop.device, Device::Tunnel { .. }).then_some(wide));
    }
    let mut why: Vec<String> = Vec::new();
    for hop in hops {
        let words = match hop.mtu_of_route {
            true => format!("the route over {} has MTU {}", hop.name, hop.mtu),
            false => format!("{} has MTU {}", hop.name, hop.mtu),
        };
        if !why.contains(&words) {
            why.push(words);
        }
    }
    Ok(why.join(", "))
}

/// The first policies without an interface that ask for ports.
pub(super) fn asked_ahead(policies: &[&Policy]) -> Asked {
    asked(policies.iter().copied().filter(|policy| policy.if_id == 0))
}

/// The first policies that ask for ports of the interface by which packets leave; of any interface, if they may take
/// another route than `hops`.
pub(super) fn asked_behind(policies: &[&Policy], hops: &[Hop], sure: bool) -> Asked {
    asked(policies.iter().copied().filter(|policy| match sure {
        true => hops.iter().any(|hop| behind(policy, hop) || (hop.encap && policy.if_id != 0)),
        false => policy.if_id != 0 || policy.mark.mask != 0,
    }))
}

fn asked<'a>(policies: impl Iterator<Item = &'a Policy>) -> Asked {
    let mut asked = Asked::default();
    for policy in policies.filter(|policy| policy.ports) {
        let who = || Some(format!("the IPsec policy {} -> {} asks for ports", policy.src, policy.dst));
        // Of another protocol whole packets do not match either.
        if matches!(policy.protocol, 0 | UDP) {
            asked.udp = asked.udp.or_else(who);
        }
        if policy.protocol != UDP {
            asked.other = asked.other.or_else(who);
        }
    }
    asked
}

fn by_device(policy: &Policy, oif: u32) -> bool {
    policy.oif == 0 || policy.oif == oif
}

/// True if the interface of `hop` looks at the policy.
fn behind(policy: &Policy, hop: &Hop) -> bool {
    let Device::Tunnel { lower, .. } = &hop.device else { return false };
    let (of_xfrm, of_vti) = own(policy, &hop.device);
    (of_xfrm || of_vti) && by_device(policy, *lower)
}

/// Whether a policy is of this XFRM interface, and of this VTI, which finds it by mark.
fn own(policy: &Policy, device: &Device) -> (bool, bool) {
    match device {
        Device::Plain => (false, false),
        Device::Tunnel { if_id, mark: None, .. } => (policy.if_id == *if_id, false),
        Device::Tunnel { mark: Some(mark), .. } => {
            let marked = policy.mark.mask != 0 && mark & policy.mark.mask == policy.mark.value;
            (false, policy.if_id == 0 && marked)
        }
    }
}
