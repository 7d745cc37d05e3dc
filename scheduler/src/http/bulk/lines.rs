//! Cutting a body into lines.

use bytes::{Bytes, BytesMut};

use crate::http::body::MemoryTaken;
use crate::http::problem::{Code, Fault, Handled};

/// Cuts chunks into lines; what is left of a chunk begins the next line. Blank lines are counted and passed over.
pub(super) struct Lines {
    partial: BytesMut,
    /// Whether the rest of a line that is too long is being passed over.
    skipping: bool,
    number: u64,
    line_bytes_max: u64,
    memory: MemoryTaken,
}

/// One line without its end, or why it is not taken.
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    /// The text.
    pub(super) text: Handled<Bytes>,
}

impl Lines {
    /// Nothing was read yet.
    pub(super) fn new(line_bytes_max: u64, memory: MemoryTaken) -> Self {
        Self { partial: BytesMut::new(), skipping: false, number: 0, line_bytes_max, memory }
    }

    /// The number of the last line.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of the line that is not whole yet.
    pub(super) fn partial(&self) -> usize {
        self.partial.len()
    }

    /// The next line that ends in `chunk` at or after `begin`, and where it ends. The last, unfinished one is kept.
    ///
    /// # Errors
    ///
    /// When there is no memory for the unfinished line.
    pub(super) fn next(&mut self, chunk: &Bytes, mut begin: usize) -> Handled<Option<(Line, usize)>> {
        loop {
            let Some(length) = chunk[begin..].iter().position(|&byte| byte == b'\n') else {
                self.keep(&chunk[begin..])?;
                return Ok(None);
            };
            let end = begin + length + 1;
            let piece = chunk.slice(begin..end - 1);
            begin = end;
            let text = self.complete(piece);
            self.number += 1;
            if !matches!(&text, Ok(text) if is_blank(text)) {
                return Ok(Some((Line { number: self.number, text }, end)));
            }
        }
    }

    /// The last line, when the body does not end with a line end.
    pub(super) fn rest(&mut self) -> Option<Line> {
        if !self.skipping && is_blank(&self.partial) {
            return None;
        }
        let text = self.complete(Bytes::new());
        self.number += 1;
        Some(Line { number: self.number, text })
    }

    fn complete(&mut self, piece: Bytes) -> Handled<Bytes> {
        if std::mem::take(&mut self.skipping) || (self.partial.len() + piece.len()) as u64 > self.line_bytes_max {
            self.partial.clear();
            let detail = format!("the line is over the limit of {} bytes", self.line_bytes_max);
            return Err(Fault::new(Code::BodyTooLarge, detail).limit(self.line_bytes_max));
        }
        if self.partial.is_empty() {
            return Ok(piece);
        }
        self.partial.extend_from_slice(&piece);
        Ok(self.partial.split().freeze())
    }

    fn keep(&mut self, piece: &[u8]) -> Handled<()> {
        if self.skipping {
            return Ok(());
        }
        if (self.partial.len() + piece.len()) as u64 > self.line_bytes_max {
            self.partial = BytesMut::new();
            self.skipping = true;
            return Ok(());
        }
        self.memory.grow((self.partial.len() + piece.len()) as u64 * 2)?;
        self.partial.extend_from_slice(piece);
        Ok(())
    }
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::BodyMemory;

    /// Feeds `chunks` and gives back what comes out, in words.
    fn cut(chunks: &[&'static str], line_bytes_max: u64) -> Vec<String> {
        let mut lines = Lines::new(line_bytes_max, BodyMemory::new(u64::MAX).nothing());
        let mut found = Vec::new();
        let mut show = |line: Line| {
            let text = match line.text {
                Ok(text) => String::from_utf8(text.to_vec()).unwrap(),
                Err(fault) => fault.code().as_str().to_owned(),
            };
            found.push(format!("{}:{text}", line.number));
        };
        for chunk in chunks {
            let (chunk, mut begin) = (Bytes::from_static(chunk.as_bytes()), 0);
            while let Some((line, end)) = lines.next(&chunk, begin).unwrap() {
                begin = end;
                show(line);
            }
        }
        lines.rest().into_iter().for_each(show);
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
        let expected = ["1:ab", "2:body_too_large", "3:cd"];
        assert_eq!(cut(&["ab\n", "123", "456", "789\n", "cd\n"], 4), expected);
        assert_eq!(cut(&["ab\n123456\ncd"], 4), expected);
        assert_eq!(cut(&["12345"], 4), ["1:body_too_large"]);
    }
}
