//! IPv6: the MSS in both directions, the kernel's own "too big", and resegmentation.

use xdpfrag::lab::traffic::tcp::Direction;
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{FAR6, LabConfig};

use crate::support::{PORT, carry_to, forward, lab, snmp, stop};

fn config(deaf: bool) -> LabConfig {
    LabConfig { ipv6: true, deaf, ..LabConfig::default() }
}

#[test]
fn both_ends_see_an_mss_that_fits_the_tunnel() {
    let Some(lab) = lab(config(false)) else { return };
    for arguments in [&[][..], &["--redirect", "all"]] {
        let daemon = forward(&lab, arguments);
        lab.lan_wire.reset().unwrap();
        lab.far_wire.reset().unwrap();
        for direction in [Direction::Upload, Direction::Download] {
            let report = carry_to(&lab, FAR6.into(), direction);
            assert!(report.complete(), "{direction:?} {report:?}");
        }
        // 1422 less 60.
        let (lan, far) = (lab.lan_wire.seen().unwrap(), lab.far_wire.seen().unwrap());
        assert_eq!((lan.syn, lan.syn_mss), (2, 1362), "{arguments:?}");
        assert_eq!((far.syn, far.syn_mss), (2, 1362), "{arguments:?}");
        assert_eq!(lan.too_big, 0, "{arguments:?}");
        stop(daemon);
    }
}

#[test]
fn an_oversize_datagram_is_answered_by_the_kernel() {
    let Some(lab) = lab(config(true)) else { return };
    let daemon = forward(&lab, &["--tcp", "resegment"]);
    let flow = Flow { rate: 200, ..Flow::new((FAR6, PORT), (1370..=1379).collect()) };
    let tally = flow.run(&lab.appliance, &lab.far).unwrap();
    // 40 bytes of IPv6 and 8 of UDP: 1374 is the last payload that fits 1422.
    assert_eq!(tally.missing.into_keys().collect::<Vec<_>>(), (1375..=1379).collect::<Vec<_>>());
    assert_eq!(lab.lan_wire.seen().unwrap().too_big, 5);
    assert_eq!(lab.far_wire.seen().unwrap().fragments, 0);
    stop(daemon);
}

#[test]
fn a_deaf_appliance_stalls_without_resegmentation_and_delivers_with_it() {
    let Some(lab) = lab(config(true)) else { return };
    let daemon = forward(&lab, &["--tcp", "resegment"]);
    for direction in [Direction::Upload, Direction::Download] {
        let report = carry_to(&lab, FAR6.into(), direction);
        assert!(report.complete(), "{direction:?} {report:?}");
        assert_eq!(report.client_mss, 1428, "it did ignore the MSS: {report:?}");
    }
    let far = lab.far_wire.seen().unwrap();
    assert!(far.largest() <= 1422 && far.fragments == 0, "{far:?}");
    for host in [&lab.far, &lab.appliance] {
        assert_eq!((snmp(host, "Tcp", "InCsumErrors"), snmp(host, "Tcp", "InErrs")), (0, 0));
    }
    stop(daemon);
    let daemon = forward(&lab, &["--tcp", "fragment"]);
    let report = carry_to(&lab, FAR6.into(), Direction::Upload);
    assert_eq!((report.received, report.complete()), (0, false), "a router may not fragment: {report:?}");
    stop(daemon);
}
