//! Formats text for a person: aligned columns, bars and shares. PURE.

use std::fmt::Write;

/// How wide a bar of 100 % is, in characters.
const BAR_CHARS: u64 = 20;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows of cells that become aligned columns.
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these columns. If a name starts with `>`, its column is aligned right.
    #[must_use]
    pub fn new(columns: &[&str]) -> Self {
        let align = |name: &&str| if name.starts_with('>') { Align::Right } else { Align::Left };
        let names = columns.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        Self { columns: columns.iter().map(align).collect(), rows: vec![names] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Returns the text, with each line indented.
    #[must_use]
    pub fn render(&self, indent: &str) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for ((cell, &width), align) in row.iter().zip(&widths).zip(&self.columns) {
                // Writing to a String cannot fail.
                let _ = match align {
                    Align::Left => write!(line, "{cell:width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Returns a bar for `part` of `whole`, in eighths of a character.
pub(super) fn bar(part: u64, whole: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let length = scaled(part, whole, BAR_CHARS * 8);
    let (full, rest) = (usize::try_from(length / 8).unwrap_or(0), usize::try_from(length % 8).unwrap_or(0));
    // Show at least one eighth for a part that is not 0.
    let rest = if length == 0 && part > 0 { EIGHTHS[1] } else { EIGHTHS[rest] };
    "█".repeat(full) + rest
}

/// Returns `part` of `whole` in percent, with one decimal.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let tenths = scaled(part, whole, 1000);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Returns `part / whole * scale`, rounded; 0 if `whole` is 0.
fn scaled(part: u64, whole: u64, scale: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    let (part, whole, scale) = (u128::from(part), u128::from(whole), u128::from(scale));
    u64::try_from((part * scale + whole / 2) / whole).unwrap_or(u64::MAX)
}

/// Returns a count with its noun: "1 backend", "2 backends".
pub(super) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_not_padded() {
        let mut table = Table::new(&["NAME", ">N", "WHAT"]);
        table.row(["a".into(), "10".into(), "x".into()]);
        table.row(["long".into(), "9".into(), String::new()]);
        assert_eq!(table.render("  "), "  NAME   N  WHAT\n  a     10  x\n  long   9\n");
    }

    #[test]
    fn bars_and_shares_are_in_proportion() {
        assert_eq!(bar(1, 1), "█".repeat(20));
        assert_eq!(bar(1, 40), "▌");
        assert_eq!(bar(0, 40), "");
        assert_eq!(bar(1, 1_000_000), "▏");
        assert_eq!(bar(0, 0), "");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0 %");
        assert_eq!(percent(0, 0), "0.0 %");
    }
}
