//! `--tcp resegment`: a real connection of a deaf appliance, and no fragment anywhere.

use xdpfrag::lab::LabConfig;
use xdpfrag::lab::traffic::tcp::Direction;

use crate::support::{carry, deliver, forward, lab, mixed, snmp, stop};

#[test]
fn a_deaf_appliance_s_segments_arrive_as_segments_with_df_and_right_checksums() {
    for redirect in ["oversize", "all"] {
        let Some(lab) = lab(LabConfig::default()) else { return };
        let daemon = forward(&lab, &["--tcp", "resegment", "--df", "keep", "--redirect", redirect]);
        for direction in [Direction::Upload, Direction::Download] {
            let report = carry(&lab, direction);
            assert!(report.complete(), "{direction:?} {report:?}");
            assert_eq!(report.client_mss, 1448, "it did ignore the MSS: {report:?}");
        }
        let far = lab.far_wire.seen().unwrap();
        assert!(far.largest() <= 1422, "{far:?}");
        assert_eq!((far.fragments, far.df), (0, far.packets), "{far:?}");
        for host in [&lab.far, &lab.appliance] {
            assert_eq!(snmp(host, "Tcp", "InCsumErrors"), 0);
            assert_eq!(snmp(host, "Tcp", "InErrs"), 0);
        }
        let (sent, again) =
            (snmp(&lab.appliance, "Tcp", "OutSegs"), snmp(&lab.appliance, "Tcp", "RetransSegs"));
        assert!(again * 50 <= sent, "{again} of {sent} segments were sent again");
        let interface = stop(daemon);
        let segmented: u64 = interface.workers.iter().map(|worker| worker.reasons["resegmented"]).sum();
        assert!(segmented > 2000, "{interface:?}");
    }
}

#[test]
fn datagrams_are_fragmented_all_the_same() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &["--tcp", "resegment"]);
    deliver(&lab, mixed(2000));
    let interface = stop(daemon);
    assert!(interface.workers[0].reasons["fragmented"] > 500, "{interface:?}");
}
