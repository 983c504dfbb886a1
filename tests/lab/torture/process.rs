//! What can happen to the process.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use xdpfrag::lab::{LabConfig, Narrow};

use super::{Limit, UNHARMED, costs_at_most, costs_within, disturb};
use crate::support::{deliver, forward, lab, mixed, stop};

const BINARY: &str = env!("CARGO_BIN_EXE_xdpfrag");
const WATCH: Duration = Duration::from_secs(1);
/// `--stall` of these tests, milliseconds.
const STALL: &str = "100";
/// A worker that does nothing for `WATCH` with that `--stall`, and what it takes it to go on.
pub(super) const STUCK: Limit = Limit::outage(WATCH.as_millis() as u64 + 100 + 50);
/// A start takes about 0.3 s, and after SIGKILL the kernel has to clear up first.
const RESTART: Limit = Limit::outage(400);
const RESTART_AFTER_A_KILL: Limit = Limit::outage(450);
/// What is in the rings of a process that is killed is gone.
const IN_THE_RINGS: Limit = Limit::lost(30);

#[test]
fn a_kill_and_a_new_start() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &[]);
    let mut next = None;
    let cost = disturb(&lab, WATCH, || {
        daemon.signal(Signal::SIGKILL).unwrap();
        daemon.wait().unwrap();
        next = Some(forward(&lab, &[]));
    });
    costs_within("SIGKILL, started again at once", cost, IN_THE_RINGS, RESTART_AFTER_A_KILL);
    deliver(&lab, mixed(200));
    stop(next.expect("a second instance"));
}

/// As `systemctl restart` does, also for a newer binary.
#[test]
fn an_orderly_restart() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &[]);
    let mut next = None;
    let cost = disturb(&lab, WATCH, || {
        stop(daemon);
        next = Some(forward(&lab, &[]));
    });
    costs_within("stop and start (an upgrade)", cost, Limit::lost(0), RESTART);
    deliver(&lab, mixed(200));
    stop(next.expect("a second instance"));
}

#[test]
fn a_stop_and_a_continuation() {
    // What the kernel fragments by itself needs no process.
    for (narrow, oversize) in [(Narrow::Beyond, STUCK), (Narrow::Gateway, UNHARMED)] {
        let Some(lab) = lab(LabConfig { narrow, ..LabConfig::default() }) else { return };
        let daemon = forward(&lab, &["--stall", STALL]);
        let cost = disturb(&lab, WATCH, || {
            daemon.signal(Signal::SIGSTOP).unwrap();
            thread::sleep(WATCH);
            daemon.signal(Signal::SIGCONT).unwrap();
        });
        let way = if narrow == Narrow::Gateway { "edit" } else { "fragments" };
        let fault = format!("SIGSTOP for 1 s (`--stall 100`, way `{way}`)");
        costs_within(&fault, cost, UNHARMED, oversize);
        deliver(&lab, mixed(200));
        stop(daemon);
    }
}

#[test]
fn one_stuck_worker() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
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
    costs_within("a worker stuck for 1 s (`--stall 100`)", cost, UNHARMED, STUCK);
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

const METRICS: &str = "127.0.0.1:9435";

/// CPU time of a thread, in clock ticks (proc_pid_stat(5): utime and stime).
fn ticks(pid: u32, thread: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").expect("a command in brackets");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn no_descriptor_left() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let daemon = forward(&lab, &["--metrics", METRICS]);
    let pid = daemon.pid().to_string();
    let (mut scraper, mut spent) = (None, None);
    let exporter = thread_named(daemon.pid(), "metrics");
    let cost = disturb(&lab, WATCH, || {
        lab.gateway.output("prlimit", &["--pid", &pid, "--nofile=3:"]).unwrap();
        // It waits in the queue of the exporter, who must not try to accept it again and again.
        scraper = Some(lab.gateway.run(|| Ok(TcpStream::connect(METRICS)?)).unwrap());
        let before = ticks(daemon.pid(), exporter);
        thread::sleep(WATCH);
        spent = Some(ticks(daemon.pid(), exporter) - before);
        // Each needs a descriptor that the process cannot have.
        lab.gateway.ip("addr add 198.18.9.1/32 dev lo").unwrap();
        assert!(lab.gateway.output(BINARY, &["stats"]).is_err());
    });
    costs_at_most("no file descriptor left", cost, 0);
    let spent = spent.expect("the exporter has waited");
    assert!(spent < 20, "{spent} ticks of 10 ms on a client that cannot be let in");
    lab.gateway.output("prlimit", &["--pid", &pid, "--nofile=1024:"]).unwrap();
    let (mut scraper, mut answer) = (scraper.expect("a client"), String::new());
    scraper.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    scraper.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let statistics = lab.gateway.output(BINARY, &["stats", "--json"]).unwrap();
    assert!(statistics.contains("eth1"), "{statistics}");
    stop(daemon);
}

#[test]
fn little_memory() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
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
