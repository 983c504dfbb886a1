//! How tables and numbers look: aligned columns without borders, readable in a log and on 80 columns.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Widest table, in columns.
const WIDTH: u16 = 80;

/// An empty table with this header.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Aligns these columns to the right, as numbers are.
pub fn align_right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The lines of `table` without the blanks at their ends.
pub fn text(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// `text` with line ends between its words where a line would be wider than a table; the first line and the others
/// begin with so many blanks.
pub fn wrapped(text: &str, (first, others): (usize, usize)) -> String {
    let (mut out, mut column) = (" ".repeat(first), first);
    for (place, word) in text.split_whitespace().enumerate() {
        let width = word.chars().count();
        if place > 0 && column + 1 + width > usize::from(WIDTH) {
            out.push('\n');
            out.push_str(&" ".repeat(others));
            column = others;
        } else if place > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    out.push('\n');
    out
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Nanoseconds in the unit that leaves one to three digits before the point.
pub fn duration(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value / 1e6),
        _ => format!("{:.1} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn long_lines_are_wrapped_between_words() {
        assert_eq!(wrapped("to here", (2, 6)), "  to here\n");
        let [one, two] = ["1".repeat(40), "2".repeat(38)];
        assert_eq!(wrapped(&format!("{one} {two}"), (1, 2)), format!(" {one} {two}\n"));
        assert_eq!(wrapped(&format!("{one} {two} 3"), (2, 4)), format!("  {one}\n    {two} 3\n"));
    }

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(
            [850, 17_240, 1_300_000, 2_000_000_000].map(duration),
            ["850 ns", "17.2 us", "1.3 ms", "2.0 s"]
        );
    }
}
