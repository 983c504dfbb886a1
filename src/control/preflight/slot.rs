//! The interface's place for an XDP program: free, a running instance's, or somebody else's.

use libbpf_rs::query::{LinkInfoIter, LinkTypeInfo, ProgInfoIter};

use super::XDP_SLOT;
use crate::control::finding::Finding;
use crate::net::links::{self, AttachedXdp, Link};
use crate::observe::client::{self, ClientError};

/// What the kernel shows of the name of the program in `bpf/xdpfrag.bpf.c`.
const OURS: &str = "xdpfrag";

/// Whether an XDP program is attached. It is never replaced. `start` is for a second instance, which would find the
/// place taken by the first.
pub(super) fn check(link: &Link, start: bool) -> Finding {
    let Some(xdp) = link.xdp else { return free(link, start) };
    let name = name_of(xdp.program_id);
    match served(&link.name) {
        Some(instance) if name.as_deref().is_none_or(|name| name == OURS) => in_use(link, instance, start),
        _ => taken(link, xdp, name.as_deref()),
    }
}

fn free(link: &Link, start: bool) -> Finding {
    let name = &link.name;
    let above = links::faces(link, &links::all().unwrap_or_default());
    if let Some(face) = above.iter().find(|face| face.xdp.is_some()) {
        let why = format!(
            "{0}, which {name} belongs to, has an XDP program: the kernel takes none below it \
             (dev_xdp_attach); end the program that owns it",
            face.name
        );
        return Finding::fatal(XDP_SLOT, why).remedy(format!("ip -d link show dev {}", face.name));
    }
    // That it serves the interface in vain is the finding, for a second instance that it is in the way.
    match served(name) {
        Some(Ok(pid)) => {
            let why =
                format!("process {pid} serves {name}, but its XDP program was detached: nothing is treated");
            let finding = if start { Finding::fatal(XDP_SLOT, why) } else { Finding::warning(XDP_SLOT, why) };
            finding.remedy(replace(name))
        }
        _ => Finding::ok(XDP_SLOT, "no program is attached"),
    }
}

fn in_use(link: &Link, instance: Result<u32, ClientError>, start: bool) -> Finding {
    let name = &link.name;
    match (instance, start) {
        (Ok(pid), false) => Finding::ok(XDP_SLOT, format!("{name} is served by process {pid}")),
        (Ok(pid), true) => {
            let why =
                format!("{name} is served by process {pid} already; end that one, or take over from it");
            Finding::fatal(XDP_SLOT, why).remedy(replace(name))
        }
        (Err(error), start) => {
            let why = format!("{name} is served by an instance that does not say how it is: {error}");
            if start { Finding::fatal(XDP_SLOT, why) } else { Finding::warning(XDP_SLOT, why) }
        }
    }
}

fn replace(name: &str) -> String {
    format!("xdpfrag run --replace --iface {name} ...")
}

/// Somebody else's program, or that of an instance which nobody can ask from here.
fn taken(link: &Link, xdp: AttachedXdp, program: Option<&str>) -> Finding {
    let (name, id, mode) = (&link.name, xdp.program_id, xdp.mode);
    let called = program.map(|program| format!("'{program}', ")).unwrap_or_default();
    let has = format!("{name} has an XDP program already ({called}id {id}, {mode} mode)");
    if program == Some(OURS) {
        let why = format!(
            "{has}: that of an xdpfrag which nobody can ask in this network namespace; end its process, which the \
             command names"
        );
        return Finding::fatal(XDP_SLOT, why).remedy(format!("bpftool prog show id {id}"));
    }
    let owner = LinkInfoIter::default().find(|owner| {
        owner.prog_id == id && matches!(&owner.info, LinkTypeInfo::Xdp(xdp) if xdp.ifindex == link.index)
    });
    let command = match owner {
        Some(owner) => format!("bpftool link detach id {}", owner.id),
        None => format!("ip link set dev {name} {} off", flag(mode)),
    };
    let why = format!("{has}; it is not replaced: end the program that owns it");
    Finding::fatal(XDP_SLOT, why).remedy(format!("{command}  # removes the other program"))
}

/// That of ip-link(8).
fn flag(mode: &str) -> &'static str {
    match mode {
        "native" => "xdpdrv",
        "generic" => "xdpgeneric",
        _ => "xdpoffload",
    }
}

/// `None` where the kernel does not tell.
fn name_of(program: u32) -> Option<String> {
    let found = ProgInfoIter::default().find(|known| known.id == program)?;
    Some(found.name.to_string_lossy().into_owned())
}

/// The process that says it serves `interface`; `None` if nobody does, or somebody whom nobody should believe.
fn served(interface: &str) -> Option<Result<u32, ClientError>> {
    if !client::interfaces().unwrap_or_default().iter().any(|served| served == interface) {
        return None;
    }
    match client::fetch(interface) {
        Ok(snapshot) => Some(Ok(snapshot.pid)),
        Err(ClientError::Foreign { .. } | ClientError::NotRunning(_)) => None,
        Err(error) => Some(Err(error)),
    }
}
