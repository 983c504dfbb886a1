//! What the lab is about, without xdpfrag: the other tests prove nothing if these do not hold.

use std::time::Duration;

use xdpfrag::lab::traffic::ping::ping;
use xdpfrag::lab::traffic::tcp::{Direction, Transfer};
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{FAR, LabConfig, Rules};

use crate::support::{PORT, lab};

#[test]
fn datagrams_with_df_over_the_sa_mtu_are_lost_and_shorter_ones_arrive() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let tally = Flow::new((FAR, PORT), (1385..=1404).collect()).run(&lab.appliance, &lab.far).unwrap();
    // 28 bytes of headers: 1394 is the last payload that fits 1422.
    assert_eq!(tally.missing.into_keys().collect::<Vec<_>>(), (1395..=1404).collect::<Vec<_>>());
    assert_eq!(lab.lan_wire.seen().unwrap().too_big, 10);
    assert_eq!(lab.far_wire.seen().unwrap().largest(), 1422);
}

#[test]
fn a_deaf_appliance_stalls_after_the_handshake() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let report = Transfer {
        to: (FAR, PORT).into(),
        bytes: 1 << 20,
        direction: Direction::Upload,
        deadline: Duration::from_secs(2),
    }
    .run(&lab.appliance, &lab.far)
    .unwrap();
    assert_eq!((report.received, report.complete()), (0, false), "{report:?}");
    assert!(report.client_mss > 1382, "{report:?}");
}

#[test]
fn an_appliance_that_listens_delivers_by_itself() {
    let Some(lab) = lab(LabConfig { deaf: false, sa_mtu: 1500, ..LabConfig::default() }) else { return };
    for direction in [Direction::Upload, Direction::Download] {
        let transfer =
            Transfer { to: (FAR, PORT).into(), bytes: 4 << 20, direction, deadline: Duration::from_secs(20) };
        let report = transfer.run(&lab.appliance, &lab.far).unwrap();
        assert!(report.complete(), "{direction:?} {report:?}");
    }
}

#[test]
fn datagrams_cross_whole_and_in_order_once_df_is_cleared() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    lab.clear_df_with_nftables().unwrap();
    let tally = Flow::new((FAR, PORT), vec![1472; 2000]).run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.complete(), "{tally:?}");
    assert_eq!(tally.reordered, 0);
    assert_eq!(lab.far_wire.seen().unwrap().lengths, [(100, 2000), (1420, 2000)]);
}

#[test]
fn one_lost_fragment_mixes_up_all_datagrams_with_id_0_behind_it() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    lab.clear_df_with_nftables().unwrap();
    lab.far_wire.set(Rules { lose_fragment: 1001, ..Rules::default() }).unwrap();
    let flow = Flow { connected: false, ..Flow::new((FAR, PORT), vec![1472; 5000]) };
    let tally = flow.run(&lab.appliance, &lab.far).unwrap();
    assert_eq!(lab.far_wire.seen().unwrap().lost, 9);
    assert!(tally.sent - tally.intact > 100, "{tally:?}");
}

#[test]
fn pings_are_answered() {
    let Some(lab) = lab(LabConfig { vlan: Some(7), queues: 2, ..LabConfig::default() }) else { return };
    let answered = ping(&lab.appliance, FAR, 20, Duration::from_millis(10)).unwrap();
    assert_eq!(answered, vec![true; 20]);
}
