//! Who works on which core, and the CPU time that it takes.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Sub;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};
use rustix::process::setpriority_process;
use serde::{Deserialize, Serialize};

use crate::lab::Namespace;
use crate::lab::topology::{LAN, Lab};

/// The cores of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cores {
    /// Makes the frames.
    pub generator: usize,
    /// All of the router's work.
    pub router: usize,
    /// Takes the frames that arrive. If it is the router's, what that costs is charged to the router.
    pub sink: usize,
}

/// CPU time of the router, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuTime {
    /// The NAPI thread of eth1: receive, XDP, and the stack as far as it runs there.
    pub napi: u64,
    /// The worker threads of xdpfrag, with what the kernel does on their account.
    pub worker: u64,
    /// Of that, in user mode, as far as the scheduler tick can tell.
    pub worker_user: u64,
    /// Soft interrupts that were put off to the core's ksoftirqd.
    pub softirqd: u64,
    /// Everything on the router's core that is not idle, in steps of 10 ms.
    pub core: u64,
}

impl CpuTime {
    /// What the router took.
    pub fn total(&self) -> u64 {
        self.napi + self.worker + self.softirqd
    }
}

impl Sub for CpuTime {
    type Output = CpuTime;

    fn sub(self, earlier: CpuTime) -> CpuTime {
        CpuTime {
            napi: self.napi.saturating_sub(earlier.napi),
            worker: self.worker.saturating_sub(earlier.worker),
            worker_user: self.worker_user.saturating_sub(earlier.worker_user),
            softirqd: self.softirqd.saturating_sub(earlier.softirqd),
            core: self.core.saturating_sub(earlier.core),
        }
    }
}

/// The gateway's kernel threads, on a core of their own.
#[derive(Debug)]
pub struct Router {
    core: usize,
    napi: Vec<i32>,
    softirqd: Vec<i32>,
    /// ns per tick of /proc.
    tick: u64,
    workers: Vec<i32>,
    process: Option<u32>,
}

impl Router {
    /// Lets a kernel thread on the router's core receive from eth1: otherwise veth does the router's work on
    /// the sender's core.
    ///
    /// # Errors
    /// If the kernel makes no NAPI thread (before 5.12), or `ethtool`, `mount` or `unshare` is not installed.
    pub fn new(lab: &Lab, cores: Cores) -> Result<Router> {
        let core = cores.router;
        let before = threads(&format!("napi/{LAN}-"))?;
        // veth receives by NAPI when GRO is on, or while an XDP program is attached.
        lab.gateway.output("ethtool", &["-K", LAN, "gro", "on"])?;
        let sysfs = |namespace: &Namespace, file: &str, value: &str| {
            let script = format!("mount -t sysfs sysfs /sys && echo {value} > /sys/class/net/{file}");
            namespace.output("unshare", &["--mount", "sh", "-c", &script])
        };
        sysfs(&lab.gateway, &format!("{LAN}/threaded"), "1")?;
        // Else the router's core, which sends to the far host, receives for it, too.
        if cores.sink != cores.router {
            sysfs(&lab.far, "far0/queues/rx-0/rps_cpus", &format!("{:x}", 1u64 << cores.sink))?;
        }
        let napi: Vec<i32> = threads(&format!("napi/{LAN}-"))?.difference(&before).copied().collect();
        ensure!(!napi.is_empty(), "the kernel made no NAPI thread for {LAN}");
        for &pid in &napi {
            pin(pid, core)?;
            favour(pid)?;
        }
        let softirqd = threads(&format!("ksoftirqd/{core}"))?.into_iter().collect();
        let hertz = sysconf(SysconfVar::CLK_TCK)?.context("no tick")?;
        Ok(Router {
            core,
            napi,
            softirqd,
            tick: 1_000_000_000 / hertz as u64,
            workers: Vec::new(),
            process: None,
        })
    }

    /// Counts the workers of the process `pid`, too.
    ///
    /// # Errors
    /// If it is gone.
    pub fn watch(&mut self, pid: u32) -> Result<()> {
        self.process = Some(pid);
        self.workers.clear();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            let name = fs::read_to_string(entry.path().join("comm"))?;
            if name.starts_with("xf-") {
                let tid = entry.file_name().to_string_lossy().parse()?;
                favour(tid)?;
                self.workers.push(tid);
            }
        }
        Ok(())
    }

    /// Counts a thread of this process as a worker.
    ///
    /// # Errors
    /// If it is gone.
    pub fn watch_thread(&mut self, tid: i32) -> Result<()> {
        self.process = Some(std::process::id());
        self.workers = vec![tid];
        favour(tid)
    }

    /// CPU time up to now.
    ///
    /// # Errors
    /// If a thread is gone.
    pub fn cpu_time(&self) -> Result<CpuTime> {
        let mut time = CpuTime { core: self.core_busy()?, ..CpuTime::default() };
        for pid in &self.napi {
            time.napi += on_cpu(Path::new(&format!("/proc/{pid}")))?;
        }
        for pid in &self.softirqd {
            time.softirqd += on_cpu(Path::new(&format!("/proc/{pid}")))?;
        }
        for tid in &self.workers {
            let task = format!("/proc/{}/task/{tid}", self.process.unwrap_or_default());
            time.worker += on_cpu(Path::new(&task))?;
            let stat = fs::read_to_string(format!("{task}/stat"))?;
            // The name, in parentheses, may hold spaces; utime is the 14th field of proc_pid_stat(5).
            let after_name = stat.rsplit_once(") ").context("/proc/PID/stat without a name")?.1;
            let ticks: u64 = after_name.split(' ').nth(11).context("/proc/PID/stat is short")?.parse()?;
            time.worker_user += ticks * self.tick;
        }
        Ok(time)
    }

    /// Time since boot that the core was not idle.
    fn core_busy(&self) -> Result<u64> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().find(|line| line.starts_with(&format!("cpu{} ", self.core)));
        let fields = line.context("no such core in /proc/stat")?.split_whitespace().skip(1);
        let fields: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>()?;
        let idle = fields.get(3).zip(fields.get(4)).map(|(idle, wait)| (idle + wait) * self.tick);
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
        Ok((Duration::from(now).as_nanos() as u64).saturating_sub(idle.context("/proc/stat is short")?))
    }
}

/// First field of schedstat: ns on a CPU, soft interrupts that hit the thread included.
fn on_cpu(task: &Path) -> Result<u64> {
    let path = task.join("schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.split_whitespace().next().context("an empty schedstat")?.parse()?)
}

/// Kernel threads whose name starts with `prefix`.
fn threads(prefix: &str) -> Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end between the two reads.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            found.insert(pid);
        }
    }
    Ok(found)
}

/// Binds the calling thread to a core, and lets nobody else have it.
pub(super) fn take_core(core: usize) -> Result<()> {
    pin(0, core)?;
    favour(0)
}

/// Puts a thread before those that have nothing to do with the measurement. All that it measures have the same
/// priority.
fn favour(pid: i32) -> Result<()> {
    setpriority_process(rustix::process::Pid::from_raw(pid), -20)
        .with_context(|| format!("cannot raise the priority of {pid}"))
}

fn pin(pid: i32, core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(pid), &cores).with_context(|| format!("cannot pin {pid} to core {core}"))
}
