//! Cutting the body of a bulk submission into lines.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

/// Cuts chunks into lines; what is left of a chunk begins the next line. Blank lines are counted
/// and passed over.
///
/// It never holds more than one line, and no more of that than is allowed.
#[derive(Debug)]
pub struct Lines {
    partial: BytesMut,
    /// Whether the rest of a line that is too long is being passed over.
    skipping: bool,
    number: u64,
    line_bytes_max: u64,
}

/// One line without its end, or why it is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1.
    pub number: u64,
    /// The text.
    pub text: Result<Bytes, LineTooLong>,
}

/// A line has more bytes than are allowed; the ones after it are fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the line is over the limit of {bytes_max} bytes")]
pub struct LineTooLong {
    /// Bytes of one line at most.
    pub bytes_max: u64,
}

/// The next piece of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// A line, and where in the chunk it ends.
    Line(Line, usize),
    /// From here on there is no whole line: to be given to [`Lines::keep`].
    Rest(usize),
}

impl Lines {
    /// Nothing was read yet.
    pub fn new(line_bytes_max: u64) -> Self {
        Self { partial: BytesMut::new(), skipping: false, number: 0, line_bytes_max }
    }

    /// The number of the last line.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of the line that is not whole yet.
    pub fn partial(&self) -> usize {
        self.partial.len()
    }

    /// The next line that ends in `chunk` at or after `begin`.
    pub fn next(&mut self, chunk: &Bytes, mut begin: usize) -> Cut {
        loop {
            let Some(length) = memchr::memchr(b'\n', &chunk[begin..]) else {
                return Cut::Rest(begin);
            };
            let end = begin + length + 1;
            let piece = chunk.slice(begin..end - 1);
            begin = end;
            let text = self.complete(piece);
            self.number += 1;
            if !matches!(&text, Ok(text) if is_blank(text)) {
                return Cut::Line(Line { number: self.number, text }, end);
            }
        }
    }

    /// Bytes that are held after [`Lines::keep`] of this, for those who must make room first.
    pub fn bytes_with(&self, rest: &[u8]) -> u64 {
        if self.skipping || self.is_too_long(rest) { 0 } else { (self.partial.len() + rest.len()) as u64 }
    }

    /// Keeps the beginning of a line until the rest of it comes.
    pub fn keep(&mut self, rest: &[u8]) {
        if self.skipping {
            return;
        }
        if self.is_too_long(rest) {
            self.partial = BytesMut::new();
            self.skipping = true;
            return;
        }
        self.partial.extend_from_slice(rest);
    }

    /// The last line, when the body does not end with a line end.
    pub fn finish(&mut self) -> Option<Line> {
        if !self.skipping && is_blank(&self.partial) {
            return None;
        }
        let text = self.complete(Bytes::new());
        self.number += 1;
        Some(Line { number: self.number, text })
    }

    fn complete(&mut self, piece: Bytes) -> Result<Bytes, LineTooLong> {
        if std::mem::take(&mut self.skipping) || self.is_too_long(&piece) {
            self.partial.clear();
            return Err(LineTooLong { bytes_max: self.line_bytes_max });
        }
        if self.partial.is_empty() {
            return Ok(piece);
        }
        self.partial.extend_from_slice(&piece);
        Ok(self.partial.split().freeze())
    }

    fn is_too_long(&self, piece: &[u8]) -> bool {
        (self.partial.len() + piece.len()) as u64 > self.line_bytes_max
    }
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `chunks` and gives back what comes out, in words.
    fn cut(chunks: &[&'static str], line_bytes_max: u64) -> Vec<String> {
        let mut lines = Lines::new(line_bytes_max);
        let mut found = Vec::new();
        let mut show = |line: Line| {
            let text = line.text.map_or("too long".to_owned(), |text| String::from_utf8(text.to_vec()).unwrap());
            found.push(format!("{}:{text}", line.number));
        };
        for chunk in chunks {
            let (chunk, mut begin) = (Bytes::from_static(chunk.as_bytes()), 0);
            loop {
                match lines.next(&chunk, begin) {
                    Cut::Line(line, end) => {
                        begin = end;
                        show(line);
                    }
                    Cut::Rest(rest) => break lines.keep(&chunk[rest..]),
                }
            }
        }
        lines.finish().into_iter().for_each(show);
        found
    }

    #[test]
    fn lines_do_not_depend_on_chunks() {
        let expected = ["1:ab", "3:cd\r", "4:e"];
        assert_eq!(cut(&["ab\n\ncd\r\ne"], 10), expected);
        assert_eq!(cut(&["a", "b\n", "\nc", "d\r", "\n", "e", ""], 10), expected);
        assert!(cut(&["\n\n", " \n"], 10).is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_spoils_no_other() {
        let expected = ["1:ab", "2:too long", "3:cd"];
        assert_eq!(cut(&["ab\n", "123", "456", "789\n", "cd\n"], 4), expected);
        assert_eq!(cut(&["ab\n123456\ncd"], 4), expected);
        assert_eq!(cut(&["12345"], 4), ["1:too long"]);
    }
}
