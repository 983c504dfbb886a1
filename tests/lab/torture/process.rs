//! What can happen to the process.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use xdpfrag::lab::LabConfig;

use super::{costs_at_most, disturb, report};
use crate::support::{deliver, forward, lab, mixed, stop};

const BINARY: &str = env!("CARGO_BIN_EXE_xdpfrag");
const WATCH: Duration = Duration::from_secs(1);
/// `--stall` of these tests, milliseconds.
const STALL: &str = "100";
/// Datagrams of a stream in the stall time, and as many again for a busy machine.
const STALLED: usize = 200;

#[test]
fn a_kill_and_a_new_start() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &[]);
    let mut next = None;
    let cost = disturb(&lab, WATCH, || {
        daemon.signal(Signal::SIGKILL).unwrap();
        daemon.wait().unwrap();
        next = Some(forward(&lab, &[]));
    });
    report("SIGKILL, started again at once", cost);
    // The frames that were in the rings of the process; then the kernel forwards what fits by itself.
    assert!(cost.fits.datagrams <= cost.allowed(30), "{cost:?}");
    deliver(&lab, mixed(200));
    stop(next.expect("a second instance"));
}

/// As `systemctl restart` does, also for a newer binary.
#[test]
fn an_orderly_restart() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &[]);
    let mut next = None;
    let cost = disturb(&lab, WATCH, || {
        stop(daemon);
        next = Some(forward(&lab, &[]));
    });
    report("stop and start (an upgrade)", cost);
    assert!(cost.fits.datagrams <= cost.allowed(0), "{cost:?}");
    deliver(&lab, mixed(200));
    stop(next.expect("a second instance"));
}

#[test]
fn a_stop_and_a_continuation() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &["--stall", STALL]);
    let cost = disturb(&lab, WATCH, || {
        daemon.signal(Signal::SIGSTOP).unwrap();
        thread::sleep(WATCH);
        daemon.signal(Signal::SIGCONT).unwrap();
    });
    report("SIGSTOP for 1 s (`--stall 100`)", cost);
    assert!(cost.fits.datagrams <= cost.allowed(STALLED), "{cost:?}");
    deliver(&lab, mixed(200));
    stop(daemon);
}

#[test]
fn one_stuck_worker() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &["--stall", STALL]);
    let worker = thread_named(daemon.pid(), "xf-eth1-0");
    let cost = disturb(&lab, WATCH, || {
        // Stops this thread and no other (ptrace(2), PTRACE_INTERRUPT).
        ptrace::seize(worker, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(worker).unwrap();
        waitpid(worker, Some(WaitPidFlag::__WALL)).unwrap();
        thread::sleep(WATCH);
        ptrace::detach(worker, None).unwrap();
    });
    report("a worker stuck for 1 s (`--stall 100`)", cost);
    assert!(cost.fits.datagrams <= cost.allowed(STALLED), "{cost:?}");
    deliver(&lab, mixed(200));
    stop(daemon);
}

pub(super) fn thread_named(pid: u32, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let named = tasks.map(|task| task.unwrap().path()).find(|task| {
        // A thread may end between the two reads.
        fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    });
    let id = named.expect("the worker's thread").file_name().unwrap().to_str().unwrap().parse();
    Pid::from_raw(id.unwrap())
}

#[test]
fn no_descriptor_left() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let daemon = forward(&lab, &[]);
    let pid = daemon.pid().to_string();
    let cost = disturb(&lab, WATCH, || {
        lab.gateway.output("prlimit", &["--pid", &pid, "--nofile=3:"]).unwrap();
        // Each needs a descriptor that the process cannot have.
        lab.gateway.ip("addr add 198.18.9.1/32 dev lo").unwrap();
        assert!(lab.gateway.output(BINARY, &["stats"]).is_err());
    });
    costs_at_most("no file descriptor left", cost, 0);
    lab.gateway.output("prlimit", &["--pid", &pid, "--nofile=1024:"]).unwrap();
    let statistics = lab.gateway.output(BINARY, &["stats", "--json"]).unwrap();
    assert!(statistics.contains("eth1"), "{statistics}");
    stop(daemon);
}

#[test]
fn little_memory() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let Some(group) = MemoryLimit::new() else { return };
    let daemon = forward(&lab, &[]);
    // Less than it has by far, and there is no swap.
    let cost = disturb(&lab, WATCH, || group.squeeze(daemon.pid()));
    costs_at_most("4 MiB of memory left (cgroup)", cost, 20);
    stop(daemon);
}

/// A memory cgroup.
struct MemoryLimit {
    path: std::path::PathBuf,
    limit: &'static str,
}

impl MemoryLimit {
    fn new() -> Option<MemoryLimit> {
        let name = format!("xdpfrag-{}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        {
            let path = std::path::Path::new(root).join(&name);
            if fs::create_dir(&path).is_ok() {
                let group = MemoryLimit { path, limit };
                if group.path.join(limit).exists() {
                    return Some(group);
                }
            }
        }
        crate::support::skip("there is no memory cgroup");
        None
    }

    fn squeeze(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
        // What it has already is charged elsewhere; this is for all it asks for from now on.
        fs::write(self.path.join(self.limit), (4 << 20).to_string()).unwrap();
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Processes that are still in it go to its parent first.
        if let (Ok(pids), Some(parent)) =
            (fs::read_to_string(self.path.join("cgroup.procs")), self.path.parent())
        {
            for pid in pids.lines() {
                let _ = fs::write(parent.join("cgroup.procs"), pid);
            }
        }
        let _ = fs::remove_dir(&self.path);
    }
}
