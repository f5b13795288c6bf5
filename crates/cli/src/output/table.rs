//! Markdown tables and human sizes.

use std::fmt;

use super::printable;

/// Alignment of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table that prints as aligned Markdown.
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these column heads.
    pub fn new<S: AsRef<str>>(columns: &[(S, Align)]) -> Self {
        let columns =
            columns.iter().map(|(head, align)| (printable::line(head.as_ref()).into_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; missing cells stay empty. A cell is one line, whatever is in it.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        self.rows.push(cells.into_iter().map(|cell| printable::line(cell.as_ref()).into_owned()).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, (head, _))| {
                let cells = self.rows.iter().map(|row| row.get(i).map_or(0, |cell| cell.chars().count()));
                cells.max().unwrap_or(0).max(head.chars().count()).max(3)
            })
            .collect();
        let line = |f: &mut fmt::Formatter<'_>, cells: &dyn Fn(usize) -> String| -> fmt::Result {
            for (i, (_, align)) in self.columns.iter().enumerate() {
                let cell = cells(i);
                match align {
                    Align::Left => write!(f, "| {cell:<width$} ", width = widths[i])?,
                    Align::Right => write!(f, "| {cell:>width$} ", width = widths[i])?,
                }
            }
            writeln!(f, "|")
        };
        line(f, &|i| self.columns[i].0.clone())?;
        line(f, &|i| match self.columns[i].1 {
            Align::Left => "-".repeat(widths[i]),
            Align::Right => "-".repeat(widths[i] - 1) + ":",
        })?;
        for row in &self.rows {
            line(f, &|i| row.get(i).cloned().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// A size in decimal units: "98.4 MB".
pub fn bytes(size: u64) -> String {
    match size {
        0..1_000 => format!("{size} B"),
        1_000..1_000_000 => format!("{:.1} kB", size as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", size as f64 / 1e6),
        _ => format!("{:.2} GB", size as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("name", Align::Left), ("n", Align::Right)]);
        table.row(["q_proj", "12"]);
        assert_eq!(table.to_string(), "| name   |   n |\n| ------ | --: |\n| q_proj |  12 |\n");
        table.row(["a\n\u{1b}", "3"]);
        assert!(table.to_string().ends_with("| a\\n\\u{1b} |   3 |\n"), "{table}");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(98_362_432), "98.4 MB");
        assert_eq!(bytes(2_471_000_000), "2.47 GB");
    }
}
