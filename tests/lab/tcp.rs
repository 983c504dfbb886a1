//! TCP through the gateway, with an appliance that announces and uses an MSS of 1460 whatever it is told.

use xdpfrag::lab::traffic::tcp::Direction;
use xdpfrag::lab::{LabConfig, Narrow};

use crate::support::{by_their_way, carry, forward, lab, stop};

#[test]
fn four_megabytes_each_way_with_a_deaf_appliance() {
    for narrow in [Narrow::Gateway, Narrow::Beyond] {
        for tcp in ["resegment", "fragment"] {
            let Some(lab) = lab(LabConfig { narrow, ..LabConfig::default() }) else { return };
            let daemon = forward(&lab, &["--tcp", tcp]);
            for direction in [Direction::Upload, Direction::Download] {
                let report = carry(&lab, direction);
                assert!(report.complete(), "{narrow:?} {tcp} {direction:?} {report:?}");
                // It did ignore the MSS: 1460 less the timestamp option.
                assert_eq!(report.client_mss, 1448, "{report:?}");
            }
            let far = lab.far_wire.seen().unwrap();
            assert!(far.largest() <= 1422, "{narrow:?} {tcp} {far:?}");
            let interface = stop(daemon);
            let cut = by_their_way(narrow, &interface);
            match tcp {
                "fragment" => assert!(far.fragments > 5000 && cut > 2000, "{far:?} {interface:?}"),
                _ => assert_eq!((far.fragments, cut), (0, 0), "{interface:?}"),
            }
        }
    }
}

#[test]
fn both_ends_see_an_mss_that_fits_the_tunnel() {
    let Some(lab) = lab(LabConfig { deaf: false, ..LabConfig::default() }) else { return };
    let without = carry(&lab, Direction::Upload);
    assert!(without.complete(), "an appliance that hears ICMP gets by: {without:?}");
    assert_eq!(lab.lan_wire.seen().unwrap().syn_mss, 1460);
    assert_eq!(lab.far_wire.seen().unwrap().syn_mss, 1460);

    for arguments in [&[][..], &["--redirect", "all"]] {
        let daemon = forward(&lab, arguments);
        lab.lan_wire.reset().unwrap();
        lab.far_wire.reset().unwrap();
        for direction in [Direction::Upload, Direction::Download] {
            let report = carry(&lab, direction);
            assert!(report.complete(), "{direction:?} {report:?}");
            assert!(report.client_mss <= 1382 && report.server_mss <= 1382, "{report:?}");
        }
        let (lan, far) = (lab.lan_wire.seen().unwrap(), lab.far_wire.seen().unwrap());
        assert_eq!((lan.syn, lan.syn_mss), (2, 1382));
        assert_eq!((far.syn, far.syn_mss), (2, 1382));
        let interface = stop(daemon);
        assert_eq!(interface.egress_mss, 2, "{interface:?}");
    }
}

#[test]
fn without_mss_clamping_oversize_segments_still_arrive() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &["--mss", "off"]);
    let report = carry(&lab, Direction::Upload);
    assert!(report.complete(), "{report:?}");
    assert_eq!(lab.far_wire.seen().unwrap().syn_mss, 1460);
    assert_eq!(lab.lan_wire.seen().unwrap().syn_mss, 1460);
    stop(daemon);
}
