//! What kind of interface it is, and what it belongs to: bonds, bridges, VLANs.

use crate::control::finding::Finding;
use crate::net::links::{self, Link};

const WHAT: &str = "interface";

/// Whether frames that arrive on this kind of interface can be redirected to an AF_XDP socket; false
/// if the rest is not worth a look.
pub(super) fn check(link: &Link, findings: &mut Vec<Finding>) -> bool {
    let name = &link.name;
    if link.loopback || !link.ethernet {
        let why = format!("{name} does not carry Ethernet frames; name the interface that the LAN is on");
        findings.push(Finding::fatal(WHAT, why).remedy("ip -br link  # shows the names"));
        return false;
    }
    let all = links::all().unwrap_or_default();
    match link.kind.as_deref() {
        Some(kind @ ("bond" | "team")) => findings.push(bond(link, kind, &all)),
        Some("bridge") => findings.push(bridge(link, &all)),
        Some("vlan") => findings.push(vlan(link, &all)),
        _ => {}
    }
    match link.member_of.as_deref() {
        Some(kind @ ("bond" | "team")) => findings.extend(bond_member(link, kind, &all)),
        Some("bridge") => {
            let why = format!(
                "{name} is a bridge port: frames that are only switched are treated too; narrow with --dst"
            );
            findings.push(Finding::warning(WHAT, why));
        }
        _ => {}
    }
    true
}

fn bond(link: &Link, kind: &str, all: &[Link]) -> Finding {
    let name = &link.name;
    let why = format!("{name} is a {kind}: AF_XDP sees its members' queues, not its own; run on each member");
    let finding = Finding::fatal(WHAT, why);
    match flags(&members(link.index, all)) {
        none if none.is_empty() => finding.remedy(format!("ip -br link show master {name}  # has none yet")),
        flags => finding.remedy(format!("xdpfrag run{flags} ...")),
    }
}

/// Frames arrive on whichever member the other end chooses, and replies leave by any.
fn bond_member(link: &Link, kind: &str, all: &[Link]) -> Option<Finding> {
    let master = all.iter().find(|master| Some(master.index) == link.master)?;
    let members = members(master.index, all);
    if members.len() < 2 {
        return None;
    }
    let why = format!(
        "{} is a member of the {kind} {}: what arrives on the others passes untreated; serve them all",
        link.name, master.name
    );
    Some(Finding::note(WHAT, why).remedy(format!("xdpfrag run{} ...", flags(&members))))
}

fn bridge(link: &Link, all: &[Link]) -> Finding {
    let name = &link.name;
    let why = format!(
        "{name} is a bridge: no native XDP here, generic XDP is slower; its ports can do better, but treat what they \
         only switch as well: narrow with --dst there"
    );
    let finding = Finding::warning(WHAT, why);
    match flags(&members(link.index, all)) {
        none if none.is_empty() => finding,
        flags => finding.remedy(format!("xdpfrag run{flags} --dst CIDR ...")),
    }
}

fn vlan(link: &Link, all: &[Link]) -> Finding {
    let lower = link.lower.filter(|_| !link.lower_elsewhere);
    let parent = all.iter().find(|parent| Some(parent.index) == lower);
    let why = |parent: &str| {
        format!(
            "{} is a VLAN on {parent}: no native XDP here; {parent} serves the frames of all its VLANs in the driver",
            link.name
        )
    };
    match parent {
        Some(parent) => Finding::warning(WHAT, why(&parent.name))
            .remedy(format!("xdpfrag run --iface {} ...", parent.name)),
        None => Finding::warning(WHAT, why("its parent")),
    }
}

/// Names of the interfaces that belong to this one.
fn members(master: u32, all: &[Link]) -> Vec<&str> {
    all.iter().filter(|link| link.master == Some(master)).map(|link| link.name.as_str()).collect()
}

fn flags(names: &[&str]) -> String {
    names.iter().map(|name| format!(" --iface {name}")).collect()
}
