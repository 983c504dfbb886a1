//! Where and when something was measured: stands beside every number.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine, the kernel, the code and the time.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) virtual_machine: bool,
    pub(crate) kernel: String,
    /// UTC.
    pub(crate) date: String,
    /// Short hash, with "+" if the tree had changes.
    pub(crate) commit: String,
}

impl Machine {
    pub(crate) fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(": ")?.1.to_owned())
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let changes = output("git", &["status", "--porcelain", "--untracked-files=no"]);
        let dirty = if changes.is_empty() { "" } else { "+" };
        Machine {
            cpu: field("model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            virtual_machine: field("flags").is_some_and(|flags| flags.contains("hypervisor")),
            kernel: kernel.trim().to_owned(),
            date: output("date", &["-u", "+%Y-%m-%d %H:%M"]),
            commit: output("git", &["rev-parse", "--short", "HEAD"]) + dirty,
        }
    }

    pub(crate) fn line(&self) -> String {
        let Machine { cpu, cores, virtual_machine, kernel, date, commit } = self;
        let kind = if *virtual_machine { " (virtual machine)" } else { "" };
        format!("{cpu}{kind}, {cores} cores, kernel {kernel}, {date} UTC, commit {commit}")
    }
}

/// What a command prints; empty without it, or outside a git checkout.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
