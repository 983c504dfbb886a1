//! What an administrator sees of a running instance: metrics, messages, the service manager's view.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use xdpfrag::lab::{Daemon, LAN, Lab, LabConfig};
use xdpfrag::observe::snapshot::Snapshot;

use crate::support::{binary, deliver, forward, lab, mixed, stop};

/// What `xdpfrag stats --json` says in the gateway.
fn statistics(lab: &Lab) -> Snapshot {
    let text = lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The body of /metrics in the gateway.
fn scrape(lab: &Lab) -> String {
    let scrape = || {
        let mut stream = TcpStream::connect(("127.0.0.1", 9435))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = lab.gateway.run(scrape).unwrap();
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}")).1.to_owned()
}

#[test]
fn metrics_and_stats_tell_the_same() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    lab.gateway.ip("link set lo up").unwrap();
    let daemon = forward(&lab, &["--metrics", "127.0.0.1:9435"]);
    deliver(&lab, mixed(600));
    let (text, snapshot) = (scrape(&lab), statistics(&lab));
    let [interface] = &snapshot.interfaces[..] else { panic!("{snapshot:?}") };
    let fragmented = interface.workers[0].reasons["fragmented"];
    assert!(fragmented > 100, "{interface:?}");
    for (series, expected) in [
        (
            format!("xdpfrag_xdp_frames_total{{interface=\"{LAN}\",reason=\"oversize\"}}"),
            interface.xdp["oversize"],
        ),
        (
            format!("xdpfrag_worker_frames_total{{interface=\"{LAN}\",queue=\"0\",reason=\"fragmented\"}}"),
            fragmented,
        ),
        (
            format!("xdpfrag_worker_latency_seconds_count{{interface=\"{LAN}\",queue=\"0\"}}"),
            interface.workers[0].latency.unwrap().count,
        ),
    ] {
        assert!(
            text.contains(&format!("\n{series} {expected}\n")),
            "{series} {expected} is missing in:\n{text}"
        );
    }
    stop(daemon);
    let taken = lab.gateway.run(|| Ok(TcpStream::connect(("127.0.0.1", 9435)).is_ok())).unwrap();
    assert!(!taken, "the port is still open");
}

#[test]
fn an_address_for_metrics_that_is_not_ours_is_refused() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon =
        Daemon::launch(&lab.gateway, binary(), &["--mtu", "1422", "--metrics", "198.51.100.77:9435"]);
    let ended = daemon.unwrap().wait().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("--metrics 198.51.100.77:9435"), "{}", ended.stderr);
}

#[test]
fn the_service_manager_is_told_of_readiness_life_and_end() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // WATCHDOG_PID must be that of the process: the shell becomes it.
    let become_it = "export WATCHDOG_PID=$$ WATCHDOG_USEC=400000 NOTIFY_SOCKET=$0; exec \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", become_it, dir.path().join("notify").to_str().unwrap(), binary().to_str().unwrap()])
        .args(["run", "--iface", LAN, "--mtu", "1422", "--log", "json"]);
    let daemon = Daemon::watch(lab.gateway.spawn(command).unwrap()).unwrap();
    let told = || {
        let mut message = [0; 1024];
        let length = loop {
            match manager.recv(&mut message) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.expect("a message in time"),
            }
        };
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let ready = told();
    assert!(ready.contains("READY=1\n") && ready.contains("STATUS=forwarding on eth1"), "{ready}");
    for _ in 0..3 {
        assert_eq!(told(), "WATCHDOG=1\n");
    }
    daemon.signal(Signal::SIGTERM).unwrap();
    let ended = daemon.wait().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let last = std::iter::repeat_with(told).find(|message| message != "WATCHDOG=1\n").unwrap();
    assert_eq!(last, "STOPPING=1\n");
    for line in ended.stderr.lines() {
        let message: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(message["level"].is_string() && message["message"].is_string(), "{line}");
    }
    assert!(ended.stderr.contains("forwarding on eth1"), "{}", ended.stderr);
}

#[test]
fn workers_can_neither_open_files_nor_sockets_and_no_thread_keeps_what_it_does_not_need() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &["--notify", "--metrics", "127.0.0.1:0"]);
    deliver(&lab, mixed(200));
    let mut workers = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
        let task = task.unwrap();
        let main = task.file_name().to_str() == Some(&daemon.pid().to_string());
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("{name}: {status}")).trim().to_owned()
        };
        // CAP_NET_ADMIN is 12, CAP_BPF 39. CAP_PERFMON, 38, can be taken up where a reload loads programs, with
        // CAP_NET_RAW, 13, and CAP_IPC_LOCK, 14, where a queue comes that needs a worker.
        let regained = if main { 1 << 38 | 1 << 13 | 1 << 14 } else { 0 };
        for (set, besides) in [("CapEff", 0), ("CapPrm", regained), ("CapInh", 0)] {
            let capabilities = u64::from_str_radix(&field(set), 16).unwrap();
            assert_eq!(capabilities & !(1 << 12 | 1 << 39 | besides), 0, "{set}: {status}");
        }
        assert_eq!(field("NoNewPrivs"), "1", "{status}");
        if field("Name").starts_with("xf-") {
            workers += 1;
            assert_eq!(field("Seccomp"), "2", "{status}");
        }
    }
    assert_eq!(workers, 1);
    stop(daemon);
}
