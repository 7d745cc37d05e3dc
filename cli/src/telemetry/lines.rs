//! Where log lines go: stderr, without characters of others that would steer a terminal or hide in
//! a name.

use std::io::{self, Write};

use wasmill_protocol::text::steers;

/// Stderr for log lines. Each write is a whole line, as the formatter makes it.
#[derive(Debug)]
pub(super) struct Lines<W>(W);

/// Makes one for each line.
pub(super) fn stderr() -> Lines<io::Stderr> {
    Lines(io::stderr())
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            // Control characters of others are escaped by the formatter already; those that are
            // left are its own colours.
            Ok(line) if !line.is_ascii() => {
                let shown = |c: char| if steers(c) && !c.is_ascii() { '?' } else { c };
                self.0.write_all(line.chars().map(shown).collect::<String>().as_bytes())?;
            }
            _ => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c30_names_in_log_lines_do_not_steer_the_terminal() {
        let mut out = Vec::new();
        let line = "\u{1b}[32m INFO\u{1b}[0m removed alias=evil\u{202e}gnp\u{200b} größe\n";
        Lines(&mut out).write_all(line.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\u{1b}[32m INFO\u{1b}[0m removed alias=evil?gnp? größe\n");
    }
}
