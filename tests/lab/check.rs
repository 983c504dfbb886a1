//! `check` where an XDP program is attached already: an instance's own, or somebody else's.

use std::process::Command;

use serde_json::Value;
use xdpfrag::lab::{LAN, Lab, LabConfig, wire};

use crate::support::{binary, deliver, forward, lab, mixed, stop};

/// Exit code, and the finding about the XDP slot.
fn check(lab: &Lab, flags: &[&str]) -> (Option<i32>, Value) {
    let run = || Ok(Command::new(binary()).args(["check", "--iface", LAN, "--json"]).args(flags).output()?);
    let output = lab.gateway.run(run).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["what"] == "XDP slot").unwrap();
    (output.status.code(), finding.clone())
}

#[test]
fn a_live_gateway_is_as_it_should_be() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let instance = forward(&lab, &[]);
    let (code, finding) = check(&lab, &["--mtu", "1422"]);
    assert_ne!(code, Some(3), "{finding}");
    assert_eq!(finding["level"], "ok", "{finding}");
    let why = finding["why"].as_str().unwrap();
    assert!(why.contains(&format!("served by process {}", instance.pid())), "{why}");
    assert!(finding.get("remedy").is_none(), "{finding}");
    // Who starts another is told which one is in the way, and how to take over.
    let run = || Ok(Command::new(binary()).args(["run", "--iface", LAN, "--mtu", "1422"]).output()?);
    let refused = lab.gateway.run(run).unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{message}");
    assert!(message.contains(&format!("process {}", instance.pid())), "{message}");
    assert!(message.contains("--replace") && !message.contains("detach"), "{message}");
    deliver(&lab, mixed(100));
    stop(instance);
}

#[test]
fn another_program_is_told_from_ours() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let owner = wire::occupy_xdp(&lab.gateway, LAN).unwrap();
    let (code, finding) = check(&lab, &["--mtu", "1422"]);
    assert_eq!((code, &finding["level"]), (Some(3), &"fatal".into()), "{finding}");
    assert!(finding["why"].as_str().unwrap().contains("lab_squatter"), "{finding}");
    let remedy = finding["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("bpftool link detach id "), "{remedy}");
    assert!(remedy.ends_with("# removes the other program"), "{remedy}");
    drop(owner);
}
