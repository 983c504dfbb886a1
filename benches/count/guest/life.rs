//! What is not traffic: start, statistics, a scrape, a reload.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xdpfrag::lab::{Daemon, Namespace};

use super::marks::tell;
use super::methods::Tunnel;
use super::{Order, RUNS, Results, quiet};
use crate::record::Record;

const METRICS: &str = "127.0.0.1:9435";

/// One binary at the first gateway, by a file of settings.
struct Life<'a> {
    router: &'a Namespace,
    binary: &'a Path,
    settings: tempfile::NamedTempFile,
    /// While it runs.
    daemon: Option<Daemon>,
}

/// Something that a user does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// From execve(2) until it says that it is forwarding.
    Start,
    /// `xdpfrag stats --json`.
    Stats,
    /// GET /metrics.
    Scrape,
    /// `xdpfrag reload` that loads another XDP program.
    Reload,
}

impl Deed {
    const ALL: [Deed; 4] = [Deed::Start, Deed::Stats, Deed::Scrape, Deed::Reload];

    fn name(self) -> &'static str {
        match self {
            Deed::Start => "start",
            Deed::Stats => "stats",
            Deed::Scrape => "scrape",
            Deed::Reload => "reload",
        }
    }
}

pub(super) fn count(binary: &Path, suffix: &str, order: &Order, results: &mut Results) -> Result<()> {
    let row = |deed: Deed| format!("life/{}{suffix}", deed.name());
    let wanted = |deed: &Deed| order.wants(&row(*deed)) && (!order.short || *deed == Deed::Start);
    let deeds: Vec<_> = Deed::ALL.into_iter().filter(wanted).collect();
    if deeds.is_empty() {
        return Ok(());
    }
    let sites = results.sites(Tunnel::Policy)?;
    let settings = tempfile::NamedTempFile::new()?;
    let mut life = Life { router: &sites.near.router, binary, settings, daemon: None };
    for deed in deeds {
        let row = row(deed);
        println!("{row}");
        life.count(deed, &row).with_context(|| row.clone())?;
        results.add(&record(row))?;
    }
    Ok(())
}

impl Life<'_> {
    /// The first time fills the page cache.
    fn count(&mut self, deed: Deed, row: &str) -> Result<()> {
        for run in 0..=RUNS {
            self.prepare(deed)?;
            quiet();
            tell("start");
            self.act(deed)?;
            if run > 0 {
                tell(&format!("stop {row}#{}", run - 1));
            }
        }
        Ok(())
    }

    /// Brings about what the deed finds.
    fn prepare(&mut self, deed: Deed) -> Result<()> {
        if deed == Deed::Start
            && let Some(daemon) = self.daemon.take()
        {
            daemon.stop()?;
        }
        self.set("")?;
        if deed != Deed::Start && self.daemon.is_none() {
            self.act(Deed::Start)?;
        }
        if deed == Deed::Reload {
            self.act(Deed::Reload)?;
            self.set("df = \"keep\"\n")?;
        }
        Ok(())
    }

    fn act(&mut self, deed: Deed) -> Result<()> {
        let binary = self.binary.to_str().context("a path that is not UTF-8")?;
        match deed {
            Deed::Start => {
                let settings = self.settings.path().to_str().context("a path that is not UTF-8")?;
                let mut run = std::process::Command::new(binary);
                run.args(["run", "--config", settings]);
                self.daemon = Some(Daemon::start_command(self.router, run)?);
            }
            Deed::Stats => drop(self.router.output(binary, &["stats", "--json"])?),
            Deed::Scrape => self.router.run(scrape)?,
            Deed::Reload => drop(self.router.output(binary, &["reload"])?),
        }
        Ok(())
    }

    /// Writes the settings, all but `more` as they are by default.
    fn set(&self, more: &str) -> Result<()> {
        let text = format!(
            "iface = [\"eth1\"]\nmtu = 1446\ndst = [\"198.18.2.0/24\"]\nmetrics = \"{METRICS}\"\n{more}"
        );
        fs::write(self.settings.path(), text).context("the file of settings")
    }
}

fn record(row: String) -> Record {
    Record { row, delivered: 1, wan: [0; 2], esp_fragments: 0, reassembled: [0; 2], runs: RUNS, spins: false }
}

fn scrape() -> Result<()> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.contains("xdpfrag_"), "no metrics: {text}");
    Ok(())
}
