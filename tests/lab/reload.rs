//! The configuration changes under traffic.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use xdpfrag::lab::traffic::udp::Flow;
use xdpfrag::lab::{Daemon, FAR, Lab, LabConfig};
use xdpfrag::observe::snapshot::Snapshot;

use crate::support::{PORT, binary, deliver, lab, mixed};

/// What `xdpfrag stats --json` says in the gateway.
fn mtu_in_force(lab: &Lab) -> u16 {
    let text = lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    snapshot.interfaces[0].routes.iter().find(|route| route.prefix == "198.18.0.0/15").unwrap().mtu
}

/// `xdpfrag reload` in the gateway: exit code, and what it printed.
pub(crate) fn reload(lab: &Lab) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.arg("reload");
    let mut child = lab.gateway.spawn(command).unwrap();
    let status = child.child.wait().unwrap();
    let mut said = String::new();
    for stream in [
        Box::new(child.child.stdout.take().unwrap()) as Box<dyn std::io::Read>,
        Box::new(child.child.stderr.take().unwrap()),
    ] {
        said += &std::io::read_to_string(stream).unwrap();
    }
    (status.code(), said)
}

/// What `--mtu auto` has found is not said of prefixes that were given by hand since.
#[test]
fn after_auto_a_prefix_by_hand_has_no_tunnel() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |mtu: &str| fs::write(&file, format!("mtu = {mtu}\ndst = ['198.18.0.0/15=1422']\n")).unwrap();
    write("'auto'");
    let config = file.path().to_str().unwrap();
    let _daemon = Daemon::start(&lab.gateway, binary(), &["--config", config]).unwrap();
    let via = || {
        let text = lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]).unwrap();
        let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
        snapshot.interfaces[0].routes[0].via.clone()
    };
    assert_eq!(via().as_deref(), Some("--dst"));
    write("1422");
    let (code, said) = reload(&lab);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(via(), None);
}

#[test]
fn the_mtu_changes_under_traffic_without_a_loss_and_a_bad_file_changes_nothing() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lan.toml");
    let write = |mtu: &str, more: &str| {
        fs::write(&path, format!("mtu = {mtu}\ndst = ['198.18.0.0/15', '198.51.100.0/24']\n{more}")).unwrap();
    };
    write("1422", "");
    let daemon =
        Daemon::start(&lab.gateway, binary(), &["--config", path.to_str().unwrap(), "--json"]).unwrap();
    assert_eq!(mtu_in_force(&lab), 1422);
    lab.far_wire.reset().unwrap();
    // Two seconds of traffic, with a change every 150 ms.
    let tally = thread::scope(|scope| {
        let flow = scope.spawn(|| {
            let flow = Flow { rate: 2000, ..Flow::new((FAR, PORT), mixed(4000)) };
            flow.run(&lab.appliance, &lab.far).unwrap()
        });
        for mtu in ["1310", "1000", "1422", "600", "1400", "1300"] {
            thread::sleep(Duration::from_millis(150));
            write(mtu, "");
            let (code, said) = reload(&lab);
            assert_eq!(code, Some(0), "{said}");
            assert!(said.contains(&format!("198.18.0.0/15: SA MTU {mtu} now, was ")), "{said}");
            assert_eq!(mtu_in_force(&lab).to_string(), mtu);
        }
        flow.join().unwrap()
    });
    assert!(tally.complete() && tally.reordered == 0, "{tally:?}");
    assert!(lab.far_wire.seen().unwrap().fragments > 1000);

    for (more, part) in [
        ("df = 'never'", "lan.toml:3:6: df = 'never': write one of clear, oversize, keep"),
        ("poll = 'busy'", "poll cannot change while it runs"),
        ("frobnicate = 1", "lan.toml:3:1: there is no setting 'frobnicate'"),
    ] {
        write("1400", more);
        let (code, said) = reload(&lab);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(part) && said.contains("all stays as it was"), "{said}");
        assert_eq!(mtu_in_force(&lab), 1300);
    }
    deliver(&lab, mixed(200));

    write("1200", "");
    daemon.signal(Signal::SIGHUP).unwrap();
    let changed = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(20));
        mtu_in_force(&lab) == 1200
    });
    assert!(changed, "SIGHUP did not reload");
    assert_eq!(reload(&lab), (Some(0), "nothing changed\n".into()));
    deliver(&lab, mixed(200));
    let ended = daemon.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("198.18.0.0/15: SA MTU 1200 now, was 1300, MSS 1160"), "{}", ended.stderr);
    assert!(ended.stderr.contains("warning: not reloaded"), "{}", ended.stderr);
}

#[test]
fn without_a_file_there_is_nothing_to_read_again() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = Daemon::start(&lab.gateway, binary(), &["--mtu", "1422"]).unwrap();
    let (code, said) = reload(&lab);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("without --config"), "{said}");
    deliver(&lab, mixed(200));
    assert!(daemon.stop().unwrap().status.success());
}
