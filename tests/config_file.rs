//! `--config` and `config check` from outside.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn xdpfrag(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xdpfrag")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A file of this text, and its path.
fn file(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lan.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn check_says_what_a_file_means() {
    let (_dir, path) = file(
        "iface = ['eth1', 'eth2']\nmtu = 1200\ndst = ['198.18.2.0/24', '2001:db8:2::/48', '10.0.0.0/8=1400']\ndf = 'oversize'\n",
    );
    let output = xdpfrag(&["config", "check", &path]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for part in [
        "is right",
        "eth1, eth2",
        "IPv4 packets to 198.18.2.0/24, SA MTU 1200, MSS 1160",
        "IPv4 packets to 10.0.0.0/8, SA MTU 1400",
        "warning: IPv6",
    ] {
        assert!(said.contains(part), "'{part}' is missing in: {said}");
    }
    let json = xdpfrag(&["config", "check", &path, "--json"]);
    let verdict: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&verdict["ok"], &verdict["interfaces"][1]), (&true.into(), &"eth2".into()));
    assert_eq!(verdict["scope"].as_array().unwrap().len(), 3, "{verdict}");
}

#[test]
fn check_says_what_auto_serves() {
    let (_dir, path) = file("iface = ['eth1']\nmtu = 'auto'\ndst = ['198.18.2.0/24']\n");
    let said = xdpfrag(&["config", "check", &path]).stdout;
    let words = "packets to 198.18.2.0/24 that go into an IPsec tunnel, each with its SA MTU";
    assert!(text(&said).contains(words), "{}", text(&said));
    let verdict: Value =
        serde_json::from_slice(&xdpfrag(&["config", "check", "--json", &path]).stdout).unwrap();
    assert_eq!(verdict["serves"][0], words);
}

#[test]
fn a_wrong_file_is_refused_with_line_and_column_by_check_and_by_run() {
    for (content, place, part) in [
        ("iface = ['eth1']\nmtu = 67", ":2:7: ", "RFC 791"),
        ("iface = ['eth1', 'eth1']\nmtu = 1422", ":1:18: ", "--iface eth1 is given twice"),
        ("iface = ['eth1']\nmtu = 1422\ndst = ['10.0.0.0/8', '10.0.0.0/8=1400']", ":3:22: ", "twice"),
        ("iface = ['eth1']", ": ", "mtu is missing; add a line such as: mtu = 1422"),
        ("mtu = 1422", ": ", "iface is missing; add a line such as: iface = [\"eth1\"]"),
    ] {
        let (_dir, path) = file(content);
        for arguments in [&["config", "check", &path][..], &["run", "--config", &path]] {
            let output = xdpfrag(arguments);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(&format!("{path}{place}")) && said.contains(part), "{content}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
    let (_dir, path) = file("mtu = 1422\ndf = 7");
    let json = xdpfrag(&["config", "check", "--json", &path]);
    assert_eq!(json.status.code(), Some(2));
    let verdict: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&verdict["ok"], &verdict["error"]["line"], &verdict["error"]["column"]),
        (&false.into(), &2.into(), &6.into())
    );
}

#[test]
fn a_flag_replaces_the_setting_of_its_name() {
    // Which interface is refused for not being there shows which one counts.
    let (_dir, path) = file("iface = ['no-such-if', 'nor-this']\nmtu = 1422");
    let of_file = xdpfrag(&["run", "--config", &path]);
    assert_eq!(of_file.status.code(), Some(3));
    assert!(text(&of_file.stderr).contains("no-such-if"), "{}", text(&of_file.stderr));
    let overridden = xdpfrag(&["run", "--config", &path, "--iface", "other-if"]);
    let said = text(&overridden.stderr);
    assert!(said.contains("other-if") && !said.contains("no-such-if"), "{said}");
    let wrong = xdpfrag(&["run", "--config", &path, "--mtu", "1"]);
    assert_eq!(wrong.status.code(), Some(2), "flags are judged as ever: {}", text(&wrong.stderr));
    let absent = xdpfrag(&["run", "--config", "/no/such.toml"]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(text(&absent.stderr).contains("/no/such.toml: cannot be read"), "{}", text(&absent.stderr));
}
