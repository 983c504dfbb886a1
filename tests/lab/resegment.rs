//! `--tcp resegment`: a real connection of a deaf appliance, and no fragment anywhere.

use xdpfrag::lab::LabConfig;
use xdpfrag::lab::traffic::tcp::Direction;

use crate::support::{carry, deliver, forward, lab, mixed, snmp, stop, tcp_ext};

#[test]
fn a_deaf_appliance_s_segments_arrive_as_segments_with_df_and_right_checksums() {
    for (redirect, handback) in
        [("oversize", "inject"), ("all", "inject"), ("oversize", "tap"), ("all", "tap")]
    {
        let Some(lab) = lab(LabConfig::beyond()) else { return };
        let flags = ["--tcp", "resegment", "--df", "keep", "--redirect", redirect, "--handback", handback];
        let daemon = forward(&lab, &flags);
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
        // Out of order arrives only what a lost segment leaves a gap for.
        let disordered = tcp_ext(&lab.far, "TCPOFOQueue");
        assert!(disordered == 0 || again > 0, "{disordered} segments were overtaken, none was lost");
        let interface = stop(daemon);
        let segmented: u64 = interface.workers.iter().map(|worker| worker.reasons["resegmented"]).sum();
        assert!(segmented > 2000, "{interface:?}");
    }
}

/// What comes in one batch crosses the stack as one packet: not every segment of the sender leaves a short one behind.
#[test]
fn segments_of_a_batch_are_merged_and_cut_to_the_size_of_the_sa() {
    let mut short = Vec::new();
    // What auto takes where TCP is not left to GRO.
    for (handback, name) in [("inject", "inject"), ("auto", "tap")] {
        let Some(lab) = lab(LabConfig::beyond()) else { return };
        let daemon = forward(&lab, &["--tcp", "resegment", "--handback", handback]);
        assert!(carry(&lab, Direction::Upload).complete());
        let far = lab.far_wire.seen().unwrap();
        let full: u64 =
            far.lengths.iter().filter(|(length, _)| *length == 1422).map(|(_, count)| count).sum();
        short.push((far.packets - full) as f64 / full as f64);
        assert_eq!(stop(daemon).handback, name);
    }
    assert!(short[0] > 0.9, "{short:?}");
    assert!(short[1] < short[0] / 2.0, "{short:?}");
}

#[test]
fn datagrams_are_fragmented_all_the_same() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &["--tcp", "resegment"]);
    deliver(&lab, mixed(2000));
    let interface = stop(daemon);
    assert!(interface.workers[0].reasons["fragmented"] > 500, "{interface:?}");
}
