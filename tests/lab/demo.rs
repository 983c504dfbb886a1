//! `xdpfrag lab` as a newcomer runs it, to its end and interrupted.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xdpfrag::lab::LabConfig;

use crate::support::{binary, lab};

#[test]
fn it_ends_0_with_everything_delivered() {
    // The demo makes a lab of its own: this one only keeps a place for it.
    let Some(_place) = lab(LabConfig::beyond()) else { return };
    let output = Command::new(binary()).args(["lab", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{}\n{report}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(report["without"]["udp"]["intact"], 0);
    assert_eq!(report["without"]["upload"]["received"], 0);
    assert_eq!(report["with"]["udp"]["intact"], 4000);
    let intact = |case: &str| report[case]["lossy"]["intact"].as_u64().unwrap();
    assert!(intact("ids_xdpfrag") > 19_900 && intact("ids_nftables") < 19_000, "{report}");
    // wan0 has the SA MTU: the kernel fragments there.
    let interface = &report["counted"]["interfaces"][0];
    assert!(interface["xdp"]["edited"].as_u64() > Some(2000), "{report}");
}

#[test]
fn interrupted_it_takes_its_child_along() {
    let Some(_place) = lab(LabConfig::beyond()) else { return };
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        // A shell's background jobs ignore SIGINT, and what they start inherits that.
        let mut demo = Command::new("env")
            .args(["--default-signal=INT".as_ref(), binary().as_os_str(), "lab".as_ref()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut progress = BufReader::new(demo.stderr.take().unwrap()).lines();
        assert!(progress.any(|line| line.unwrap().contains("with xdpfrag: 4000")));
        let [child] = <[u32; 1]>::try_from(children(demo.id())).expect("one child: `xdpfrag run`");
        kill(Pid::from_raw(demo.id().try_into().unwrap()), signal).unwrap();
        assert!(!demo.wait().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(3);
        while alive(child) {
            assert!(Instant::now() < deadline, "{signal}: `xdpfrag run` lives on");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Processes that the threads of `pid` started.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end meanwhile.
    let lists = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// False for a process that is gone, or waits for init to collect it.
fn alive(pid: u32) -> bool {
    let status = Path::new("/proc").join(pid.to_string()).join("status");
    fs::read_to_string(status).is_ok_and(|status| !status.contains("State:\tZ"))
}
