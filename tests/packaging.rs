//! What packaging/ starts is what the command line takes. That it works under a live systemd: `make deb-test`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_xdpfrag");

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

/// Runs a shell script given as text.
fn sh(script: &str) -> Output {
    Command::new("sh").args(["-euc", script]).output().unwrap()
}

/// Standard output and standard error.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// The values of `key` in the unit, in order.
fn unit(key: &str) -> Vec<String> {
    let unit = read("systemd/xdpfrag.service");
    let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

/// Asserts that a command line is right as far as it can be told before the interface is looked for.
#[track_caller]
fn gets_as_far_as_the_interface(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{command}: {}", said(&output));
    assert!(said(&output).contains("no interface nosuch0"), "{command}: {}", said(&output));
}

/// The shipped example, for an interface that no machine has; the file lives as long as the directory.
fn example() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("xdpfrag.toml");
    fs::write(&file, read("xdpfrag.toml").replace("\"eth1\"", "\"nosuch0\"")).unwrap();
    (dir, file)
}

/// `text` with this build's program and this file in the places of those of an installed system.
fn here(text: &str, config: &Path) -> String {
    text.replace("/usr/sbin/xdpfrag", BINARY).replace("/etc/xdpfrag.toml", config.to_str().unwrap())
}

#[test]
fn every_script_parses() {
    let scripts = ["deb-test", "static-test", "newcomer/test", "newcomer/root.sh", "newcomer/lab.sh"];
    for script in
        scripts.into_iter().chain(["deb/postinst", "deb/prerm", "deb/postrm", "openwrt/xdpfrag.init"])
    {
        let output = Command::new("sh").arg("-n").arg(path(script)).output().unwrap();
        assert!(output.status.success(), "{script}: {}", said(&output));
    }
}

#[test]
fn the_unit_starts_and_reloads_with_commands_that_there_are() {
    let (_dir, config) = example();
    let [start] = &unit("ExecStart")[..] else { panic!("one ExecStart") };
    gets_as_far_as_the_interface(&here(start, &config));
    let [reload] = &unit("ExecReload")[..] else { panic!("one ExecReload") };
    let help = sh(&format!("{} --help", here(reload, &config)));
    assert!(help.status.success() && said(&help).contains("read its configuration"), "{}", said(&help));
    // Of src/cli/failure.rs: what a restart does not mend. An interface that is missing (3, above) may come.
    assert_eq!(unit("Restart"), ["on-failure"]);
    assert_eq!(unit("RestartPreventExitStatus"), ["2"]);
    assert_eq!(unit("StartLimitIntervalSec"), ["0"]);
}

/// systemd 252 has these calls in no set, and refuses them silently: workers would go on unconfined.
#[test]
fn the_unit_lets_workers_confine_themselves() {
    let filters = unit("SystemCallFilter");
    let last = filters.iter().rposition(|filter| filter.starts_with('~')).unwrap();
    let allowed: Vec<_> = filters[last..].iter().flat_map(|filter| filter.split_whitespace()).collect();
    for call in
        ["seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "capset"]
    {
        assert!(allowed.contains(&call), "{call} is not allowed behind the last refusal: {filters:?}");
    }
}

/// Starts the service by the init script, with procd's functions (OpenWrt's /lib/functions/procd.sh) replaced by
/// ones that print.
fn procd(config: &Path) -> Output {
    let stub = "procd_open_instance() { echo open; }; procd_close_instance() { echo close; }; \
                procd_set_param() { echo \"$*\"; }";
    sh(&format!("{stub}\n{}\nstart_service", here(&read("openwrt/xdpfrag.init"), config)))
}

#[test]
fn openwrt_starts_what_the_command_line_takes() {
    let (_dir, config) = example();
    let output = procd(&config);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines[0], lines[lines.len() - 1]), ("open", "close"), "{text}");
    let command = lines.iter().find_map(|line| line.strip_prefix("command ")).unwrap();
    gets_as_far_as_the_interface(command);
    assert!(lines.contains(&"reload_signal HUP"), "{text}");
    // A third number of 0: an interface may come after any number of attempts.
    assert!(lines.iter().any(|line| line.starts_with("respawn ") && line.ends_with(" 0")), "{text}");
    // Only what it would run: there may be an instance on this machine.
    let init = read("openwrt/xdpfrag.init").replace("/usr/sbin/xdpfrag", "echo");
    assert_eq!(said(&sh(&format!("{init}\nreload_service"))), "reload\n");
}

#[test]
fn openwrt_starts_nothing_with_a_wrong_file_and_says_why() {
    let (_dir, config) = example();
    fs::write(&config, "iface = [\"nosuch0\"]\nmtu = 13\n").unwrap();
    let wrong = procd(&config);
    assert!(!wrong.status.success() && said(&wrong).contains(":2:7: mtu"), "{}", said(&wrong));
    fs::remove_file(&config).unwrap();
    let missing = procd(&config);
    assert!(!missing.status.success() && said(&missing).contains("there is no"), "{}", said(&missing));
    for output in [wrong, missing] {
        assert!(!said(&output).contains("open"), "{}", said(&output));
    }
}
