//! What the project set out to reach, beside what was measured: Markdown.

use std::fmt::Write as _;

use xdpfrag::lab::bench::Workload;

use super::measure::Cell;
use super::report::{self, Report};

/// Least ratios to nftables and to plain forwarding, of packets delivered by one core.
struct Goal {
    workload: Workload,
    nftables: f64,
    plain: Option<f64>,
}

const GOALS: [Goal; 7] = [
    Goal { workload: Workload::Udp1500, nftables: 1.3, plain: None },
    Goal { workload: Workload::Tcp1, nftables: 2.0, plain: Some(1.0) },
    Goal { workload: Workload::Tcp64, nftables: 2.0, plain: Some(1.0) },
    Goal { workload: Workload::Imix, nftables: 1.1, plain: Some(0.95) },
    Goal { workload: Workload::ImixMixed, nftables: 1.1, plain: Some(0.95) },
    Goal { workload: Workload::Small, nftables: 1.1, plain: Some(0.95) },
    Goal { workload: Workload::Syn, nftables: 1.1, plain: Some(0.95) },
];
/// The load, as an index into [`LOADS`](xdpfrag::lab::bench::rfc2544::LOADS), at which p99 is judged: half.
const HALF: usize = 1;
const LATENCY_NFTABLES: f64 = 1.2;
const LATENCY_PLAIN: f64 = 1.5;

/// Both tables; empty parts if nftables or plain was not measured.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::from(
        "| workload | xdpfrag | flood, k/s | to nftables | to plain | knee, k/s | to nftables | to plain | by flood | by knee |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for goal in &GOALS {
        let workload = goal.workload.name();
        for method in report.ours() {
            let ratios = |pick: fn(&Cell) -> f64| {
                let to = |other: &str| report.ratio(workload, &method, other, pick);
                Some([to("nftables")?, to("plain")?])
            };
            let (Some(flood), Some(knee)) = (ratios(report::flood), ratios(report::knee)) else { continue };
            let (Some(flooded), Some(carried)) =
                (report.flood(workload, &method), report.knee(workload, &method))
            else {
                continue;
            };
            let verdict = |[nftables, plain]: [f64; 2]| {
                let met = |name: &str, ratio: f64, least: f64| {
                    format!("{name} ≥ {least} {}", if ratio >= least { "met" } else { "missed" })
                };
                let plain = goal.plain.map(|least| met("plain", plain, least));
                [Some(met("nftables", nftables, goal.nftables)), plain]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "| {workload} | {method} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} | {} | {} |",
                flooded / 1e3,
                flood[0],
                flood[1],
                carried.0 / 1e3,
                knee[0],
                knee[1],
                verdict(flood),
                verdict(knee)
            );
        }
    }
    text + &latency(report)
}

fn latency(report: &Report) -> String {
    let mut text = format!(
        "\n| p99 at 50 % load | xdpfrag | us | times nftables (≤ {LATENCY_NFTABLES}) | times plain (≤ {LATENCY_PLAIN}) |\n\
         |---|---|---|---|---|\n",
    );
    for workload in report.workloads() {
        for method in report.ours() {
            let Some(ours) = report.p99(workload, &method, HALF) else { continue };
            let p99 = |cell: &Cell| cell.latency.get(HALF).map_or(f64::NAN, |at| at.p99_ns as f64);
            let to = |other: &str| report.ratio(workload, &method, other, p99);
            let (Some(nftables), Some(plain)) = (to("nftables"), to("plain")) else { continue };
            let judged = |ratio: f64, most: f64| {
                format!("{ratio:.2} {}", if ratio <= most { "met" } else { "missed" })
            };
            let _ = writeln!(
                text,
                "| {workload} | {method} | {ours:.1} | {} | {} |",
                judged(nftables, LATENCY_NFTABLES),
                judged(plain, LATENCY_PLAIN)
            );
        }
    }
    text
}
