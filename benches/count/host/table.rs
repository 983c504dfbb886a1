//! The table, in Markdown.

use std::fmt::Write as _;

use super::Row;

/// Columns: accounts that are added up, and what they are called.
const COLUMNS: [(&str, &[&str]); 9] = [
    ("sender", &["sender"]),
    ("gateway 1, before ESP", &["gateway1"]),
    ("worker", &["daemon"]),
    ("live frames", &["live"]),
    ("ESP", &["esp"]),
    ("after ESP", &["after"]),
    ("gateway 2", &["gateway2"]),
    ("receiver", &["receiver"]),
    // Between two devices, interrupts of an idle CPU, the kernel's own threads, the bench.
    ("rest", &["softirq", "none", "bench", "verifier"]),
];

/// One line for each row that is traffic, then those that are not.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let (life, traffic): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.record.row.starts_with("life/"));
    let mut text = String::from("| row | all |");
    COLUMNS.iter().for_each(|(name, _)| text.push_str(&format!(" {name} |")));
    text.push_str(" WAN packets | WAN bytes | ESP in fragments | reassembled by gateway 2 | by host | spread, % |\n|---|");
    text.push_str(&"---|".repeat(COLUMNS.len() + 7));
    text.push('\n');
    for row in traffic {
        let each = |count: u64| count as f64 / row.record.delivered as f64;
        let _ = write!(text, "| {} | {:.0} |", row.record.row, row.each());
        for (_, owners) in COLUMNS {
            let own: u64 = owners.iter().map(|owner| row.run().of(owner)).sum();
            let _ = write!(text, " {:.0} |", each(own));
        }
        let [gateway, host] = row.record.reassembled.map(each);
        let [packets, bytes] = row.record.wan.map(each);
        let fragments = each(row.record.esp_fragments);
        let spread = row.spread();
        let _ = writeln!(
            text,
            " {packets:.2} | {bytes:.0} | {fragments:.2} | {gateway:.2} | {host:.2} | {spread:.2}{} |",
            if row.record.spins { " (spins)" } else { "" }
        );
    }
    if !life.is_empty() {
        text.push_str("\n| what | all, million | verifier | xdpfrag and what it starts | rest | spread, % |\n|---|---|---|---|---|---|\n");
        for row in life {
            let million = |instructions: u64| instructions as f64 / 1e6;
            let run = row.run();
            let [all, verifier, daemon] = [run.total(), run.of("verifier"), run.of("daemon")];
            let _ = writeln!(
                text,
                "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
                row.record.row.trim_start_matches("life/"),
                million(all),
                million(verifier),
                million(daemon),
                million(all - verifier - daemon),
                row.spread()
            );
        }
    }
    text
}

/// Ratios of each row to the same by the other binary.
pub(crate) fn ratios(rows: &[Row]) -> String {
    let mut text = String::from("| row | this | the other | ratio |\n|---|---|---|---|\n");
    for row in rows {
        let other = format!("{}@against", row.record.row);
        if let Some(other) = rows.iter().find(|row| row.record.row == other) {
            let (this, that) = (row.each(), other.each());
            let _ = writeln!(text, "| {} | {this:.0} | {that:.0} | {:.3} |", row.record.row, this / that);
        }
    }
    text
}

/// The functions that make up at least `least` per cent of a row.
pub(crate) fn functions(row: &Row, least: f64) -> String {
    let cost = row.cost();
    let mut all: Vec<_> = cost.functions.iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(a.1));
    let mut text = format!("{}: {:.0}\n", row.record.row, cost.instructions);
    for (function, own) in all.into_iter().filter(|(_, own)| **own * 100.0 >= least * cost.instructions) {
        let _ = writeln!(text, "  {own:>10.0}  {:>5.1} %  {function}", 100.0 * own / cost.instructions);
    }
    text
}
