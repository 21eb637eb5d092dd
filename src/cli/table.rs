//! Tables for people.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};

/// A table with this header; columns whose flag is set hold numbers and lean to the right.
pub(super) fn table(header: &[(String, bool)], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(header.iter().map(|(name, _)| name));
    for row in rows {
        table.add_row(row.into_iter().zip(header).map(|(text, (_, right))| {
            Cell::new(text).set_alignment(if *right { CellAlignment::Right } else { CellAlignment::Left })
        }));
    }
    table
}

/// Formats a table whose columns are all text.
pub(super) fn text_table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let header: Vec<_> = header.iter().map(|name| ((*name).to_owned(), false)).collect();
    table(&header, rows)
}
