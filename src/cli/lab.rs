//! `xdpfrag lab`: a demonstration in a private network.

use std::fmt::Write as _;

use anyhow::Context;
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::Failure;
use super::output::{print, print_json, tell};
use crate::lab::demo::{self, Delivery, IdCase, Report};
use crate::lab::traffic::tcp;
use crate::lab::traffic::udp::Tally;

/// Flags of `xdpfrag lab`.
#[derive(Debug, Args)]
pub(super) struct LabArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the demonstration and prints what it showed.
pub(super) fn run(args: &LabArgs) -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::Unfit(
            "`xdpfrag lab` builds network namespaces, which needs root: sudo xdpfrag lab".into(),
        ));
    }
    let binary = std::env::current_exe().context("cannot find the path of this program")?;
    let report = demo::run(&binary, |line| tell(&format!("  {line}")))?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&render(&report))?;
    }
    if report.delivered() {
        Ok(())
    } else {
        let unserved: Vec<String> =
            report.counted.unserved().iter().map(|(counter, frames)| format!("{counter} {frames}")).collect();
        let why = if unserved.is_empty() {
            "xdpfrag served every frame that it saw: the machine lost the others, too busy with something else".into()
        } else {
            format!("xdpfrag counted {}", unserved.join(", "))
        };
        Err(anyhow::anyhow!("with xdpfrag, not everything arrived: see the table; {why}").into())
    }
}

fn render(report: &Report) -> String {
    let Report { without, with, ids_nftables, ids_xdpfrag, .. } = report;
    let mut delivery = table(["", "without xdpfrag", "with xdpfrag"]);
    let mut row = |name: &str, cell: &dyn Fn(&Delivery) -> String| {
        delivery.add_row(cells([name.into(), cell(without), cell(with)]));
    };
    row("UDP 1472 bytes, DF: arrived whole", &|d| of(&d.udp));
    row("TCP from the appliance", &|d| transfer(&d.upload));
    row("TCP to the appliance", &|d| transfer(&d.download));
    row("far side: packets / fragments", &|d| format!("{} / {}", d.far.packets, d.far.fragments));
    row("far side: largest packet, bytes", &|d| d.far.largest.to_string());
    row("far side: commonest lengths", &|d| {
        d.far
            .commonest
            .iter()
            .map(|(length, count)| format!("{length} x{count}"))
            .collect::<Vec<_>>()
            .join("\n")
    });

    let mut ids = table(["20000 DF datagrams with ID 0: arrived whole", "nftables clears DF", "xdpfrag"]);
    let mut row = |name: &str, cell: &dyn Fn(&IdCase) -> String| {
        ids.add_row(cells([name.into(), cell(ids_nftables), cell(ids_xdpfrag)]));
    };
    row("nothing lost on the way", &|case| of(&case.control));
    row("one fragment in 1001 lost", &|case| of(&case.lossy));

    let mut text = format!(
        "\nThe tunnel takes {} bytes. It is a veth with that MTU, as an XFRM interface would be; no ESP.\n\
         {delivery}\n\n{ids}\n",
        report.sa_mtu
    );
    if let Some(latency) = report.latency() {
        let us = |ns: u64| format!("{:.1}", ns as f64 / 1000.0);
        let mut table = table(["us in xdpfrag, per frame", "p50", "p90", "p99", "p99.9", "max"]);
        table.add_row(cells([
            format!("{} frames", latency.count),
            us(latency.p50_ns),
            us(latency.p90_ns),
            us(latency.p99_ns),
            us(latency.p999_ns),
            us(latency.max_ns),
        ]));
        // Writing to a String does not fail.
        let _written = write!(text, "\n{table}\n");
    }
    let _written = writeln!(text, "\nDone in {:.0} s; nothing is left behind.", report.elapsed_s);
    text
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(cells(header.map(String::from)));
    table
}

/// Names to the left, values to the right.
fn cells<const N: usize>(texts: [String; N]) -> Vec<Cell> {
    let aligned = |(column, text)| {
        Cell::new(text).set_alignment(if column == 0 { CellAlignment::Left } else { CellAlignment::Right })
    };
    texts.into_iter().enumerate().map(aligned).collect()
}

fn of(tally: &Tally) -> String {
    format!("{} of {}", tally.intact, tally.sent)
}

fn transfer(report: &tcp::Report) -> String {
    if report.corrupt {
        format!("corrupt after {} bytes", report.received)
    } else if report.complete() {
        format!("{} MB in {:.2} s", report.bytes >> 20, report.elapsed_s)
    } else {
        format!("stalled at {} bytes", report.received)
    }
}
