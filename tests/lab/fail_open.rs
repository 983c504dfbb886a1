//! Whatever happens to the process, traffic that the kernel can forward alone goes on.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use xdpfrag::lab::traffic::ping::ping;
use xdpfrag::lab::{FAR, Lab, LabConfig};

use crate::support::{deliver, forward, lab, lab_alone, mixed, stop, until_one_arrives};

const INTERVAL: Duration = Duration::from_millis(10);

/// Pings at 100/s for two seconds, does `disturb` half-way, and returns how many got no answer.
fn lost_pings(lab: &Lab, disturb: impl FnOnce()) -> usize {
    thread::scope(|scope| {
        let pings = scope.spawn(|| ping(&lab.appliance, FAR, 200, INTERVAL).unwrap());
        thread::sleep(INTERVAL * 100);
        disturb();
        pings.join().unwrap().iter().filter(|answered| !**answered).count()
    })
}

#[test]
fn a_kill_loses_at_most_three_pings() {
    for arguments in [&[][..], &["--redirect", "all"]] {
        let Some(lab) = lab_alone(LabConfig::beyond()) else { return };
        let daemon = forward(&lab, arguments);
        deliver(&lab, mixed(100));
        let mut took = Duration::ZERO;
        let lost = lost_pings(&lab, || {
            let start = Instant::now();
            daemon.signal(Signal::SIGKILL).unwrap();
            assert!(!daemon.wait().unwrap().status.success());
            took = start.elapsed();
        });
        // What the XDP program gave to the workers until the kernel had taken the process apart is lost with them.
        let given = if arguments.is_empty() { 0 } else { (took.as_millis() / INTERVAL.as_millis()) as usize };
        assert!(lost <= 3.max(given + 1), "{arguments:?}: {lost} of 200 pings lost, {took:?}");
    }
}

#[test]
fn a_stopped_process_is_passed_by_within_the_stall_time_and_comes_back() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &["--redirect", "all", "--stall", "100"]);
    let lost = lost_pings(&lab, || daemon.signal(Signal::SIGSTOP).unwrap());
    daemon.signal(Signal::SIGCONT).unwrap();
    // 100 ms at 100/s, and as long again.
    assert!((1..=20).contains(&lost), "{lost} of 200 pings lost");
    until_one_arrives(&lab);
    deliver(&lab, mixed(1000));
    let interface = stop(daemon);
    // What fits needs no worker even under --redirect all: the XDP program edited it in place.
    assert!(interface.xdp["fits"] >= 50, "{interface:?}");
}
