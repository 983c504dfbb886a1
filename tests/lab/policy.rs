//! Who is served: `--df keep` and `--force deaf`.

use std::time::Duration;

use xdpfrag::lab::traffic::tcp::{Direction, Transfer};
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{APPLIANCE, FAR, Lab, LabConfig};
use xdpfrag::observe::snapshot::Snapshot;

use crate::support::{PORT, binary, carry, forward, lab, stop};

#[test]
fn with_df_keep_the_kernel_answers_what_is_too_big() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    for redirect in ["oversize", "all"] {
        lab.lan_wire.reset().unwrap();
        let daemon = forward(&lab, &["--df", "keep", "--redirect", redirect]);
        let flow = Flow { rate: 500, ..Flow::new((FAR, PORT), (1390..=1399).collect()) };
        let tally = flow.run(&lab.appliance, &lab.far).unwrap();
        assert_eq!(tally.missing.into_keys().collect::<Vec<_>>(), (1395..=1399).collect::<Vec<_>>());
        assert_eq!(lab.lan_wire.seen().unwrap().too_big, 5);
        let interface = stop(daemon);
        let kept: u64 = interface.workers.iter().map(|worker| worker.reasons["df_kept"]).sum();
        assert_eq!(kept + interface.xdp["df_kept"], 5, "{interface:?}");
    }
}

/// What `xdpfrag stats --json` says in the gateway.
fn statistics(lab: &Lab) -> Snapshot {
    let text = lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn with_force_deaf_a_host_that_listens_is_told_and_never_served() {
    let Some(lab) = lab(LabConfig { deaf: false, ..LabConfig::default() }) else { return };
    let daemon = forward(&lab, &["--force", "deaf", "--mss", "off"]);
    for _ in 0..2 {
        let report = carry(&lab, Direction::Upload);
        assert!(report.complete(), "{report:?}");
        // 1422 less 40 and less the timestamp option: its path MTU fell.
        assert_eq!(report.client_mss, 1370, "{report:?}");
    }
    assert!(lab.lan_wire.seen().unwrap().too_big > 0);
    assert_eq!(lab.far_wire.seen().unwrap().fragments, 0);
    let interface = stop(daemon);
    assert!(interface.deaf.is_empty() && interface.xdp["warned"] > 0, "{interface:?}");
}

#[test]
fn with_force_deaf_a_host_that_goes_on_is_served_after_a_moment_and_listed() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &["--force", "deaf"]);
    let transfer = Transfer {
        to: (FAR, PORT).into(),
        bytes: 1 << 20,
        direction: Direction::Upload,
        deadline: Duration::from_secs(20),
    };
    let first = transfer.run(&lab.appliance, &lab.far).unwrap();
    assert!(first.complete(), "{first:?}");
    // TCP's own pauses, doubling from 200 ms, decide when it is seen to go on.
    assert!((0.5..10.0).contains(&first.elapsed_s), "{first:?}");
    let snapshot = statistics(&lab);
    let [deaf] = &snapshot.interfaces[0].deaf[..] else { panic!("{snapshot:?}") };
    assert_eq!(deaf.address, APPLIANCE.to_string());
    assert!(deaf.frames > 500, "{deaf:?}");
    // Known by now.
    let second = transfer.run(&lab.appliance, &lab.far).unwrap();
    assert!(second.complete() && second.elapsed_s < 0.5 + first.elapsed_s / 2.0, "{second:?}");
    stop(daemon);
}
