//! The command line from outside: exit codes, messages, what is printed where.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use xdpfrag::observe::server::Server;
use xdpfrag::observe::snapshot::{InterfaceSnapshot, Snapshot};

const COMMANDS: &[&str] = &[
    "run",
    "check",
    "config",
    "mtu",
    "stats",
    "capture",
    "reload",
    "replay",
    "lab",
    "bench",
    "detach",
    "completions",
    "man",
];

fn xdpfrag(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xdpfrag")).args(args.split_whitespace()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Asserts the exit code, that nothing went to standard output, and that the message has these parts.
#[track_caller]
fn refused(args: &str, code: i32, parts: &[&str]) {
    let output = xdpfrag(args);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "xdpfrag {args}: {message}");
    assert!(output.stdout.is_empty(), "xdpfrag {args}: {}", text(&output.stdout));
    // clap wraps lines.
    let unwrapped = message.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(unwrapped.contains(part), "xdpfrag {args}: '{part}' is missing in: {message}");
    }
}

#[test]
fn an_mtu_that_ip_does_not_know_is_refused() {
    refused("run --iface eth1 --mtu 67", 2, &["--mtu", "67", "RFC 791", "1422"]);
    refused("run --iface eth1 --mtu 65536", 2, &["--mtu", "65536", "65535"]);
    refused("run --iface eth1 --mtu -1", 2, &["--mtu", "-1"]);
    refused("run --iface eth1 --mtu automatic", 2, &["--mtu", "automatic", "not a number", "1422", "auto"]);
    refused("replay in.pcap out.pcap --mtu auto", 2, &["--mtu auto", "`run`", "--mtu 1422"]);
    refused("replay in.pcap out.pcap --mtu 0", 2, &["--mtu", "RFC 791"]);
    refused("run --iface eth1", 2, &["--mtu"]);
}

#[test]
fn a_prefix_with_host_bits_is_refused_and_the_network_named() {
    let flags = "run --iface eth1 --mtu 1422";
    refused(
        &format!("{flags} --dst 10.1.2.3/16"),
        2,
        &["--dst", "10.1.2.3/16", "10.1.0.0/16", "10.1.2.3/32"],
    );
    refused(&format!("{flags} --dst 10.1.0.0/33"), 2, &["--dst", "10.1.0.0/33", "not an IP prefix"]);
    refused(&format!("{flags} --dst 2001:db8::1/32"), 2, &["--dst", "2001:db8::/32", "2001:db8::1/128"]);
    refused(&format!("{flags} --dst fe80::/10"), 2, &["--dst", "fe80::/10", "link-local"]);
    refused(&format!("{flags} --dst 10.1.0.0/16=60"), 2, &["--dst", "'60'", "RFC 791"]);
    refused(&format!("{flags} --dst 10.0.0.0/8 --dst 10.0.0.0/8=1400"), 2, &["10.0.0.0/8", "twice"]);
}

#[test]
fn bench_names_the_traffic_that_it_has() {
    refused(
        "bench --workload udp",
        2,
        &["--workload", "'udp'", "udp1500, tcp1, tcp64, imix, imix-mixed, 64byte"],
    );
    refused("bench --workload syn", 2, &["no such traffic"]);
    refused("bench --loss 11", 2, &["--loss", "0 to 10"]);
    refused("bench --trial 1", 2, &["--trial", "50"]);
}

#[test]
fn flags_out_of_range_are_refused() {
    let flags = "run --iface eth1 --mtu 1422";
    for (flag, parts) in [
        ("--mss 40", &["--mss", "88"][..]),
        ("--mss on", &["--mss", "auto"]),
        ("--df never", &["--df", "clear", "oversize", "keep"]),
        ("--queues 3-1", &["--queues", "1-3"]),
        ("--queues 0,0", &["--queues", "twice"]),
        ("--queues x", &["--queues", "0,2-3"]),
        ("--cores 99999", &["--cores", "4095"]),
        ("--stall 5", &["--stall", "10"]),
        ("--sticky 70000", &["--sticky", "60000"]),
        ("--handback tun", &["--handback", "inject", "veth", "tap"]),
        ("--tcp split", &["--tcp", "fragment", "resegment"]),
        ("--force never", &["--force", "always", "deaf"]),
        ("--id-partition 3/2", &["--id-partition", "3/2", "1/2"]),
        ("--iface eth1", &["--iface", "eth1", "twice"]),
        ("--iface a/b", &["--iface", "'a/b'"]),
        ("--iface sixteen-bytes-xx", &["--iface", "15 bytes"]),
    ] {
        refused(&format!("{flags} {flag}"), 2, parts);
    }
    refused("", 2, &["Usage"]);
    refused("frobnicate", 2, &["frobnicate"]);
}

#[test]
fn an_unknown_interface_is_refused_before_anything_is_changed() {
    let parts = ["no-such-if", "no interface", "ip -br link"];
    refused("run --iface no-such-if --mtu 1422", 3, &parts);
    refused("detach --iface no-such-if", 3, &["no-such-if", "ip -br link"]);
}

#[test]
fn check_reports_on_an_unknown_interface_as_json() {
    let output = xdpfrag("check --iface no-such-if --mtu 1422 --json");
    assert_eq!(output.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["verdict"], &report["interfaces"][0]), (&"no".into(), &"no-such-if".into()));
    let findings = report["findings"].as_array().unwrap();
    let interface = findings.iter().find(|finding| finding["what"] == "interface").unwrap();
    assert_eq!(interface["level"], "fatal");
    assert!(interface["why"].as_str().unwrap().contains("no-such-if"), "{interface}");
    assert!(findings.iter().any(|finding| finding["what"] == "kernel"), "{report}");
}

#[test]
fn the_loopback_interface_cannot_be_served() {
    let output = xdpfrag("check --iface lo");
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).contains("Ethernet"), "{}", text(&output.stdout));
}

#[test]
fn help_lists_what_there_is() {
    let help = text(&xdpfrag("--help").stdout);
    let listed: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert_eq!(listed, COMMANDS);
    for command in COMMANDS {
        let output = xdpfrag(&format!("{command} --help"));
        assert!(output.status.success(), "{command} --help");
        assert!(text(&output.stdout).contains(&format!("Usage: xdpfrag {command}")), "{command}");
    }
}

#[test]
fn completions_and_manual_know_every_command_and_flag() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&xdpfrag(&format!("completions {shell}")).stdout);
        for word in COMMANDS.iter().chain(&["handback", "zero-copy"]) {
            assert!(script.contains(word), "{shell}: {word} is missing");
        }
    }
    refused("completions csh", 2, &["csh", "bash"]);
    let page = text(&xdpfrag("man").stdout);
    for command in COMMANDS {
        assert!(page.contains(&format!(".TH xdpfrag-{command} 1")), "no page for {command}");
    }
    assert!(page.contains(r"\-\-handback"));
    for part in ["EXIT STATUS", "FILES", "SIGNALS", "SIGHUP", "4  warnings"] {
        assert!(page.contains(part), "the manual does not say {part}");
    }
}

#[test]
fn help_ends_with_exit_status_files_and_signals() {
    let help = |args: &str| text(&xdpfrag(args).stdout);
    for (command, parts) in [
        ("--help", &["EXIT STATUS", "FILES", "SIGNALS", "4  `check`"][..]),
        ("run --help", &["EXIT STATUS", "FILES", "SIGNALS", "SIGHUP", "SIGTERM, SIGINT"]),
        ("check --help", &["EXIT STATUS", "4  warnings", "--config", "--zero-copy", "--redirect"]),
    ] {
        for part in parts {
            assert!(help(command).contains(part), "{command}: {part} is missing: {}", help(command));
        }
    }
    let check = help("check --help");
    for hidden in ["--metrics", "--replace", "--sticky"] {
        assert!(!check.contains(hidden), "check does nothing with {hidden}: {check}");
    }
}

#[test]
fn a_path_that_carries_no_ip_is_refused() {
    refused("mtu --esp aes128gcm16 --path-mtu 70", 2, &["--path-mtu 70", "below the 68", "RFC 791"]);
    refused("mtu --esp aes256-sha256 --path-mtu 68 --nat-t", 2, &["--path-mtu 68", "too short"]);
    let shown = text(&xdpfrag("mtu --esp aes256-sha256 --nat-t").stdout);
    assert!(shown.contains("SA MTU 1422") && shown.contains("1500 (path MTU) - 20 (IPv4)"), "{shown}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_xdpfrag"))
        .arg("man")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

fn sample(interface: &str) -> Snapshot {
    let interface = InterfaceSnapshot {
        name: interface.into(),
        mode: "native".into(),
        egress_mss: 12_345,
        ..Default::default()
    };
    Snapshot {
        version: "0.1.0".into(),
        pid: 42,
        uptime_s: 2.0,
        interfaces: vec![interface],
        ..Snapshot::default()
    }
}

#[test]
fn stats_shows_a_running_instance() {
    let name = format!("t{}", std::process::id());
    let shown = sample(&name);
    let _server = Server::start(std::slice::from_ref(&name), move || shown.clone()).unwrap();

    let json = xdpfrag(&format!("stats --iface {name} --json"));
    assert!(json.status.success(), "{}", text(&json.stderr));
    assert_eq!(serde_json::from_slice::<Snapshot>(&json.stdout).unwrap(), sample(&name));

    let table = text(&xdpfrag(&format!("stats --iface {name}")).stdout);
    assert!(table.contains("12,345") && table.contains(&name), "{table}");
    assert!(!table.contains("sticky"), "{table}");
    assert!(text(&xdpfrag(&format!("stats --all --iface {name}")).stdout).contains("sticky"));
}

#[test]
fn stats_watches_until_it_is_ended() {
    let name = format!("w{}", std::process::id());
    let shown = sample(&name);
    let server = Server::start(std::slice::from_ref(&name), move || shown.clone()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_xdpfrag"))
        .args(["stats", "--watch", "1", "--json", "--iface", &name])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || serde_json::from_str::<Snapshot>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(line(), sample(&name));
    assert_eq!(line(), sample(&name));
    drop(server);
    // As a restart does: nobody answers for a while, then another process does.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(child.try_wait().unwrap().is_none(), "it should still watch");
    let next = Snapshot { pid: 43, ..sample(&name) };
    let shown = next.clone();
    let _server = Server::start(std::slice::from_ref(&name), move || shown.clone()).unwrap();
    while line() != next {}
    child.kill().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert_eq!(said.matches("no xdpfrag serves").count(), 1, "once, not each second: {said}");
    assert!(said.contains("again every 1 s"), "{said}");
}

#[test]
fn stats_says_that_an_instance_was_started_again() {
    let name = format!("r{}", std::process::id());
    let uptime = AtomicU64::new(0);
    // The third answer is that of another process.
    let shown = sample(&name);
    let answer = move || {
        let asked = uptime.fetch_add(1, Ordering::Relaxed);
        Snapshot { pid: 42 + asked as u32 / 2, uptime_s: 1.0 + asked as f64, ..shown.clone() }
    };
    let _server = Server::start(std::slice::from_ref(&name), answer).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_xdpfrag"))
        .args(["stats", "--watch", "1", "--iface", &name])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let heads = lines.filter(|line| line.starts_with("xdpfrag ") || line.contains("started again"));
    let heads: Vec<_> = heads.take(3).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(heads[0].contains("process 42") && heads[0].ends_with("counters per second"), "{heads:?}");
    assert!(heads[1].contains("started again"), "{heads:?}");
    assert!(heads[2].contains("process 43") && heads[2].ends_with("counters in total"), "{heads:?}");
}

#[test]
fn stats_without_an_instance_says_how_to_start_one() {
    refused(
        "stats --iface no-such-if",
        1,
        &["no xdpfrag serves no-such-if", "xdpfrag run --iface no-such-if"],
    );
    refused("stats --watch 0", 2, &["--watch"]);
}

/// They end as they would have ended, or quietly, as tools do of which nobody wants to know more.
#[test]
fn no_command_panics_where_nobody_reads_or_the_disk_is_full() {
    let commands = [
        "--help",
        "run --help",
        "run --iface no-such-if --mtu 1422",
        "check --iface no-such-if --mtu 1422",
        "config check /no/such/file",
        "mtu",
        "mtu --esp aes256-sha256",
        "stats --iface no-such-if",
        "capture /dev/null --iface no-such-if",
        "reload --iface no-such-if",
        "replay /no/such/file /dev/null --mtu 1422",
        "detach --iface no-such-if",
        "completions bash",
        "man",
        "bench --workload none",
        "nonsense",
    ];
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    for args in commands {
        for (what, out, err) in [("closed", closed(), closed()), ("full", full(), full())] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_xdpfrag"));
            let status = command.args(args.split_whitespace()).stdout(out).stderr(err).status().unwrap();
            assert!(status.code().is_some_and(|code| code <= 4), "xdpfrag {args}, {what}: {status}");
        }
    }
}
