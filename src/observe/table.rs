//! A snapshot for people: the summary at the end of `run`, and what `stats` prints.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::layout::{align_right, duration, grouped, table, text};
use super::snapshot::{InterfaceSnapshot, Snapshot, WorkerSnapshot};
use crate::packet::{Edit, Late, Reason};

/// Deaf hosts in the table.
const DEAF_SHOWN: usize = 10;

/// What to show.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style<'a> {
    /// Show counters per second since this earlier snapshot of the same instance, instead of totals.
    pub since: Option<&'a Snapshot>,
    /// Show counters that are zero as well.
    pub zeros: bool,
}

/// `snapshot` as text of 80 columns, a newline at the end.
pub fn render(snapshot: &Snapshot, style: Style<'_>) -> String {
    let unit = if style.since.is_some() { "; counters per second" } else { "" };
    let mut out = format!(
        "xdpfrag {}, process {}, forwarding for {:.1} s{unit}\n",
        snapshot.version, snapshot.pid, snapshot.uptime_s
    );
    if snapshot.idents_reused > 0 {
        let reused = grouped(snapshot.idents_reused);
        let _ = writeln!(out, "IPv4 identifications used again within 30 s: {reused}");
    }
    for (position, interface) in snapshot.interfaces.iter().enumerate() {
        let since = style.since.and_then(|since| {
            let seconds = snapshot.uptime_s - since.uptime_s;
            since.interfaces.get(position).filter(|_| seconds > 0.0).map(|before| (before, seconds))
        });
        head(&mut out, interface);
        counters(&mut out, interface, since, style.zeros);
        workers(&mut out, interface, since);
        deaf(&mut out, interface);
        latency(&mut out, &interface.workers);
    }
    out
}

fn head(out: &mut String, interface: &InterfaceSnapshot) {
    let _ = writeln!(out, "\n{}: {} XDP, hand-back {}", interface.name, interface.mode, interface.handback);
    for route in &interface.routes {
        let from = route.source.as_ref().map(|source| format!(" from {source}")).unwrap_or_default();
        let mss = route.mss4.or(route.mss6).map(|mss| format!(", MSS {mss}")).unwrap_or_default();
        let why = route.via.as_ref().map(|via| format!(" ({via})")).unwrap_or_default();
        let _ = writeln!(out, "  to {}{from}: SA MTU {}{mss}{why}", route.prefix, route.mtu);
        if !route.spis.is_empty() {
            let _ = writeln!(out, "    SPI {}", route.spis.join(" "));
        }
    }
    for exception in &interface.exceptions {
        let _ = writeln!(out, "  but to {exception}: untouched");
    }
    if interface.auto && interface.routes.is_empty() {
        let _ = writeln!(out, "  no tunnel: everything passes untouched");
    }
}

/// An earlier state of the same interface, and how many seconds ago it was.
type Since<'a> = Option<(&'a InterfaceSnapshot, f64)>;

/// A total, or its growth per second.
fn cell(now: u64, since: Since<'_>, counter: impl Fn(&InterfaceSnapshot) -> u64) -> String {
    match since {
        None => grouped(now),
        Some((before, seconds)) => {
            grouped((now.saturating_sub(counter(before)) as f64 / seconds).round() as u64)
        }
    }
}

/// Frames per reason, then edits per kind: what the XDP program did beside what the workers did.
fn counters(out: &mut String, interface: &InterfaceSnapshot, since: Since<'_>, zeros: bool) {
    let mut table = table(&["COUNTER", "XDP", "WORKERS", "MEANING"]);
    let mut add = |label: &str, meaning: &str, xdp: Counter<'_>, workers: Counter<'_>| {
        let cells = [cell(xdp(interface), since, xdp), cell(workers(interface), since, workers)];
        if zeros || cells.iter().any(|cell| cell != "0") {
            table.add_row([label, &cells[0], &cells[1], meaning]);
        }
    };
    for reason in Reason::ALL {
        let label = reason.label();
        let of_workers =
            |interface: &InterfaceSnapshot| sum(interface, |worker| count(&worker.reasons, label));
        add(label, reason.meaning(), &|interface| count(&interface.xdp, label), &of_workers);
    }
    for edit in Edit::ALL {
        let label = edit.label();
        let of_workers = |interface: &InterfaceSnapshot| sum(interface, |worker| count(&worker.edits, label));
        add(label, edit.meaning(), &|interface| count(&interface.xdp_edits, label), &of_workers);
    }
    for late in Late::ALL {
        let label = late.label();
        let behind_gro = |interface: &InterfaceSnapshot| count(&interface.late, label);
        add(label, late.meaning(), &behind_gro, &|_| 0);
    }
    let errors = |interface: &InterfaceSnapshot| sum(interface, |worker| worker.notify_errors);
    add("notify_errors", "--notify: messages that the kernel refused", &|_| 0, &errors);
    add("egress_mss", "MSS lowered on the way to the LAN", &|interface| interface.egress_mss, &|_| 0);
    align_right(&mut table, [1, 2]);
    if table.is_empty() {
        out.push_str(if since.is_some() { "\nNo frames.\n" } else { "\nNo frames yet.\n" });
    } else {
        let _ = write!(out, "\n{}", text(&table));
    }
}

type Counter<'a> = &'a dyn Fn(&InterfaceSnapshot) -> u64;

fn count(counters: &BTreeMap<String, u64>, label: &str) -> u64 {
    counters.get(label).copied().unwrap_or(0)
}

fn sum(interface: &InterfaceSnapshot, counter: impl Fn(&WorkerSnapshot) -> u64) -> u64 {
    interface.workers.iter().map(counter).sum()
}

fn workers(out: &mut String, interface: &InterfaceSnapshot, since: Since<'_>) {
    // Of an interval the fill of the ring tells more than the size of the memory.
    let last = if since.is_some() { "BATCH OF 64" } else { "UMEM KIB" };
    let header = ["QUEUE", "CORE", "STATE", "RECEIVED", "HANDED BACK", "NOT QUEUED", "RETRIES", last];
    let mut table = table(&header);
    for worker in &interface.workers {
        let of = |counter: fn(&WorkerSnapshot) -> u64| {
            let same = |interface: &InterfaceSnapshot| {
                interface.workers.iter().find(|other| other.queue == worker.queue).map_or(0, counter)
            };
            cell(counter(worker), since, same)
        };
        table.add_row([
            worker.queue.to_string(),
            worker.core.map_or("any".into(), |core| core.to_string()),
            match (worker.alive, worker.zero_copy) {
                (false, _) => "ended".into(),
                (true, true) => "zero-copy".into(),
                (true, false) => "copy".into(),
            },
            of(|worker| worker.received),
            of(|worker| worker.handed_back),
            of(|worker| worker.socket_drops),
            of(|worker| worker.handback_errors),
            grouped(if since.is_some() { worker.batch_peak } else { worker.umem_bytes >> 10 }),
        ]);
    }
    align_right(&mut table, [0, 1, 3, 4, 5, 6, 7]);
    let _ = write!(out, "\n{}", text(&table));
}

/// The busiest of the deaf hosts: on a large network there may be thousands.
fn deaf(out: &mut String, interface: &InterfaceSnapshot) {
    let mut table = table(&["DEAF HOST", "FRAMES", "SINCE", "LAST FRAME"]);
    for host in interface.deaf.iter().take(DEAF_SHOWN) {
        let ago = |seconds: f64| format!("{seconds:.0} s ago");
        table.add_row([host.address.clone(), grouped(host.frames), ago(host.since_s), ago(host.last_s)]);
    }
    align_right(&mut table, 1..4);
    if !table.is_empty() {
        let _ = write!(out, "\n{}", text(&table));
    }
    if let Some(more) = interface.deaf.len().checked_sub(DEAF_SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(out, "and {} more, which stats --json lists", grouped(more as u64));
    }
}

/// From the XDP program to the end of the hand-back, since the start.
fn latency(out: &mut String, workers: &[WorkerSnapshot]) {
    let mut table = table(&["LATENCY", "SAMPLES", "MIN", "P50", "P90", "P99", "P99.9", "MAX"]);
    for worker in workers {
        let Some(latency) = worker.latency else { continue };
        let mut row = vec![format!("queue {}", worker.queue), grouped(latency.count)];
        row.extend(
            [latency.min_ns, latency.p50_ns, latency.p90_ns, latency.p99_ns, latency.p999_ns, latency.max_ns]
                .map(duration),
        );
        table.add_row(row);
    }
    align_right(&mut table, 1..8);
    if !table.is_empty() {
        let _ = write!(out, "\n{}", text(&table));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::{DeafSnapshot, Latency, RouteSnapshot};

    fn snapshot(factor: u64) -> Snapshot {
        let counts = |label: &str, count: u64| BTreeMap::from([(label.to_owned(), count)]);
        let latency = Latency { count: 10, p50_ns: 17_200, max_ns: 1_300_000, ..Latency::default() };
        Snapshot {
            version: "0.1.0".into(),
            pid: 42,
            uptime_s: 10.0 * factor as f64,
            idents_reused: 7,
            interfaces: vec![InterfaceSnapshot {
                name: "eth1".into(),
                mode: "native".into(),
                handback: "inject".into(),
                routes: vec![RouteSnapshot {
                    prefix: "0.0.0.0/0".into(),
                    mtu: 1422,
                    mss4: Some(1382),
                    mss6: None,
                    ..RouteSnapshot::default()
                }],
                xdp: counts("oversize", 4_000_000_000 * factor),
                egress_mss: 3,
                workers: vec![WorkerSnapshot {
                    alive: true,
                    received: 4_000_000_000 * factor,
                    handed_back: 8_000_000_000 * factor,
                    reasons: counts("fragmented", 4_000_000_000 * factor),
                    latency: Some(latency),
                    ..WorkerSnapshot::default()
                }],
                ..InterfaceSnapshot::default()
            }],
        }
    }

    #[test]
    fn fits_eighty_columns_and_leaves_zeros_out() {
        let text = render(&snapshot(1), Style::default());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in [
            "4,000,000,000",
            "fragmented",
            "SA MTU 1422, MSS 1382",
            "17.2 us",
            "1.3 ms",
            "egress_mss",
            "30 s: 7",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert!(!text.contains("sticky"), "{text}");
        assert!(render(&snapshot(1), Style { zeros: true, since: None }).contains("sticky"));
    }

    #[test]
    fn rates_are_the_difference_per_second() {
        let (before, now) = (snapshot(1), snapshot(2));
        let text = render(&now, Style { since: Some(&before), zeros: false });
        assert!(text.contains(" 400,000,000 ") && text.contains(" 800,000,000 "), "{text}");
        assert!(text.contains("per second") && text.contains("BATCH OF 64"), "{text}");
        // What did not grow is no rate.
        assert!(!text.contains("egress_mss"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let idle =
            render(&now, Style { since: Some(&Snapshot { uptime_s: 1.0, ..now.clone() }), zeros: false });
        assert!(idle.contains("No frames.\n"), "{idle}");
    }

    #[test]
    fn the_busiest_deaf_hosts_are_shown() {
        let mut many = snapshot(1);
        assert!(!render(&many, Style::default()).contains("DEAF HOST"));
        many.interfaces[0].deaf = (0..13)
            .map(|n| DeafSnapshot {
                address: format!("2001:db8:1234:5678:9abc:def0:1234:56{n:02}"),
                frames: 1_000_000 - n,
                ..DeafSnapshot::default()
            })
            .collect();
        let text = render(&many, Style::default());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.contains("1,000,000") && text.contains("999,991") && !text.contains("999,990"),
            "{text}"
        );
        assert!(text.contains("and 3 more, which stats --json lists"), "{text}");
    }

    #[test]
    fn an_idle_instance_says_so() {
        let mut idle = snapshot(1);
        idle.interfaces[0].xdp.clear();
        idle.interfaces[0].egress_mss = 0;
        idle.interfaces[0].workers.clear();
        assert!(render(&idle, Style::default()).contains("No frames yet"));
    }
}
