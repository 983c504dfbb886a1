//! The LAN interface itself: state, queues, driver, MTU.

use super::{Options, offloads};
use crate::config::{Choice, Mode};
use crate::control::finding::Finding;
use crate::handback::inject;
use crate::net::links::Link;
use crate::net::{Ethtool, ethtool, xdp_features};
use crate::packet::ether;

const LINK_HEADER: u32 = ether::MAX_HEADER_LEN as u32;
/// Longest frame that can be handed back, bytes.
const MAX_HANDBACK: u32 = inject::MAX_FRAME as u32;
/// Longest frame that a driver without multi-buffer XDP takes: one page, less headroom and skb_shared_info.
const MAX_LINEAR: u32 = 3520;

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

/// RX queues against `--queues`; returns how many will be served.
pub(super) fn queues(link: &Link, options: &Options, findings: &mut Vec<Finding>) -> u32 {
    let available = ethtool::rx_queues(link);
    if available == 0 {
        let why = format!("{} has no RX queue", link.name);
        findings
            .push(Finding::fatal("RX queues", why).remedy(format!("ethtool -L {} combined 1", link.name)));
        return 0;
    }
    if link.is("veth") {
        veth_queues(link, available, options.mode, findings);
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

/// A veth takes no native XDP program if its peer has more TX queues than it has RX queues (`veth_xdp_set`).
fn veth_queues(link: &Link, available: u32, mode: Mode, findings: &mut Vec<Finding>) {
    let Some(peer) = offloads::peer(link) else { return };
    let sends = Ethtool::open().and_then(|mut ethtool| ethtool.tx_channels(&peer)).ok().flatten();
    let Some(sends) = sends.filter(|sends| *sends > available && mode != Mode::Generic) else { return };
    let why = format!(
        "{peer} sends on {sends} queues, {} receives on {available}: a veth takes no native XDP then (ENOSPC)",
        link.name
    );
    let finding = match mode {
        Mode::Native => Finding::fatal("RX queues", why),
        _ => Finding::warning("RX queues", format!("{why}, and generic XDP is slower")),
    };
    findings.push(finding.remedy(format!("ethtool -L {peer} tx {available}")));
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
            if linear_frames_end_below(link) {
                let why = format!(
                    "at MTU {} the driver may refuse native XDP: one page holds a frame of {MAX_LINEAR} bytes",
                    link.mtu
                );
                findings.push(Finding::note("driver", why).remedy(mtu_1500(link)));
            }
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
    if features.native && !features.multi_buffer && linear_frames_end_below(link) {
        let why = format!("{driver} has no multi-buffer XDP: it may refuse the program at MTU {}", link.mtu);
        findings.push(Finding::warning("driver", why).remedy(mtu_1500(link)));
    }
}

/// True if a frame may be longer than what drivers keep in one page, less the headroom.
fn linear_frames_end_below(link: &Link) -> bool {
    link.mtu + LINK_HEADER > MAX_LINEAR
}

fn mtu_1500(link: &Link) -> String {
    format!("ip link set dev {} mtu 1500", link.name)
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
