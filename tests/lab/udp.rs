//! UDP with DF, whole and in order, by every way a frame can take.

use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{FAR, LabConfig, Narrow, Rules};

use crate::support::{PORT, by_their_way, deliver, forward, forwarded, lab, mixed, received, stop};

const BOTH: [Narrow; 2] = [Narrow::Gateway, Narrow::Beyond];

fn narrow(narrow: Narrow) -> LabConfig {
    LabConfig { narrow, ..LabConfig::default() }
}

#[test]
fn every_size_from_1_to_1472_arrives_whole() {
    for way in BOTH {
        let Some(lab) = lab(narrow(way)) else { return };
        let daemon = forward(&lab, &["--df", "clear"]);
        // Each is alone on the wire for a moment: with a gap, every length meets a flow of every state.
        let flow = Flow { rate: 4000, ..Flow::new((FAR, PORT), (1..=1472).collect()) };
        let tally = flow.run(&lab.appliance, &lab.far).unwrap();
        assert!(tally.complete(), "{way:?} {tally:?}");
        let far = lab.far_wire.seen().unwrap();
        assert_eq!((far.largest(), far.df), (1422, 0), "{way:?}");
        assert_eq!(lab.lan_wire.seen().unwrap().too_big, 0);
        // 1395 to 1472 are oversize and all the others fit.
        assert_eq!(by_their_way(way, &stop(daemon)), 78, "{way:?}");
    }
}

#[test]
fn sizes_from_60_to_3000_arrive_whole_and_in_order_and_what_fits_keeps_df() {
    for way in BOTH {
        let Some(lab) = lab(LabConfig { lan_mtu: 3100, ..narrow(way) }) else { return };
        let daemon = forward(&lab, &[]);
        let sizes: Vec<usize> = (60..=3000).step_by(7).chain(1390..=1400).collect();
        let (fit, cut): (Vec<usize>, Vec<usize>) = sizes.iter().partition(|&&size| size <= 1394);
        deliver(&lab, sizes);
        let far = lab.far_wire.seen().unwrap();
        assert_eq!((far.largest(), far.df), (1422, fit.len() as u64), "{way:?}");
        assert_eq!(by_their_way(way, &stop(daemon)), cut.len() as u64, "{way:?}");
    }
}

#[test]
fn four_thousand_datagrams_of_mixed_sizes_arrive_whole_and_in_order() {
    for way in BOTH {
        let Some(lab) = lab(narrow(way)) else { return };
        let daemon = forward(&lab, &[]);
        deliver(&lab, mixed(4000));
        let interface = stop(daemon);
        assert!(by_their_way(way, &interface) > 1000, "{interface:?}");
        assert_eq!(interface.workers.iter().map(|worker| worker.socket_drops).sum::<u64>(), 0);
        let latency = interface.workers[0].latency.is_some_and(|latency| latency.count > 0);
        assert_eq!((latency, received(&interface) > 0), (way == Narrow::Beyond, way == Narrow::Beyond));
    }
}

#[test]
fn redirect_all_takes_every_frame_through_the_workers() {
    for way in BOTH {
        let Some(lab) = lab(narrow(way)) else { return };
        let daemon = forward(&lab, &["--redirect", "all"]);
        deliver(&lab, mixed(4000));
        let interface = stop(daemon);
        assert!(received(&interface) >= 4000, "{interface:?}");
        assert!(by_their_way(way, &interface) > 1000, "{interface:?}");
    }
}

#[test]
fn every_hand_back_delivers() {
    for handback in ["inject", "veth", "tap"] {
        let Some(lab) = lab(LabConfig::beyond()) else { return };
        let daemon = forward(&lab, &["--handback", handback]);
        deliver(&lab, mixed(4000));
        assert_eq!(lab.far_wire.seen().unwrap().largest(), 1422);
        let interface = stop(daemon);
        assert_eq!(interface.handback, handback);
        assert!(forwarded(&interface, "fragmented") > 1000, "{interface:?}");
    }
}

#[test]
fn a_lost_fragment_loses_its_own_datagram_only() {
    for way in BOTH {
        let Some(lab) = lab(narrow(way)) else { return };
        let daemon = forward(&lab, &[]);
        lab.far_wire.set(Rules { lose_fragment: 101, ..Rules::default() }).unwrap();
        let sizes = vec![1472; 5000];
        let flow = Flow { connected: false, rate: 4000, ..Flow::new((FAR, PORT), sizes) };
        let tally = flow.run(&lab.appliance, &lab.far).unwrap();
        let lost = lab.far_wire.seen().unwrap().lost;
        assert_eq!(lost, 99, "{way:?}");
        assert_eq!((tally.sent - tally.intact, tally.corrupt), (lost, 0), "{way:?} {tally:?}");
        stop(daemon);
    }
}

/// The kernel cannot finish a checksum over a fragment: a worker does, or the kernel before it cuts.
#[test]
fn checksums_left_to_hardware_arrive_right() {
    for way in BOTH {
        let Some(lab) = lab(narrow(way)) else { return };
        lab.appliance.output("ethtool", &["-K", "lan0", "tx", "on"]).unwrap();
        let daemon = forward(&lab, &[]);
        deliver(&lab, mixed(500));
        assert!(by_their_way(way, &stop(daemon)) > 100, "{way:?}");
    }
}

#[test]
fn trap_11_what_is_out_of_scope_is_not_touched() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &["--dst", "198.18.77.0/24"]);
    let tally = Flow::new((FAR, PORT), vec![1394, 1472]).run(&lab.appliance, &lab.far).unwrap();
    assert_eq!((tally.intact, tally.missing.keys().copied().collect::<Vec<_>>()), (1, vec![1472]));
    assert_eq!(lab.far_wire.seen().unwrap().df, 1);
    assert!(stop(daemon).xdp["out_of_scope"] >= 2);
}
