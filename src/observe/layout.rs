//! How tables look: aligned columns without borders, readable in a log and on 80 columns.

use comfy_table::{ContentArrangement, Table, presets};

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

/// The lines of `table` without the blanks at their ends.
pub fn text(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
