//! Nobody who reads what xdpfrag says can end or stop the forwarding: neither one that goes away nor one that stops
//! to read, no full disk, no closed terminal, no service manager.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{ChildStderr, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xdpfrag::lab::namespace::Tethered;
use xdpfrag::lab::{Lab, LabConfig};
use xdpfrag::observe::snapshot::Snapshot;

use crate::reload::reload;
use crate::support::{binary, deliver, lab, mixed};

const PATIENCE: Duration = Duration::from_secs(60);
/// The least that a pipe holds: what about forty lines of the log fill.
const PIPE: i32 = 4096;

/// A file of settings, which [`reload`] reads again.
fn settings(dir: &Path) -> String {
    let file = dir.join("xdpfrag.toml");
    fs::write(&file, "iface = ['eth1']\nmtu = 1422\n").unwrap();
    file.to_str().unwrap().to_owned()
}

/// `xdpfrag run` by way of `sh -c SCRIPT`, which has it as "$@".
fn run_by(script: &str, dir: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(dir).arg(binary()).args(["run", "--config", &settings(dir)]);
    command
}

/// The process that forwards, as soon as it answers.
fn forwarding(lab: &Lab) -> Pid {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]) {
            Ok(text) => {
                let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
                return Pid::from_raw(i32::try_from(snapshot.pid).unwrap());
            }
            Err(error) if Instant::now() > deadline => panic!("it does not forward: {error:#}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Each of these is a line in the log, and the first comes by a signal.
fn goes_on(lab: &Lab, pid: Pid, lines: usize) {
    kill(pid, Signal::SIGHUP).unwrap();
    for _ in 0..lines {
        let (code, said) = reload(lab);
        assert_eq!(code, Some(0), "{said}");
    }
    deliver(lab, mixed(60));
    assert_eq!(forwarding(lab), pid, "another process");
}

/// Ends as asked, with code 0.
fn ends(mut process: Tethered, pid: Pid) {
    kill(pid, Signal::SIGINT).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match process.child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => panic!("it does not end"),
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    assert!(status.success(), "{status}");
}

/// Standard error of a process, read until it forwards.
fn until_forwarding(process: &mut Tethered) -> BufReader<ChildStderr> {
    let mut stderr = BufReader::new(process.child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("forwarding on") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it has ended");
    }
    stderr
}

#[test]
fn the_reader_of_the_log_goes_away() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut process = lab.gateway.spawn(run_by("exec \"$@\"", dir.path())).unwrap();
    let pid = forwarding(&lab);
    drop(until_forwarding(&mut process));
    drop(process.child.stdout.take());
    goes_on(&lab, pid, 2);
    ends(process, pid);
}

#[test]
fn the_reader_of_the_log_stops_to_read() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut process = lab.gateway.spawn(run_by("exec \"$@\"", dir.path())).unwrap();
    let pid = forwarding(&lab);
    let stderr = until_forwarding(&mut process);
    fcntl(stderr.get_ref().as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE)).unwrap();
    // As many lines as the pipe holds and more.
    goes_on(&lab, pid, 100);
    ends(process, pid);
    assert!(stderr.lines().count() > 10, "the pipe was not full");
}

#[test]
fn the_disk_of_the_log_is_full() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    // A page for what it says at its start, and none for what comes then.
    let disk = "mount -t tmpfs -o size=4k tmpfs \"$0\" && exec \"$@\" 2>\"$0/log\"";
    for script in [
        "exec \"$@\" 2>/dev/full",
        // Beyond this limit a write is answered by SIGXFSZ.
        "ulimit -f 2 && exec \"$@\" 2>\"$0/log\"",
        &format!("exec unshare --mount sh -c '{disk}' \"$0\" \"$@\""),
    ] {
        let command = run_by(script, dir.path());
        // The file of settings must not lie below the small disk.
        let elsewhere = tempfile::tempdir().unwrap();
        let config = settings(elsewhere.path());
        let mut moved = Command::new(command.get_program());
        moved.args(command.get_args().map(|argument| match argument.to_str() {
            Some(text) if text.ends_with(".toml") => config.clone().into(),
            _ => argument.to_owned(),
        }));
        let process = lab.gateway.spawn(moved).unwrap();
        let pid = forwarding(&lab);
        goes_on(&lab, pid, 100);
        let log = format!("/proc/{pid}/fd/2");
        assert!(fs::metadata(&log).unwrap().len() <= 4096);
        ends(process, pid);
    }
}

/// Ends the process that outlives its terminal, whatever becomes of the test.
struct Orphan(Pid);

impl Drop for Orphan {
    fn drop(&mut self) {
        // It may have ended, as it should.
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

/// The kernel then sends SIGHUP, which stands for a reload, and every write fails.
#[test]
fn the_terminal_is_closed() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let command = format!("exec {} run --config {}", binary().display(), settings(dir.path()));
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--command", &command, "/dev/null"]);
    let mut terminal = lab.gateway.spawn(terminal).unwrap();
    let orphan = Orphan(forwarding(&lab));
    terminal.child.kill().unwrap();
    terminal.child.wait().unwrap();
    goes_on(&lab, orphan.0, 2);
    kill(orphan.0, Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while lab.gateway.output(binary().to_str().unwrap(), &["stats"]).is_ok() {
        assert!(Instant::now() < deadline, "it does not end");
        thread::sleep(Duration::from_millis(20));
    }
}

/// With `stty tostop` the kernel stops a process of the background that writes to the terminal.
#[test]
fn a_terminal_that_stops_the_background_does_not_stop_it() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let job = format!("stty tostop; {} run --config {} & wait", binary().display(), settings(dir.path()));
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &format!("sh -mc '{job}'"), "/dev/null"]);
    let _terminal = lab.gateway.spawn(terminal).unwrap();
    let orphan = Orphan(forwarding(&lab));
    goes_on(&lab, orphan.0, 2);
}

/// It asks for a sign of life each millisecond and reads none of them.
#[test]
fn the_service_manager_stops_to_read() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let script = format!("NOTIFY_SOCKET={} WATCHDOG_USEC=2000 exec \"$@\"", socket.display());
    let mut process = lab.gateway.spawn(run_by(&script, dir.path())).unwrap();
    let _stderr = until_forwarding(&mut process);
    let pid = forwarding(&lab);
    goes_on(&lab, pid, 2);
    ends(process, pid);
    drop(manager);
}
