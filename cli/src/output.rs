//! Output on stdout: tables, lists of fields, and the answers themselves.

use std::io::{self, BufWriter, IsTerminal, Write};

use wasmill_protocol::text::{printable_lines, steers};

use crate::failure::Failure;

pub(crate) use wasmill_protocol::text::printable;

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

/// Writes what the server answered, with a newline at the end. For a terminal, characters that
/// would steer it are escaped, which JSON reads as the same.
pub(crate) fn print_json(body: &[u8]) -> Result<(), Failure> {
    let mut out = stdout();
    match std::str::from_utf8(body) {
        Ok(text) if io::stdout().is_terminal() => out.write_all(escaped(text.trim_end()).as_bytes())?,
        _ => out.write_all(body.trim_ascii_end())?,
    }
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// JSON in which no character steers a terminal: outside of strings there can be none but white
/// space.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if steers(c) && !c.is_ascii_whitespace() {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    text
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

/// Says something to a person, on stderr, with a newline. A reader of stderr who has gone away is
/// no reason to stop.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable_lines(text));
}

/// Passes on what a guest wrote to stderr, as it is.
pub(crate) fn pass_on(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
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
    fn c30_cells_do_not_steer_the_terminal() {
        let mut table = Table::new(["NAME"]);
        table.row(["evil\u{202e}gnp.exe\u{200b}".into()]);
        assert_eq!(table.render(), "NAME\nevil?gnp.exe?\n");
    }

    #[test]
    fn c30_json_for_a_terminal_is_the_same_json() {
        let json = "{\n\t\"a\u{202e}\": \"\u{9b}31m \u{e0041} ü \\u0007\"\n}";
        let shown = escaped(json);
        assert_eq!(shown, "{\n\t\"a\\u202e\": \"\\u009b31m \\udb40\\udc41 ü \\u0007\"\n}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(json), value(&shown));
    }
}
