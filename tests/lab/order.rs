//! Within a flow no frame overtakes another, although some take the short way and some the long one.

use std::thread;

use xdpfrag::lab::traffic::udp::{Flow, Tally};
use xdpfrag::lab::{FAR, LabConfig};

use crate::support::{PORT, forward, lab, mixed, received, stop};

/// Live frames, and TCP by the other way of the same hand-back.
const TAP: [&str; 4] = ["--handback", "tap", "--redirect", "all"];

#[test]
fn short_frames_do_not_overtake_long_ones() {
    for arguments in [&[][..], &["--handback", "veth"], &["--redirect", "all"], &TAP] {
        let Some(lab) = lab(LabConfig::beyond()) else { return };
        let daemon = forward(&lab, arguments);
        let flow = Flow { rate: 30_000, ..Flow::new((FAR, PORT), mixed(15_000)) };
        let tally = flow.run(&lab.appliance, &lab.far).unwrap();
        assert!(tally.complete(), "{arguments:?} {tally:?}");
        assert_eq!(tally.reordered, 0, "{arguments:?} {tally:?}");
        stop(daemon);
    }
}

#[test]
fn two_queues_serve_many_flows_each_in_order() {
    let Some(lab) = lab(LabConfig { queues: 2, ..LabConfig::beyond() }) else { return };
    // Linux gives up on a datagram if 64 fragments from the same host come between its own. Here each of
    // two busy cores feeds the far host, and one may be held up for that long between two fragments.
    lab.far.sysctl("ipv4/ipfrag_max_dist", "0").unwrap();
    let daemon = forward(&lab, &[]);
    let flows: Vec<Flow> =
        (0..16).map(|port| Flow { rate: 1000, ..Flow::new((FAR, PORT + port), mixed(500)) }).collect();
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let lab = &lab;
        let running: Vec<_> = flows
            .iter()
            .map(|flow| scope.spawn(move || flow.run(&lab.appliance, &lab.far).unwrap()))
            .collect();
        running.into_iter().map(|flow| flow.join().unwrap()).collect()
    });
    let interface = stop(daemon);
    for tally in tallies {
        assert!(tally.complete() && tally.reordered == 0, "{tally:?} {interface:?}");
    }
    assert_eq!(interface.workers.len(), 2);
    assert!(interface.workers.iter().all(|worker| worker.received > 0), "{interface:?}");
    assert!(received(&interface) > 4000);
}
