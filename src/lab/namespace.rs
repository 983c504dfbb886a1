//! Network namespaces: those made here have no name and live as long as a descriptor or a process refers to them.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::net::private_ns::PrivateNs;

/// A network namespace to work in.
#[derive(Debug)]
pub struct Namespace {
    name: &'static str,
    inner: PrivateNs,
}

impl Namespace {
    /// Makes a namespace with its loopback up and IPv6 off (the lab's counts are exact: no
    /// neighbour discovery in between). `name` appears in messages only.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, or if `ip` is not installed.
    pub fn new(name: &'static str) -> Result<Namespace> {
        let inner = PrivateNs::new()
            .with_context(|| format!("cannot make the network namespace '{name}': run as root"))?;
        let namespace = Namespace { name, inner };
        namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// One that somebody else made and owns: `path` is a file such as those below /run/netns (ip-netns(8)).
    ///
    /// # Errors
    /// If there is no such file.
    pub fn open(name: &'static str, path: &Path) -> Result<Namespace> {
        let inner = PrivateNs::open(path)
            .with_context(|| format!("cannot open the network namespace '{name}', {}", path.display()))?;
        Ok(Namespace { name, inner })
    }

    /// Its name in messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A path that other processes (such as `ip`) can open while this process lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.inner.as_fd().as_raw_fd()))
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// Those of `work`, or that the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.inner.run(work).with_context(|| format!("cannot enter the network namespace '{}'", self.name))?
    }

    /// Runs a command inside and returns its standard output.
    ///
    /// # Errors
    /// If it is not installed or ends with a failure; the message holds its standard error.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        self.run(|| {
            let line = format!("{program} {} (in {})", args.join(" "), self.name);
            let output = match Command::new(program).args(args).output() {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    bail!("`{program}` is not installed or not in PATH: apt-get install {}", package(program))
                }
                other => other.with_context(|| line.clone())?,
            };
            if !output.status.success() {
                bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }

    /// Runs `ip` with the words of `line`.
    ///
    /// # Errors
    /// See [`Namespace::output`].
    pub fn ip(&self, line: &str) -> Result<String> {
        self.output("ip", &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Writes below `/proc/sys/net`, which shows the namespace of the thread that opens it.
    ///
    /// # Errors
    /// If the kernel refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| {
            let path = format!("/proc/sys/net/{key}");
            fs::write(&path, value)
                .with_context(|| format!("cannot write {value} to {path} in {}", self.name))
        })
    }

    /// Starts a child inside that the kernel kills when this process ends in any way.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Tethered> {
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        self.spawn_as(tied)
    }

    /// The death signal is sent when the parent *thread* ends: this one stays until the handle is dropped.
    fn spawn_as(&self, mut command: Command) -> Result<Tethered> {
        command.stdin(process::Stdio::null()).stdout(process::Stdio::piped()).stderr(process::Stdio::piped());
        let fd = self.inner.as_fd().try_clone_to_owned()?;
        let (started, child) = mpsc::sync_channel(1);
        let (tether, held) = mpsc::channel::<()>();
        thread::spawn(move || {
            let spawned =
                setns(&fd, CloneFlags::CLONE_NEWNET).map_err(Into::into).and_then(|()| command.spawn());
            if started.send(spawned).is_ok() {
                let _ended = held.recv();
            }
        });
        let child = child.recv()?.context("cannot start a command through setpriv (util-linux)")?;
        Ok(Tethered { child, _tether: tether })
    }
}

/// A child process that does not outlive this process.
#[derive(Debug)]
pub struct Tethered {
    /// The child.
    pub child: Child,
    _tether: mpsc::Sender<()>,
}

/// The Debian package that holds a program.
fn package(program: &str) -> &str {
    match program {
        "ip" | "tc" => "iproute2",
        "nft" => "nftables",
        other => other,
    }
}
