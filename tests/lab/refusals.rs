//! What `run` refuses: one clear message with the remedy, the right exit code, nothing changed.

use std::process::Command;

use xdpfrag::lab::traffic::ping::ping;
use xdpfrag::lab::{Daemon, FAR, LAN, Lab, LabConfig, wire};

use crate::support::{binary, deliver, forward, lab, mixed, stop};

/// Runs a command line that must end by itself and returns exit code and standard error.
fn refused(lab: &Lab, program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    command.args(arguments);
    let ended = Daemon::watch(lab.gateway.spawn(command).unwrap()).unwrap().wait().unwrap();
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    (ended.status.code(), ended.stderr)
}

/// `xdpfrag run --iface IFACE --mtu 1422`, refused.
fn refuse_run(lab: &Lab, iface: &str) -> (Option<i32>, String) {
    refused(lab, binary().to_str().unwrap(), &["run", "--iface", iface, "--mtu", "1422"])
}

#[test]
fn an_unknown_interface_is_named() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let (code, message) = refuse_run(&lab, "eth77");
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("eth77"), "{message}");
}

/// Collectors and the journal are told why it ends as of any other message.
#[test]
fn the_reason_goes_by_way_of_the_log() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let binary = binary().to_str().unwrap();
    let run = ["run", "--iface", "eth77", "--mtu", "1422", "--log-level", "error"];
    let (code, message) = refused(&lab, binary, &[&run[..], &["--log", "json"]].concat());
    assert_eq!(code, Some(3), "{message}");
    for line in message.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {message}"));
        assert_eq!(line["level"], "ERROR", "{message}");
    }
    assert!(message.contains("eth77"), "{message}");
    let (_, message) = refused(&lab, "env", &[&["JOURNAL_STREAM=8:1", binary], &run[..]].concat());
    assert!(!message.is_empty() && message.lines().all(|line| line.starts_with("<3>")), "{message}");
}

#[test]
fn an_interface_that_is_down_comes_with_the_command_that_raises_it() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    lab.gateway.ip("link set eth1 down").unwrap();
    let (code, message) = refuse_run(&lab, LAN);
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("ip link set dev eth1 up"), "{message}");
}

#[test]
fn a_busy_xdp_slot_is_left_to_its_owner() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let owner = wire::occupy_xdp(&lab.gateway, LAN).unwrap();
    let (code, message) = refuse_run(&lab, LAN);
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains(LAN) && message.contains("XDP"), "{message}");
    assert!(lab.gateway.ip("link show eth1").unwrap().contains("xdp"), "the owner's program is gone");
    drop(owner);
    stop(forward(&lab, &[]));
}

#[test]
fn a_second_instance_is_refused_and_does_not_disturb_the_first() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let first = forward(&lab, &[]);
    let (code, message) = refuse_run(&lab, LAN);
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains(LAN), "{message}");
    deliver(&lab, mixed(500));
    stop(first);
}

#[test]
fn missing_privileges_are_named() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let binary = binary().to_str().unwrap();
    for capability in ["net_admin", "net_raw"] {
        let drop = format!("-{capability}");
        let line = ["--bounding-set", &drop, "--", binary, "run", "--iface", LAN, "--mtu", "1422"];
        let (code, message) = refused(&lab, "setpriv", &line);
        assert_eq!(code, Some(3), "{message}");
        assert!(message.contains(&format!("CAP_{}", capability.to_uppercase())), "{message}");
    }
    assert_eq!(ping(&lab.appliance, FAR, 3, std::time::Duration::from_millis(10)).unwrap(), [true; 3]);
}

#[test]
fn a_queue_that_is_not_there_is_named() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let binary = binary().to_str().unwrap();
    let (code, message) = refused(&lab, binary, &["run", "--iface", LAN, "--mtu", "1422", "--queues", "0,5"]);
    assert!(matches!(code, Some(2 | 3)), "{message}");
    assert!(message.contains('5'), "{message}");
}
