//! A snapshot for people: the summary at the end of `run`, and what `stats` prints.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::latency::{Interval, Latency};
use super::layout::{align_right, duration, grouped, table, text, wrapped};
use super::scope;
use super::snapshot::{InterfaceSnapshot, Snapshot, WorkerSnapshot};
use crate::packet::{Edit, Late, Reason};

/// Deaf hosts in the table.
const DEAF_SHOWN: usize = 10;
/// Routes and exceptions in a view that must not grow out of the screen.
const SCOPE_SHOWN: usize = 10;

/// What to show.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style<'a> {
    /// Show counters per second since this earlier snapshot of the same instance, instead of totals.
    pub since: Option<&'a Snapshot>,
    /// Show counters that are zero as well.
    pub zeros: bool,
    /// For a screen that is drawn again and again: what changes comes first, and long lists are cut.
    pub live: bool,
}

/// `snapshot` as text of 80 columns, a newline at the end.
pub fn render(snapshot: &Snapshot, style: Style<'_>) -> String {
    let unit = match style.since {
        Some(_) => "; counters per second",
        None if style.live => "; counters in total",
        None => "",
    };
    let head = format!(
        "xdpfrag {}, process {}, forwarding for {:.1} s{unit}",
        snapshot.version, snapshot.pid, snapshot.uptime_s
    );
    let mut out = wrapped(&head, (0, 2));
    if style.live {
        unserved(&mut out, snapshot, style);
    }
    if snapshot.idents_reused > 0 {
        let reused = grouped(snapshot.idents_reused);
        let _ = writeln!(out, "IPv4 identifications used again within 30 s: {reused}");
    }
    for (position, interface) in snapshot.interfaces.iter().enumerate() {
        let since = style.since.and_then(|since| {
            let seconds = snapshot.uptime_s - since.uptime_s;
            since.interfaces.get(position).filter(|_| seconds > 0.0).map(|before| (before, seconds))
        });
        let InterfaceSnapshot { name, mode, handback, .. } = interface;
        let _ = writeln!(out, "\n{name}: {mode} XDP, hand-back {handback}");
        if !style.live {
            scope::write(&mut out, interface, None);
        }
        counters(&mut out, interface, since, style.zeros);
        workers(&mut out, interface, since);
        deaf(&mut out, interface);
        match since {
            None => latency(&mut out, &interface.workers),
            Some((before, _)) => recent_latency(&mut out, interface, before),
        }
        if style.live && !(interface.routes.is_empty() && interface.exceptions.is_empty() && !interface.auto)
        {
            out.push_str("\nSCOPE\n");
            scope::write(&mut out, interface, Some(SCOPE_SHOWN));
        }
    }
    if !style.live {
        unserved(&mut out, snapshot, style);
    }
    out
}

/// One line that sums up what was lost or left to the kernel, if anything was: all of it, or since an earlier snapshot.
fn unserved(out: &mut String, snapshot: &Snapshot, Style { since, live, .. }: Style<'_>) {
    let before = since.map(Snapshot::unserved).unwrap_or_default();
    let grown = snapshot.unserved().into_iter().filter_map(|(label, frames)| {
        let grown = frames.saturating_sub(count(&before, &label));
        (grown > 0).then(|| format!("{label}={}", grouped(grown)))
    });
    let grown: Vec<String> = grown.collect();
    if !grown.is_empty() {
        let within = since
            .map(|since| format!(" within {:.1} s", snapshot.uptime_s - since.uptime_s))
            .unwrap_or_default();
        let gap = if live { "" } else { "\n" };
        let _ = write!(out, "{gap}{}", wrapped(&format!("{UNSERVED}{within}: {}", grown.join(" ")), (0, 2)));
    }
}

/// How that line begins.
const UNSERVED: &str = "lost or not served";

/// True of a line of [`render`] that tells of frames or messages lost, or of frames that no worker served.
pub fn is_loss(line: &str) -> bool {
    if line.starts_with(UNSERVED) {
        return true;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        // That line goes on.
        [first, ..] if first.contains('=') => true,
        [queue, _, state, _, _, not_queued, _, _] if WORKER_STATES.contains(state) => {
            queue.parse::<u32>().is_ok() && (*not_queued != "0" || *state == ENDED)
        }
        // With --all counters that are zero are shown, too.
        [counter, xdp, workers, ..] => LOSSES.contains(counter) && (*xdp != "0" || *workers != "0"),
        _ => false,
    }
}

/// Counters of frames or messages lost, and of frames that no worker served.
const LOSSES: [&str; 6] = [
    Reason::NoWorker.label(),
    Reason::HandbackFull.label(),
    Reason::HandbackError.label(),
    Reason::Truncated.label(),
    Late::Lost.label(),
    NOTIFY_ERRORS,
];
const NOTIFY_ERRORS: &str = "notify_errors";

/// What a worker of the table is.
const ENDED: &str = "ended";
const WORKER_STATES: [&str; 3] = [ENDED, "copy", "zero-copy"];

/// An earlier state of the same interface, and how many seconds ago it was.
type Since<'a> = Option<(&'a InterfaceSnapshot, f64)>;

/// A total, or its growth per second.
fn cell(now: u64, since: Since<'_>, counter: impl Fn(&InterfaceSnapshot) -> u64) -> String {
    match since {
        None => grouped(now),
        Some((before, seconds)) => {
            let grown = now.saturating_sub(counter(before));
            match (grown as f64 / seconds).round() as u64 {
                // A loss now and then must not look like none.
                0 if grown > 0 => "<1".into(),
                rate => grouped(rate),
            }
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
    add(NOTIFY_ERRORS, "--notify: messages that the kernel refused", &|_| 0, &errors);
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
                (false, _) => WORKER_STATES[0].into(),
                (true, false) => WORKER_STATES[1].into(),
                (true, true) => WORKER_STATES[2].into(),
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

/// The same since an earlier snapshot; a percentile is the bound of its bucket.
fn recent_latency(out: &mut String, interface: &InterfaceSnapshot, before: &InterfaceSnapshot) {
    let mut table = table(&["LATENCY", "SAMPLES", "MEAN", "P50", "P90", "P99", "P99.9"]);
    for worker in &interface.workers {
        let earlier = before.workers.iter().find(|earlier| earlier.queue == worker.queue);
        let earlier = earlier.and_then(|worker| worker.latency.as_ref());
        let since = |latency: &Latency| latency.since(earlier);
        let Some(interval) = worker.latency.as_ref().map(since).filter(|interval| interval.count > 0) else {
            continue;
        };
        let at_most = |per_mille| match interval.at_most(per_mille) {
            Some(bound) => format!("<= {}", duration(bound)),
            None => format!("> {}", duration(Interval::BEYOND_NS)),
        };
        let mut row =
            vec![format!("queue {}", worker.queue), grouped(interval.count), duration(interval.mean_ns())];
        row.extend([500, 900, 990, 999].map(at_most));
        table.add_row(row);
    }
    align_right(&mut table, 1..7);
    if !table.is_empty() {
        let _ = write!(out, "\n{}", text(&table));
    }
}

#[cfg(test)]
mod tests;
