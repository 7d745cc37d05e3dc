//! What goes to stdout: tables, lists of fields, and the answers themselves.

use std::io::{self, BufWriter, IsTerminal, Write};

use crate::failure::Failure;

/// Buffered stdout. Every write can end the command quietly when the reader has gone away.
pub(crate) fn stdout() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::new(io::stdout().lock())
}

/// Writes bytes as they are.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = stdout();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes a text and a newline.
pub(crate) fn print_line(text: &str) -> Result<(), Failure> {
    let mut out = stdout();
    writeln!(out, "{}", printable(text))?;
    Ok(out.flush()?)
}

/// Writes what the server answered, with a newline at the end.
pub(crate) fn print_json(body: &[u8]) -> Result<(), Failure> {
    let mut out = stdout();
    out.write_all(body.trim_ascii_end())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Columns that are as wide as their widest cell; the last one is not padded.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new<const COLUMNS: usize>(heads: [&str; COLUMNS]) -> Self {
        Self { rows: vec![heads.map(str::to_owned).to_vec()] }
    }

    /// Adds a row.
    pub(crate) fn row<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        debug_assert_eq!(COLUMNS, self.rows[0].len());
        self.rows.push(cells.map(|cell| printable(&cell)).to_vec());
    }

    /// The table as text, a newline after every row.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Writes the table to stdout.
    pub(crate) fn print(&self) -> Result<(), Failure> {
        print_bytes(self.render().as_bytes())
    }
}

/// `name: value` lines, aligned; fields without a value are left out.
pub(crate) fn print_fields(fields: &[(&str, Option<String>)]) -> Result<(), Failure> {
    let width = fields.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let mut out = stdout();
    for (name, value) in fields {
        if let Some(value) = value {
            let head = format!("{name}:");
            writeln!(out, "{head:width$}  {}", printable(value))?;
        }
    }
    Ok(out.flush()?)
}

/// Text that other people wrote (names, messages of guests) must not steer the terminal: control characters are shown as `?`,
/// line breaks as blanks.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_whitespace() {
                ' '
            } else if c.is_control() {
                '?'
            } else {
                c
            }
        })
        .collect()
}

/// Whether a person watches stderr, so that a progress bar is welcome.
pub(crate) fn has_watcher() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["ID", "STATE"]);
        table.row(["1".into(), "succeeded".into()]);
        table.row(["größer".into(), String::new()]);
        assert_eq!(table.render(), "ID      STATE\n1       succeeded\ngrößer\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mred\r\n\tb"), "a?[31mred   b");
    }
}
