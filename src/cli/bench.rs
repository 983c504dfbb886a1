//! `xdpfrag bench`: throughput and latency on this machine, in a private network.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::Failure;
use super::output::{print, print_json, tell};
use crate::lab::bench::rfc2544::{self, Performance, Report, Settings};
use crate::lab::bench::{Cores, Workload};

/// Flags of `xdpfrag bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Traffic: udp1500, tcp1, tcp64, imix or 64byte
    #[arg(long, value_name = "NAME", default_value = "udp1500", value_parser = workload)]
    workload: Workload,

    /// SA MTU in bytes (576 to 1500)
    #[arg(long, value_name = "BYTES", default_value_t = 1422, value_parser = clap::value_parser!(u32).range(576..=1500))]
    mtu: u32,

    /// Length of one trial in ms; there are about 15 for each way of forwarding (50 to 60000)
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    trial: u64,

    /// Packets that may be lost at the throughput, per cent (0 to 10)
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = per_cent)]
    loss: f64,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    /// Flags for `xdpfrag run`, after --
    #[arg(last = true, value_name = "RUN FLAGS")]
    run: Vec<String>,
}

fn workload(name: &str) -> Result<Workload, String> {
    let timed = Workload::ALL.into_iter().filter(|workload| workload.timed());
    let names: Vec<&str> = timed.clone().map(Workload::name).collect();
    timed
        .clone()
        .find(|workload| workload.name() == name)
        .ok_or_else(|| format!("no such traffic; it is one of {}", names.join(", ")))
}

fn per_cent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=10.0).contains(&value) => Ok(value),
        _ => Err("it is a number from 0 to 10".into()),
    }
}

/// Measures and prints.
pub(super) fn run(args: &BenchArgs) -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::Unfit(
            "`xdpfrag bench` builds network namespaces, which needs root: sudo xdpfrag bench".into(),
        ));
    }
    let count = std::thread::available_parallelism().context("cannot count the cores")?.get();
    if count < 2 {
        tell(
            "  this machine has one core: the generator takes it from the router, and the figures mean little",
        );
    }
    let router = count - 1;
    let settings = Settings {
        workload: args.workload,
        sa_mtu: args.mtu,
        trial: Duration::from_millis(args.trial),
        tolerance: args.loss / 100.0,
        cores: Cores { generator: 0, router, sink: router },
        run: args.run.clone(),
    };
    let binary = std::env::current_exe().context("cannot find the path of this program")?;
    let report = rfc2544::run(&settings, &binary, |line| tell(&format!("  {line}")))?;
    match args.json {
        true => print_json(&report)?,
        false => print(&render(&report))?,
    }
    match [&report.plain, &report.xdpfrag].iter().all(|performance| performance.throughput > 0.0) {
        true => Ok(()),
        false => Err(anyhow::anyhow!(
            "something was lost at every load that was tried: this machine is busy, try --loss 0.1"
        )
        .into()),
    }
}

fn render(report: &Report) -> String {
    let mut throughput = table(&["", "packets/s", "router CPU ns/packet", "of plain"]);
    let mut latency = table(&["us", "load", "packets", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
    let us = |ns: u64| format!("{:.1}", ns as f64 / 1000.0);
    for (name, performance) in [("plain forwarding", &report.plain), ("xdpfrag", &report.xdpfrag)] {
        let Performance { throughput: rate, cpu_ns, latency: latencies } = performance;
        let ratio = rate / report.plain.throughput;
        let ratio = if ratio.is_finite() { format!("{ratio:.2}") } else { "-".into() };
        throughput.add_row(cells(&[name.into(), format!("{rate:.0}"), format!("{cpu_ns:.0}"), ratio]));
        for at in latencies {
            let load = format!("{:.0} %", at.load * 100.0);
            let times = [at.p50_ns, at.p90_ns, at.p99_ns, at.p999_ns, at.p9999_ns, at.max_ns].map(us);
            latency.add_row(cells(&[&[name.into(), load, at.packets.to_string()][..], &times].concat()));
        }
    }
    let mut text = format!(
        "\n{}. xdpfrag makes them fit {} bytes; plain forwarding has a link that takes them whole.\n\
         Throughput: the highest rate of which no more than {} % is lost, trials of {:.1} s.\n{throughput}\n",
        report.workload,
        report.sa_mtu,
        report.tolerance * 100.0,
        report.trial_s
    );
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "\nLatency from the appliance's wire to the far host, of every packet, within 3 %.\n{latency}\n\n\
         Done in {:.0} s; nothing is left behind.\n",
        report.elapsed_s
    );
    text
}

fn table(header: &[&str]) -> Table {
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(cells(&header));
    table
}

/// Names to the left, values to the right.
fn cells(texts: &[String]) -> Vec<Cell> {
    let aligned = |(column, text): (usize, &String)| {
        Cell::new(text).set_alignment(if column == 0 { CellAlignment::Left } else { CellAlignment::Right })
    };
    texts.iter().enumerate().map(aligned).collect()
}
