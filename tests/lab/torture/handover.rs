//! One instance takes over from another (`run --replace`), as an upgrade does.

use std::time::Duration;

use xdpfrag::lab::{Daemon, LAN, Lab, LabConfig};

use super::{Limit, UNHARMED, costs_within, disturb};
use crate::support::{binary, deliver, forward, lab, mixed, stop};

const WATCH: Duration = Duration::from_secs(1);

/// `oversize` is what may be lost of the stream that the kernel alone would not carry.
fn taken_over(lab: &Lab, arguments: &[&str], oversize: Limit) {
    let old = forward(lab, arguments);
    deliver(lab, mixed(100));
    let (mut new, mut ended) = (None, None);
    let cost = disturb(lab, WATCH, || {
        new = Some(forward(lab, &[&["--replace"], arguments].concat()));
        ended = Some(old.wait().unwrap());
    });
    let with = if arguments.is_empty() { String::new() } else { format!(", `{}`", arguments.join(" ")) };
    costs_within(&format!("a new instance takes over (`run --replace`){with}"), cost, UNHARMED, oversize);
    let ended = ended.expect("the old instance");
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("replaced by another instance"), "{}", ended.stderr);
    assert!(ended.snapshot.is_some(), "the last snapshot of the old instance");
    deliver(lab, mixed(200));
    stop(new.expect("the new instance"));
}

#[test]
fn a_new_instance_takes_over() {
    let Some(place) = lab(LabConfig::default()) else { return };
    // What the kernel fragments by itself: one program takes the place of the other.
    taken_over(&place, &[], UNHARMED);
    drop(place);
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    // By workers it begins when the new instance is ready, which takes as long as a start. The devices of
    // `--handback veth` can be made only when those of the old one are gone.
    let oversize = Limit { datagrams: 150, ..Limit::outage(400) };
    taken_over(&lab, &[], oversize);
    taken_over(&lab, &["--handback", "veth"], oversize);
    // With nobody to take over from it is a start like any other.
    stop(forward(&lab, &["--replace"]));
}

#[test]
fn an_instance_goes_on_when_its_successor_fails_before_it_takes_over() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let old = forward(&lab, &[]);
    for (arguments, why) in [
        (&["--queues", "7"][..], "queue 7"),
        (&["--mode", "native", "--zero-copy", "on"], "zero-copy"),
        (&["--handback", "veth", "--capture", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        let cost = disturb(&lab, Duration::from_millis(200), || {
            let arguments = [&["--mtu", "1422", "--replace"], arguments].concat();
            let ended = Daemon::launch(&lab.gateway, binary(), &arguments).unwrap().wait().unwrap();
            assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
            assert!(ended.stderr.contains(why), "{}", ended.stderr);
        });
        let allowed = cost.allowed(0);
        assert!(cost.fits.datagrams <= allowed && cost.oversize.datagrams <= allowed, "{cost:?}");
    }
    stop(old);
}

/// Nobody would serve the other interface.
#[test]
fn an_instance_with_more_interfaces_is_not_replaced() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let old = Daemon::start(&lab.gateway, binary(), &["--iface", "wan0", "--mtu", "1422"]).unwrap();
    let arguments = ["--mtu", "1422", "--replace"];
    let ended = Daemon::launch(&lab.gateway, binary(), &arguments).unwrap().wait().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("serves wan0, too; add --iface wan0"), "{}", ended.stderr);
    deliver(&lab, mixed(200));
    let ended = old.stop().unwrap();
    assert!(ended.status.success() && ended.stderr.contains(LAN), "{}", ended.stderr);
}
