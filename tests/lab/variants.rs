//! Other LANs: tagged, jumbo, without XDP in the driver.

use xdpfrag::lab::traffic::tcp::Direction;
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{Daemon, FAR, LabConfig};

use crate::support::{PORT, binary, carry, deliver, forward, lab, mixed, received, stop};

#[test]
fn tagged_frames_are_fragmented_behind_their_tag() {
    for flags in [&["inject", "--tcp", "fragment"][..], &["veth", "--tcp", "fragment"], &["tap"]] {
        let Some(lab) = lab(LabConfig { vlan: Some(7), ..LabConfig::beyond() }) else { return };
        let daemon = forward(&lab, &[&["--handback"], flags].concat());
        deliver(&lab, mixed(4000));
        assert!(carry(&lab, Direction::Upload).complete());
        let far = lab.far_wire.seen().unwrap();
        assert_eq!((far.largest(), far.syn_mss), (1422, 1382));
        assert!(received(&stop(daemon)) > 2000);
    }
}

#[test]
fn jumbo_frames_become_as_many_fragments_as_it_takes() {
    let Some(lab) = lab(LabConfig { lan_mtu: 9000, ..LabConfig::beyond() }) else { return };
    let daemon = forward(&lab, &[]);
    let sizes = (0..2000).map(|number| [8972, 100, 4000, 1394, 2772 + number % 3000][number % 5]);
    deliver(&lab, sizes.collect());
    let far = lab.far_wire.seen().unwrap();
    assert_eq!(far.largest(), 1422);
    // 8980 bytes of IP payload: six fragments of 1400 and one of 580.
    assert!(far.lengths.iter().any(|&(length, count)| length == 600 && count >= 400), "{far:?}");
    stop(daemon);
}

#[test]
fn generic_mode_delivers() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &["--mode", "generic", "--tcp", "fragment"]);
    // Whole, but not in order: generic XDP sees handed-back frames again, so no flow is held together.
    let tally = Flow::new((FAR, PORT), mixed(2000)).run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.complete(), "{tally:?}");
    assert_eq!(stop(daemon).mode, "generic");
    // What the kernel is yet to cut would come again, without end.
    let daemon = forward(&lab, &["--mode", "generic"]);
    assert!(carry(&lab, Direction::Upload).complete());
    let interface = stop(daemon);
    assert_eq!(interface.handback, "inject");
    assert!(interface.workers[0].reasons["resegmented"] > 1000, "{interface:?}");
    // Of what it cannot resegment it speaks to who has asked for that.
    for (flags, asked) in [(&[][..], false), (&["--df", "keep"], true), (&["--dst", "2001:db8::/32"], true)] {
        let said = forward(&lab, &[&["--mode", "generic"], flags].concat()).stop().unwrap().stderr;
        assert_eq!(said.contains("is not resegmented either"), asked, "{flags:?}: {said}");
    }
}

#[test]
fn an_sa_mtu_above_the_lans_is_a_warning_and_traffic_passes() {
    let Some(lab) = lab(LabConfig { sa_mtu: 1500, ..LabConfig::beyond() }) else { return };
    // The later --mtu of the two would be an error: this one has its own command line.
    let arguments = ["--mtu", "1600", "--json"];
    let daemon =
        Daemon::start(&lab.gateway, binary(), &arguments).unwrap_or_else(|error| panic!("{error:#}"));
    deliver(&lab, mixed(500));
    let ended = daemon.stop().unwrap();
    assert!(ended.status.success());
    assert!(ended.stderr.contains("1600") && ended.stderr.contains("warning"), "{}", ended.stderr);
}

#[test]
fn trap_15_an_sa_mtu_below_1280_is_no_black_hole() {
    let Some(lab) = lab(LabConfig { sa_mtu: 1000, ..LabConfig::beyond() }) else { return };
    let daemon = forward(&lab, &["--dst", "198.18.2.0/24=1000"]);
    deliver(&lab, mixed(600));
    assert!(carry(&lab, Direction::Upload).complete());
    assert!(lab.far_wire.seen().unwrap().largest() <= 1000);
    stop(daemon);
}
