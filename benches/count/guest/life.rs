//! What is not traffic: start, statistics, a scrape, a reload.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xdpfrag::lab::Daemon;

use super::marks::tell;
use super::site::Sites;
use super::{Order, RUNS, Results, quiet};
use crate::record::Record;

const METRICS: &str = "127.0.0.1:9435";

pub(super) fn count(sites: &Sites, order: &Order, results: &mut Results) -> Result<()> {
    let ours = std::iter::once((order.binary.as_path(), ""));
    for (binary, suffix) in ours.chain(order.against.as_deref().map(|binary| (binary, "@against"))) {
        if !order.wants("life/") {
            continue;
        }
        let program = binary.to_str().context("a path that is not UTF-8")?;
        let config = tempfile::NamedTempFile::new()?;
        let path = config.path().to_str().context("a path that is not UTF-8")?;
        let settings = |df: &str| {
            format!(
                "iface = [\"eth1\"]\nmtu = 1446\ndst = [\"198.18.2.0/24\"]\nmetrics = \"{METRICS}\"\ndf = \"{df}\"\n"
            )
        };
        std::fs::write(config.path(), settings("clear"))?;
        let start = || {
            let mut run = Command::new(binary);
            run.args(["run", "--config", path]);
            Daemon::start_command(&sites.near.router, run)
        };
        // The first start fills the page cache.
        start()?.stop()?;
        let row = |name: &str| format!("life/{name}{suffix}");
        let mut daemon = None;
        for run in 0..RUNS {
            if let Some(daemon) = daemon.take() {
                Daemon::stop(daemon)?;
            }
            quiet();
            tell("start");
            daemon = Some(start()?);
            tell(&format!("stop {}#{run}", row("start")));
        }
        results.add(&record(row("start")))?;

        let measured = |name: &str, act: &mut dyn FnMut(usize) -> Result<()>| -> Result<Record> {
            act(RUNS)?;
            for run in 0..RUNS {
                quiet();
                tell("start");
                act(run)?;
                tell(&format!("stop {}#{run}", row(name)));
            }
            Ok(record(row(name)))
        };
        results.add(&measured("stats", &mut |_| {
            sites.near.router.output(program, &["stats", "--json"]).map(drop)
        })?)?;
        results.add(&measured("scrape", &mut |_| sites.near.router.run(scrape))?)?;
        // To and fro: a reload that changes something.
        let mut dfs = ["oversize", "clear"].iter().cycle();
        results.add(&measured("reload", &mut |_| {
            let df = dfs.next().context("two")?;
            std::fs::write(config.path(), settings(df))?;
            sites.near.router.output(program, &["reload"]).map(drop)
        })?)?;
        drop(daemon);
    }
    Ok(())
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
