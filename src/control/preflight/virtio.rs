//! virtio-net: native XDP needs the offloads of the guest's side off, and the host may not let it.

use super::Options;
use crate::config::Mode;
use crate::control::finding::Finding;
use crate::net::ethtool::Features;

/// Its name.
pub(super) const DRIVER: &str = "virtio_net";

/// What the host hands over unfinished: merged frames and frames without a checksum.
const OFFLOADS: [&str; 2] = ["rx-gro-hw", "rx-checksum"];

/// `virtnet_xdp_set` switches these offloads off, or refuses where the host gives no control over them
/// (VIRTIO_NET_F_CTRL_GUEST_OFFLOADS): then merging cannot be changed either.
pub(super) fn offloads(name: &str, features: &Features, options: &Options, findings: &mut Vec<Finding>) {
    let what = "offloads";
    // The checksum is fixed in either case.
    if !features.is_stuck("rx-gro-hw") {
        if features.has("rx-gro-hw") && options.mode == Mode::Generic {
            let why = format!(
                "GRO in hardware is on: merged frames, longer than the MTU of {name}, pass untreated"
            );
            let command = format!("ethtool -K {name} rx-gro-hw off");
            findings.push(Finding::warning(what, why).remedy(command));
        } else if OFFLOADS.iter().any(|offload| features.has(offload)) {
            let why = "native XDP switches what the host merges and leaves unfinished off for as long as `run` runs";
            findings.push(Finding::note(what, why));
        }
        return;
    }
    let why = "the host merges frames (rx-gro-hw) and does not let this driver switch that off: it refuses native XDP";
    let remedy = "-device virtio-net-pci,ctrl_guest_offloads=on,...  # QEMU's, on the host; or guest_tso4=off,\
                  guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off";
    let finding = match options.mode {
        Mode::Native => Finding::fatal(what, why),
        _ => Finding::warning(what, format!("{why}, and with generic XDP merged frames pass untreated")),
    };
    findings.push(finding.remedy(remedy));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::finding::Level;

    fn found(mode: Mode, active: &[&str], changeable: &[&str]) -> Vec<Level> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let features = Features { active: names(active), changeable: names(changeable) };
        let mut findings = Vec::new();
        offloads("eth1", &features, &Options { mode, ..Options::default() }, &mut findings);
        findings.into_iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn what_cannot_be_switched_off_is_in_the_way_of_native_xdp() {
        let stuck = ["rx-gro-hw", "rx-checksum"];
        assert_eq!(found(Mode::Auto, &stuck, &["rx-gro"]), [Level::Warning]);
        assert_eq!(found(Mode::Native, &stuck, &[]), [Level::Fatal]);
        assert_eq!(found(Mode::Auto, &stuck, &["rx-gro-hw"]), [Level::Note]);
        assert_eq!(found(Mode::Generic, &stuck, &["rx-gro-hw"]), [Level::Warning]);
        assert_eq!(found(Mode::Auto, &["rx-gro"], &[]), []);
    }
}
