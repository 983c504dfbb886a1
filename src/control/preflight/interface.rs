//! The LAN interface itself: kind, state, XDP slot, queues, driver, MTU.

use libbpf_rs::query::{LinkInfoIter, LinkTypeInfo, ProgInfoIter};

use super::{Options, XDP_SLOT};
use crate::config::{Choice, Mode};
use crate::control::finding::Finding;
use crate::handback::inject;
use crate::net::links::Link;
use crate::net::{ethtool, links, xdp_features};
use crate::packet::ether;

const LINK_HEADER: u32 = ether::MAX_HEADER_LEN as u32;
/// Longest frame that can be handed back, bytes.
const MAX_HANDBACK: u32 = inject::MAX_FRAME as u32;
/// Longest frame that a driver without multi-buffer XDP takes: one page, less headroom and skb_shared_info.
const MAX_LINEAR: u32 = 3520;

/// Whether frames that arrive on this kind of interface can be redirected to an AF_XDP socket; false
/// if the rest is not worth a look.
pub(super) fn kind(link: &Link, findings: &mut Vec<Finding>) -> bool {
    let name = &link.name;
    if link.loopback || !link.ethernet {
        let why = format!("{name} does not carry Ethernet frames; name the interface that the LAN is on");
        findings.push(Finding::fatal("interface", why).remedy("ip -br link  # shows the names"));
        return false;
    }
    let lower = link.lower.filter(|_| !link.lower_elsewhere).and_then(name_of);
    match link.kind.as_deref() {
        Some("bond" | "team") => {
            let why = format!(
                "{name} is a {}: AF_XDP sees its members' queues, not its own; \
                 run on each member (--iface may be repeated)",
                link.kind.as_deref().unwrap_or_default()
            );
            findings.push(Finding::fatal("interface", why).remedy(format!("ip -br link show master {name}")));
        }
        Some("vlan") => {
            let parent = lower.unwrap_or_else(|| "its parent".into());
            let why = format!(
                "{name} is a VLAN on {parent}: no native XDP here; \
                 --iface {parent} serves the frames of all its VLANs in the driver"
            );
            findings.push(Finding::warning("interface", why));
        }
        _ => {}
    }
    if link.member_of.as_deref() == Some("bridge") {
        let why = format!(
            "{name} is a bridge port: frames that are only switched are treated too; narrow with --dst"
        );
        findings.push(Finding::warning("interface", why));
    }
    true
}

fn name_of(index: u32) -> Option<String> {
    links::all().ok()?.into_iter().find(|link| link.index == index).map(|link| link.name)
}

/// Whether it is up.
pub(super) fn state(link: &Link, findings: &mut Vec<Finding>) {
    let name = &link.name;
    if !link.up {
        let why = format!("{name} is down");
        findings.push(Finding::fatal("interface", why).remedy(format!("ip link set dev {name} up")));
    } else if !link.carrier {
        findings.push(Finding::warning(
            "interface",
            format!("{name} is up, but has no carrier: is the cable in?"),
        ));
    } else {
        findings.push(Finding::ok("interface", format!("{name} is up")));
    }
}

/// Whether an XDP program is attached already. It is never replaced.
pub(super) fn xdp_slot(link: &Link, findings: &mut Vec<Finding>) {
    let Some(xdp) = link.xdp else {
        findings.push(Finding::ok(XDP_SLOT, "no program is attached"));
        return;
    };
    let id = xdp.program_id;
    let program = ProgInfoIter::default()
        .find(|program| program.id == id)
        .map(|program| format!("'{}', ", program.name.to_string_lossy()))
        .unwrap_or_default();
    let why = format!(
        "{} has an XDP program already ({program}id {id}, {} mode); it is not replaced: \
         end the program that owns it",
        link.name, xdp.mode
    );
    let owner = LinkInfoIter::default().find(|owner| {
        owner.prog_id == id && matches!(&owner.info, LinkTypeInfo::Xdp(xdp) if xdp.ifindex == link.index)
    });
    let command = match owner {
        Some(owner) => format!("bpftool link detach id {}", owner.id),
        None => format!(
            "ip link set dev {} {} off",
            link.name,
            match xdp.mode {
                "native" => "xdpdrv",
                "generic" => "xdpgeneric",
                _ => "xdpoffload",
            }
        ),
    };
    findings.push(Finding::fatal(XDP_SLOT, why).remedy(command));
}

/// RX queues against `--queues`; returns how many will be served.
pub(super) fn queues(link: &Link, options: &Options, findings: &mut Vec<Finding>) -> u32 {
    let available = ethtool::rx_queues(link);
    if available == 0 {
        let why = format!("{} has no RX queue", link.name);
        findings
            .push(Finding::fatal("RX queues", why).remedy(format!("ethtool -L {} combined 1", link.name)));
        return 0;
    }
    let Some(queues) = &options.queues else {
        findings.push(Finding::ok("RX queues", format!("{available}, each gets a socket and a worker")));
        return available;
    };
    let served = queues.iter().filter(|queue| **queue < available).count() as u32;
    if let Some(queue) = queues.iter().find(|queue| **queue >= available) {
        let why =
            format!("--queues names queue {queue}, but {} has queues 0 to {}", link.name, available - 1);
        findings.push(Finding::fatal("RX queues", why).remedy(format!("ethtool -l {}", link.name)));
    } else if served < available {
        let why =
            format!("{served} of {available} are served: oversize frames on the others stay as they are");
        findings.push(Finding::warning("RX queues", why).remedy("xdpfrag run --queues all ..."));
    } else {
        findings.push(Finding::ok("RX queues", format!("all {available} are served")));
    }
    served
}

/// What the driver can do, as far as it says.
pub(super) fn driver(link: &Link, options: &Options, findings: &mut Vec<Finding>) {
    let driver = link.driver().unwrap_or_else(|| "unknown driver".into());
    let features = match xdp_features::xdp_features(link.index) {
        Ok(Some(features)) => features,
        Ok(None) | Err(_) => {
            let why = format!(
                "{driver}; this kernel does not tell what its drivers can do (6.3 does): `run` tries \
                 native XDP first and says what it got"
            );
            findings.push(Finding::note("driver", why));
            return;
        }
    };
    let modes = match (features.native, features.zero_copy) {
        (true, true) => "native XDP, zero-copy AF_XDP",
        (true, false) => "native XDP, AF_XDP in copy mode",
        (false, _) => "generic XDP only, which is slower: the frame is a socket buffer by then",
    };
    findings.push(if !features.native && options.mode == Mode::Native {
        Finding::fatal("driver", format!("{driver}: {modes}, but --mode native asks for more"))
            .remedy("xdpfrag run --mode auto ...")
    } else if !features.zero_copy && options.zero_copy == Choice::On {
        Finding::fatal("driver", format!("{driver}: {modes}, but --zero-copy on asks for more"))
            .remedy("xdpfrag run --zero-copy auto ...")
    } else if !features.native {
        Finding::warning("driver", format!("{driver}: {modes}"))
    } else {
        Finding::ok("driver", format!("{driver}: {modes}"))
    });
    // Drivers give a frame one page, less the headroom.
    if features.native && !features.multi_buffer && link.mtu + LINK_HEADER > MAX_LINEAR {
        let why = format!("{driver} has no multi-buffer XDP: it may refuse the program at MTU {}", link.mtu);
        findings
            .push(Finding::warning("driver", why).remedy(format!("ip link set dev {} mtu 1500", link.name)));
    }
}

/// SA MTUs against the interface's MTU.
pub(super) fn mtu(link: &Link, options: &Options, findings: &mut Vec<Finding>) {
    let (name, lan) = (&link.name, link.mtu);
    if options.mtus.is_empty() {
        return;
    }
    let too_long = |mtu: u32| mtu < lan && mtu + LINK_HEADER > MAX_HANDBACK;
    if let Some(mtu) = options.mtus.iter().find(|mtu| too_long(u32::from(**mtu))) {
        let why = format!(
            "an SA MTU of {mtu} makes fragments longer than the {MAX_HANDBACK} bytes that can be handed back; \
             give {} or less",
            MAX_HANDBACK - LINK_HEADER
        );
        findings.push(
            Finding::fatal("MTU", why)
                .remedy(format!("xdpfrag run --mtu {} ...", MAX_HANDBACK - LINK_HEADER)),
        );
    } else if options.mtus.iter().all(|mtu| u32::from(*mtu) >= lan) {
        let why = format!(
            "the MTU of {name} is {lan}, not above the SA MTU: nothing will be oversize, only DF and \
             MSS are edited"
        );
        findings.push(Finding::warning("MTU", why));
    } else {
        findings.push(Finding::ok(
            "MTU",
            format!("{lan} on {name}, above the SA MTU: longer packets are fragmented"),
        ));
    }
}
