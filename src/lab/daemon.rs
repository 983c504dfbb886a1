//! `xdpfrag run` as a child process in the gateway.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::{Namespace, Tethered};
use super::topology::LAN;
use crate::observe::snapshot::Snapshot;

/// How long it may take to be forwarding, and to end: under emulation on a busy machine much longer than it does.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `xdpfrag run`. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    process: Tethered,
    stderr: Receiver<String>,
    stdout: Option<JoinHandle<String>>,
    log: Vec<String>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status.
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Its last snapshot, with `--json`.
    pub snapshot: Option<Snapshot>,
}

impl Daemon {
    /// Starts `binary run --iface eth1 ARGS` in the gateway, whether or not it will get anywhere.
    ///
    /// # Errors
    /// If it cannot be started at all.
    pub fn launch(gateway: &Namespace, binary: &Path, args: &[&str]) -> Result<Daemon> {
        let mut command = Command::new(binary);
        command.args(["run", "--iface", LAN]).args(args);
        Daemon::watch(gateway.spawn(command)?)
    }

    /// Collects what a child writes.
    ///
    /// # Errors
    /// If its output is not piped.
    pub fn watch(mut process: Tethered) -> Result<Daemon> {
        let stderr = process.child.stderr.take().context("standard error is piped")?;
        let mut stdout = process.child.stdout.take().context("standard output is piped")?;
        let (lines, received) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let stdout = thread::spawn(move || {
            let mut text = String::new();
            match stdout.read_to_string(&mut text) {
                Ok(_) => text,
                Err(error) => format!("standard output: {error}"),
            }
        });
        Ok(Daemon { process, stderr: received, stdout: Some(stdout), log: Vec::new() })
    }

    /// Starts it and waits until it is forwarding.
    ///
    /// # Errors
    /// If it ends before that or takes too long; the message holds its standard error.
    pub fn start(gateway: &Namespace, binary: &Path, args: &[&str]) -> Result<Daemon> {
        Daemon::launch(gateway, binary, args)?.ready()
    }

    /// The same for a whole command that runs it, such as `unshare --time ... xdpfrag run ...`.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_command(gateway: &Namespace, command: Command) -> Result<Daemon> {
        Daemon::watch(gateway.spawn(command)?)?.ready()
    }

    fn ready(mut self) -> Result<Daemon> {
        self.wait_for("forwarding")?;
        Ok(self)
    }

    /// Waits until it says something with `words`, after what was waited for before.
    ///
    /// # Errors
    /// If it ends before that or takes too long; the message holds its standard error.
    pub fn wait_for(&mut self, words: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let said = line.contains(words);
                    self.log.push(line);
                    if said {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("`xdpfrag run` did not say \"{words}\": {}", self.log.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.end()?;
                    bail!("`xdpfrag run` ended at once ({}): {}", ended.status, ended.stderr.trim())
                }
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid())?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to `xdpfrag run`"))
    }

    /// Ends it with SIGINT.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn stop(self) -> Result<Ended> {
        self.signal(Signal::SIGINT)?;
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end in time, or its snapshot cannot be read.
    pub fn wait(mut self) -> Result<Ended> {
        self.end()
    }

    fn end(&mut self) -> Result<Ended> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("`xdpfrag run` does not end");
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.log.extend(self.stderr.iter());
        let stdout = self.stdout.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        let snapshot = match stdout.trim() {
            text if text.starts_with('{') => {
                Some(serde_json::from_str(text).context("the final snapshot is not one")?)
            }
            _ => None,
        };
        Ok(Ended { status, stderr: self.log.join("\n"), snapshot })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ended = self.process.child.kill();
        let _reaped = self.process.child.wait();
    }
}
