//! More than can be carried: nothing stalls, nothing is lost without a counter.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use xdpfrag::lab::bench::{Generator, Rate, Workload};
use xdpfrag::lab::{LabConfig, Namespace, Rules};

use super::{long, note, running};
use crate::support::{deliver, forward, lab, mixed, stop};

/// Two fragments come of each frame of the flood.
const FRAGMENTS: u64 = 2;
/// What is queued when the flood ends is through after this.
const DRAIN: Duration = Duration::from_millis(500);

#[test]
fn a_flood_is_accounted_for_to_the_packet() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let mut generator = Generator::new(&lab, 0).unwrap();
    generator.load(Workload::Udp1500).unwrap();
    lab.far_wire.set(Rules { sink: true, ..Rules::default() }).unwrap();
    let daemon = forward(&lab, &[]);
    let sent = generator.run(Rate::Flood, Duration::from_secs(if long() { 10 } else { 2 })).unwrap().frames;

    // As soon as the flood has ended everything is as before.
    thread::sleep(DRAIN);
    let (arrived, beyond) = (lab.far_wire.seen().unwrap().packets, tx_drops(&lab.gateway, "wan0"));
    let flooded = running(&lab);
    lab.far_wire.set(Rules::default()).unwrap();
    deliver(&lab, mixed(500));
    stop(daemon);

    let [worker] = &flooded.workers[..] else { panic!("{flooded:?}") };
    let seen: u64 = flooded.xdp.values().sum();
    let lost = worker.reasons["handback_full"] + worker.reasons["handback_error"];
    note(&format!(
        "Flood: {sent} frames of 1500 bytes sent; {} refused by the full ring of the interface, {} by the full ring of \
         the socket, {lost} by the hand-back; {} fragments at the far side, {beyond} refused by the full ring of the WAN",
        sent - seen,
        worker.socket_drops,
        arrived
    ));
    assert!(worker.socket_drops > 0, "a flood that is no overload: {flooded:?}");
    assert_eq!(flooded.xdp["oversize"], seen, "{flooded:?}");
    assert_eq!(seen, worker.received + worker.socket_drops, "{flooded:?}");
    assert_eq!(worker.received, worker.reasons["fragmented"] + lost, "{flooded:?}");
    assert_eq!(worker.handed_back, FRAGMENTS * worker.reasons["fragmented"], "{flooded:?}");
    assert_eq!(worker.handed_back, arrived + beyond, "{flooded:?}");
}

/// Packets that an interface could not send.
fn tx_drops(namespace: &Namespace, interface: &str) -> u64 {
    let json = namespace.output("ip", &["-s", "-j", "link", "show", interface]).unwrap();
    let links: Value = serde_json::from_str(&json).unwrap();
    links[0]["stats64"]["tx"]["dropped"].as_u64().expect("ip counts drops")
}
