//! Whatever happens to the process, traffic that the kernel can forward alone goes on.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use xdpfrag::lab::traffic::ping::ping;
use xdpfrag::lab::{FAR, Lab, LabConfig};

use crate::support::{deliver, forward, lab, mixed, once_of_three, stop};

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
        let Some(lab) = lab(LabConfig::default()) else { return };
        once_of_three(|| {
            let daemon = forward(&lab, arguments);
            deliver(&lab, mixed(100));
            let lost = lost_pings(&lab, || daemon.signal(Signal::SIGKILL).unwrap());
            assert!(!daemon.wait().unwrap().status.success());
            if lost <= 3 { Ok(()) } else { Err(format!("{arguments:?}: {lost} of 200 pings lost")) }
        });
    }
}

#[test]
fn a_stopped_process_is_passed_by_within_the_stall_time_and_comes_back() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &["--redirect", "all", "--stall", "100"]);
    once_of_three(|| {
        let lost = lost_pings(&lab, || daemon.signal(Signal::SIGSTOP).unwrap());
        daemon.signal(Signal::SIGCONT).unwrap();
        thread::sleep(Duration::from_millis(300));
        // 100 ms at 100/s, and as long again.
        if (1..=20).contains(&lost) { Ok(()) } else { Err(format!("{lost} of 200 pings lost")) }
    });
    deliver(&lab, mixed(1000));
    let interface = stop(daemon);
    // What fits needs no worker even under --redirect all: the XDP program edited it in place.
    assert!(interface.xdp["fits"] >= 50, "{interface:?}");
}
