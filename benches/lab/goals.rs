//! What the project set out to reach, beside what was measured: Markdown.

use std::fmt::Write as _;

use xdpfrag::lab::bench::Workload;

use super::report::Report;

/// Least ratios to nftables and to plain forwarding, of packets delivered and of packets per CPU time.
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
        "| workload | xdpfrag | k packets/s | to nftables | to plain | CPU ns/packet | to nftables | to plain | goals |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for goal in &GOALS {
        let workload = goal.workload.name();
        let (Some(nftables), Some(plain)) =
            (report.knee(workload, "nftables"), report.knee(workload, "plain"))
        else {
            continue;
        };
        for method in report.ours() {
            let Some(knee) = report.knee(workload, &method) else { continue };
            let rates = [knee.0 / nftables.0, knee.0 / plain.0];
            // More packets for the same time.
            let costs = [nftables.1 / knee.1, plain.1 / knee.1];
            let verdict = |name: &str, least: f64, at: usize| {
                let verdict = match (rates[at] >= least, costs[at] >= least) {
                    (true, true) => "met",
                    (true, false) => "met by rate, not by CPU time",
                    (false, true) => "met by CPU time, not by rate",
                    (false, false) => "missed",
                };
                format!("{name} ≥ {least}: {verdict}")
            };
            let mut goals = vec![verdict("nftables", goal.nftables, 0)];
            goals.extend(goal.plain.map(|least| verdict("plain", least, 1)));
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "| {workload} | {method} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} | {} |",
                knee.0 / 1e3,
                rates[0],
                rates[1],
                knee.1,
                costs[0],
                costs[1],
                goals.join("; ")
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
        let p99 = |method: &str| report.p99(workload, method, HALF);
        let (Some(nftables), Some(plain)) = (p99("nftables"), p99("plain")) else { continue };
        for method in report.ours() {
            let Some(ours) = p99(&method) else { continue };
            let judged = |ratio: f64, most: f64| {
                format!("{ratio:.2} {}", if ratio <= most { "met" } else { "missed" })
            };
            let _ = writeln!(
                text,
                "| {workload} | {method} | {ours:.1} | {} | {} |",
                judged(ours / nftables, LATENCY_NFTABLES),
                judged(ours / plain, LATENCY_PLAIN)
            );
        }
    }
    text
}
