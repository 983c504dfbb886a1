//! UDP with DF, whole and in order, by every way a frame can take.

use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{FAR, LabConfig, Rules};

use crate::support::{PORT, deliver, forward, lab, mixed, received, stop};

#[test]
fn every_size_from_1_to_1472_arrives_whole() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &[]);
    // Each is alone on the wire for a moment: with a gap, every length meets a flow of every state.
    let flow = Flow { rate: 4000, ..Flow::new((FAR, PORT), (1..=1472).collect()) };
    let tally = flow.run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.complete(), "{tally:?}");
    let far = lab.far_wire.seen().unwrap();
    assert_eq!((far.largest(), far.df), (1422, 0));
    assert_eq!(lab.lan_wire.seen().unwrap().too_big, 0);
    let interface = stop(daemon);
    // 1395 to 1472 are oversize and all the others fit.
    assert_eq!(interface.workers[0].reasons["fragmented"], 78, "{interface:?}");
}

#[test]
fn four_thousand_datagrams_of_mixed_sizes_arrive_whole_and_in_order() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &[]);
    deliver(&lab, mixed(4000));
    let interface = stop(daemon);
    assert_eq!(interface.workers.iter().map(|worker| worker.socket_drops).sum::<u64>(), 0);
    assert!(interface.workers[0].latency.is_some_and(|latency| latency.count > 0), "{interface:?}");
}

#[test]
fn redirect_all_takes_every_frame_through_the_workers() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &["--redirect", "all"]);
    deliver(&lab, mixed(4000));
    let interface = stop(daemon);
    assert!(received(&interface) >= 4000, "{interface:?}");
}

#[test]
fn both_hand_backs_deliver() {
    for handback in ["inject", "veth"] {
        let Some(lab) = lab(LabConfig::default()) else { return };
        let daemon = forward(&lab, &["--handback", handback]);
        deliver(&lab, mixed(4000));
        assert_eq!(lab.far_wire.seen().unwrap().largest(), 1422);
        let interface = stop(daemon);
        assert_eq!(interface.handback, handback);
        assert!(received(&interface) > 2000, "{interface:?}");
    }
}

#[test]
fn a_lost_fragment_loses_its_own_datagram_only() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &[]);
    lab.far_wire.set(Rules { lose_fragment: 101, ..Rules::default() }).unwrap();
    let flow = Flow { connected: false, ..Flow::new((FAR, PORT), vec![1472; 5000]) };
    let tally = flow.run(&lab.appliance, &lab.far).unwrap();
    let lost = lab.far_wire.seen().unwrap().lost;
    assert_eq!(lost, 99);
    assert_eq!((tally.sent - tally.intact, tally.corrupt), (lost, 0), "{tally:?}");
    stop(daemon);
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
